"""Images without labels, for a trained model to classify: folders, files, patterns, and shards."""

import glob
import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from backbench import Faults, UsageError, UserError
from backbench.data import decode, formats, hf, levels, listing, notes, registry, splits, wds
from backbench.data.imageset import ImageSet

SHARDS = {"wds": wds.load, "hf": hf.load}
"""Kinds of shards, and what lists them."""

STDIN = "-"
"""Stands for paths that are read from standard input, one in a line."""

NEW = "new-"
"""What the name of such a set begins with, unless it is a registered data set or a table."""

SHOWN = 20
"""Number of places that an error names."""


def images(given: Sequence[str], *, exif: str, data_root: Path, lines: Iterable[str] = (), seed: int = 42) -> ImageSet:
    """List the images at the places ``given``, whether their classes are known or not. All are in test.

    A place is a folder, which is searched with all below it; a file; a pattern such as ``photos/*.jpg``; or ``-``,
    which stands for the paths in ``lines``. ``wds:PATH``, ``hf:PATH``, ``table:PATH`` and the name of a registered data
    set under ``data_root``, split with ``seed``, stand alone. Each file is taken once, in the order given, and in
    folders by name.

    The class names are those of the folders that images lie in (``photos/cat/old``), which may say a class, see
    ``truth``; of shards and data sets their own. Raises UserError or UsageError with everything that is wrong.
    """
    if exif not in decode.EXIF:
        raise UsageError(f"exif={exif!r}: {' or '.join(decode.EXIF)} is expected")
    if not given:
        raise UsageError("no images are named: name a folder, files, or - for paths from standard input.")
    whole = [name for name in given if not _exists(name) and (":" in name or name in registry.names())]
    if len(given) == 1 and whole and "://" not in given[0] and not given[0].startswith("folder:"):
        return _data_set(given[0], exif=exif, data_root=data_root, seed=seed)
    places = [place.removeprefix("folder:") for place in given if place != STDIN]
    if STDIN in given:
        places += [line.rstrip("\r\n") for line in lines if line.strip()]
    found, faults = _Found(), Faults()
    for place in places:
        with faults.collect():
            found.add(place)
    if len(faults.errors) > SHOWN:
        more = f"and {len(faults.errors) - SHOWN:,} more"
        raise UserError(*(fault for error in faults.errors[:SHOWN] for fault in error.faults), more)
    faults.stop()
    return levels.decided(found.imageset(exif=exif))


class _Found:
    """Image files, each once: ``files`` maps their absolute paths to (id, folder that may say the class)."""

    def __init__(self):
        self.files: dict[str, tuple[str, str]] = {}
        self.folders: list[Path] = []
        self.notes: list[str] = []
        self.places: list[str] = []

    def add(self, place: str) -> None:
        path = os.path.expanduser(place)
        if "://" in place:
            raise UserError(f"{place} is an address: download the image, and name the file")
        if place.partition(":")[0] in SHARDS and not os.path.exists(path):
            raise UsageError(f"{place} stands alone: name no other images beside it")
        try:
            matches = [path] if os.path.lexists(path) else sorted(glob.glob(path, recursive=True))
        except (OSError, ValueError) as error:
            raise UserError(f"can't look at {place}: {getattr(error, 'strerror', error)}") from error
        if not matches:
            raise UserError(f"{place} does not exist: a folder, a file or a pattern such as 'photos/*.jpg' is expected")
        for match in matches:
            self.places.append(os.path.realpath(match))
            if os.path.isdir(match):
                self._folder(match)
            elif len(matches) == 1 or listing.ending(match) in formats.endings():
                self._file(match)

    def _file(self, path: str) -> None:
        ending = listing.ending(path)
        if kind := {"tar": "wds", "parquet": "hf", "arrow": "hf", "csv": "table", "tsv": "table"}.get(ending):
            raise UserError(f"{path} is no image: name it as {kind}:{path}, with nothing beside it")
        above = os.path.basename(os.path.dirname(os.path.abspath(path)))
        self.files.setdefault(os.path.abspath(path), (listing.text(os.path.normpath(path)), listing.text(above)))

    def _folder(self, path: str) -> None:
        below = listing.Found(Path(path))
        below.walk("")
        self.folders.append(Path(path))
        own = os.path.basename(os.path.realpath(path))
        for id, file, _ in sorted(below.images):
            above = f"{own}/{id}".rpartition("/")[0]
            self.files.setdefault(os.path.abspath(f"{path}/{file}"), (f"{os.path.normpath(path)}/{id}", above))
        self.notes += notes.passed_over(below)
        if below.dead:
            self.notes.append(f"{len(below.dead):,} links lead nowhere ({below.dead[0]}) and were passed over.")

    def imageset(self, *, exif: str) -> ImageSet:
        if not self.files:
            held = " and ".join(map(str, self.folders)) or "what was named"
            raise UserError(f"{held} holds no image that can be read", *self.notes)
        alone = len(self.folders) == len(self.places) == 1
        root = self.folders[0] if alone else Path(os.path.commonpath([os.path.dirname(path) for path in self.files]))
        ids = [id for id, _ in self.files.values()]
        if alone:
            ids = [id.removeprefix(f"{os.path.normpath(root)}/") for id in ids]
        if twice := {id for id in ids if ids.count(id) > 1} if len({*ids}) < len(ids) else ():
            raise UserError(*(f"two files are named {id!r} once written as NFC UTF-8: rename one" for id in twice))
        class_names = sorted({above for _, above in self.files.values()})
        code = {name: k for k, name in enumerate(class_names)}
        base = os.path.realpath(root)
        return ImageSet(
            _named(listing.text(os.path.basename(base)), self.places),
            split=np.full(len(ids), splits.TEST, np.int8),
            ids=ids,
            labels=np.array([code[above] for _, above in self.files.values()], np.int64),
            class_names=class_names,
            exif=exif,
            root=Path(base),
            files=[os.path.relpath(file, os.path.abspath(root)) for file in self.files],
            notes=tuple(self.notes),
        )


def _named(base: str, places: list[str]) -> str:
    """Return the name of the set at ``places``, which is another for other places of the same name."""
    digest = hashlib.sha256("\0".join(sorted(places)).encode(errors="surrogateescape")).hexdigest()
    return f"{NEW}{base}-{digest[:8]}"


def _data_set(name: str, *, exif: str, data_root: Path, seed: int) -> ImageSet:
    kind, _, place = name.partition(":")
    if kind not in SHARDS:
        return registry.load(name, data_root=data_root, seed=seed, exif=exif)
    found = SHARDS[kind](name, seed=0, exif=exif, labelled=False)
    return levels.decided(replace(found, name=_named(found.name, [os.path.realpath(place)])))


def _exists(place: str) -> bool:
    try:
        return os.path.lexists(os.path.expanduser(place))
    except ValueError:  # a NUL
        return False


def truth(imageset: ImageSet, classes: Sequence[str]) -> np.ndarray:
    """Return the number of each image's class among ``classes`` (N,), -1 where its folders name none of them.

    Of nested folders the innermost one that is named as a class counts.
    """
    number = {name: k for k, name in enumerate(classes)}

    def known(folder: str) -> int:
        parts = [folder, *reversed(folder.split("/"))]
        return next((number[part] for part in parts if part in number), -1)

    return np.array([known(name) for name in imageset.class_names], np.int64)[imageset.labels]
