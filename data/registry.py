"""The one list of image sets, by name."""

import shlex
from pathlib import Path

from backbench import UsageError, UserError, suggest
from backbench.data import decode, hf, sources, wds
from backbench.data.imageset import ImageSet

KINDS = {
    "folder:PATH": sources.folder,
    "wds:PATH": wds.load,
    "hf:PATH": hf.load,
}
"""Names of anybody's own images, and what lists them: ``load(name, *, seed, exif)``."""


def names() -> list[str]:
    """The registered names, the study's first. What KINDS says are names too."""
    return list(sources.SETS)


def check(*given: str) -> None:
    """Raise UsageError that lists every name which isn't registered, with those near to it."""
    unknown = [name for name in given if not (name in sources.SETS or _kind(name))]
    if unknown:
        known = f"Known: {', '.join(names())}; {', '.join(KINDS)}."
        raise UsageError(*(f"no image set is named {name!r}.{suggest(name, names())} {known}" for name in unknown))


def _kind(name: str):
    return next((load for kind, load in KINDS.items() if name.startswith(kind.removesuffix("PATH"))), None)


def load(name: str, *, data_root: str | Path, seed: int = 42, download: bool = False, exif: str = "ignore") -> ImageSet:
    """List and split a set by name; no picture of a set on disk is decoded.

    ``seed`` decides who is in which split, ``exif`` ('ignore' or 'apply') how pictures with an orientation tag are
    turned. ``download=True`` gets a set that isn't there. Raises UsageError for an unknown name and UserError for a
    set that isn't there, can't be read or can't be split.
    """
    check(name)
    if exif not in decode.EXIF:
        raise UsageError(f"exif={exif!r}: {' or '.join(decode.EXIF)} is expected")
    if kind := _kind(name):
        return kind(name, seed=seed, exif=exif)
    source = sources.SETS[name]
    data_root = Path(data_root)
    found = source.find(data_root)
    if found is None and source.places:
        if not (download and source.has_download):
            raise UserError(missing(name, data_root))
        from backbench.data import downloads

        found = downloads.get(name, data_root)
    return source.load(name, found, seed=seed, exif=exif)


def there(name: str, data_root: str | Path) -> bool:
    """Whether a registered set lies under ``data_root``, or in a package."""
    source = sources.SETS[name]
    return not source.places or source.find(Path(data_root)) is not None


def missing(name: str, data_root: Path) -> str:
    """What to tell a user whose ``data_root`` lacks the set: where it was looked for, and how to get it."""
    source = sources.SETS[name]
    looked = f"{name} is not there: looked for {', '.join(str(data_root / place) for place in source.places)}."
    if source.has_download:
        command = f"backbench data download {name} --data-root {shlex.quote(str(data_root))}"
        return f"{looked} Get it with: {command} (or extract --dataset {name} --download)"
    if source.made_by:
        return f"{looked} Build it with: {source.made_by} --data-root {shlex.quote(str(data_root))}"
    return f"{looked} It has no public download: put its class folders there, or name its parent with --data-root"
