"""The registry of data sets, by name."""

import contextlib
import shlex
from dataclasses import replace
from pathlib import Path

from backbench import UsageError, UserError, printable, suggest
from backbench.data import decode, groups, hf, layouts, levels, sources, table, wds
from backbench.data.imageset import ImageSet
from backbench.progress import step

KINDS = {
    "folder:PATH": layouts.folder,
    "wds:PATH": wds.load,
    "hf:PATH": hf.load,
    "table:PATH": table.load,
}
"""Names for a user's own images, and the functions that list them: ``load(name, *, seed, exif)``."""


def names() -> list[str]:
    """Return the registered names, the published study's first. Names of KINDS can be loaded too."""
    return list(sources.SETS)


def check(*given: str) -> None:
    """Raise UsageError where a name isn't registered. It lists every such name with its near matches."""
    if unknown := [name for name in given if not (name in sources.SETS or _kind(spelled(name)))]:
        known = f"Known: {', '.join(names())}; {', '.join(KINDS)}."
        raise UsageError(*(f"no data set is named {name!r}.{_hint(name)} {known}" for name in unknown))


def spelled(name: str) -> str:
    """Return ``folder:PATH`` for an existing folder that is no registered name, and other names as they are."""
    with contextlib.suppress(OSError, ValueError):
        if not (name in sources.SETS or _kind(name)) and Path(name).expanduser().is_dir():
            return f"folder:{name}"
    return name


def _hint(name: str) -> str:
    with contextlib.suppress(OSError, ValueError):
        if Path(name).expanduser().is_file():
            kind = {".tar": "wds", ".parquet": "hf", ".arrow": "hf", ".csv": "table", ".tsv": "table"}
            as_kind = kind.get(Path(name).suffix.lower())
            how = f"Name it as {as_kind}:{name}." if as_kind else "A folder of class folders is expected."
            return f" It is a file. {how}"
    return suggest(name, names())


def _kind(name: str):
    return next((load for kind, load in KINDS.items() if name.startswith(kind.removesuffix("PATH"))), None)


def load(name: str, *, data_root: str | Path, seed: int = 42, download: bool = False, exif: str = "ignore") -> ImageSet:
    """List and split a data set by name. Of images on disk, only those of more than 8 bits of grey are decoded.

    ``seed`` decides which image is in which split. ``exif`` ('ignore' or 'apply') decides how images with an
    orientation tag are turned. ``download=True`` downloads a data set that isn't present.

    Raises UsageError for an unknown name, and UserError for a data set that isn't present, can't be read or can't be
    split.
    """
    check(name)
    name = spelled(name)
    if exif not in decode.EXIF:
        raise UsageError(f"exif={exif!r}: {' or '.join(decode.EXIF)} is expected")
    with step(f"listing the images of {printable(name)}"):
        return _listed(name, Path(data_root), seed=seed, download=download, exif=exif)


def _listed(name: str, data_root: Path, *, seed: int, download: bool, exif: str) -> ImageSet:
    if kind := _kind(name):
        return groups.told(levels.decided(kind(name, seed=seed, exif=exif)), name)
    source = sources.SETS[name]
    found = source.find(data_root)
    if found is None and source.places:
        if not (download and source.has_download):
            raise UserError(missing(name, data_root))
        from backbench.data import downloads

        found = downloads.get(name, data_root)
    loaded = levels.decided(source.load(name, found, seed=seed, exif=exif))
    here = Path(name).resolve()
    if here.is_dir() and not (loaded.root and loaded.root.resolve().is_relative_to(here)):
        beside = f"The registered data set was taken, and not the folder {name}/, which is folder:{name}."
        loaded = replace(loaded, notes=(*loaded.notes, beside))
    return loaded


def there(name: str, data_root: str | Path) -> bool:
    """Whether a registered data set is present, under ``data_root`` or in a package."""
    source = sources.SETS[name]
    return not source.places or source.find(Path(data_root)) is not None


def missing(name: str, data_root: Path) -> str:
    """Return the error for a data set that ``data_root`` lacks: where it was looked for, and how to get it."""
    source = sources.SETS[name]
    looked = f"{name} is not there. backbench looked for {', '.join(str(data_root / one) for one in source.places)}."
    if source.has_download:
        command = f"backbench data download {name} --data-root {shlex.quote(str(data_root))}"
        return f"{looked} Get it with: {command} (or extract --dataset {name} --download)"
    if source.made_by:
        return f"{looked} Build it with: {source.made_by} --data-root {shlex.quote(str(data_root))}"
    return f"{looked} It has no public download: put its class folders there, or name its parent with --data-root"
