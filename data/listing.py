"""Listing folders of images: their classes, their files and the files' sizes."""

import itertools
import os
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backbench import UserError

ENDINGS = frozenset({"jpg", "jpeg", "png", "bmp", "gif", "tif", "tiff", "webp", "ppm", "pgm"})
"""Endings of image files, in upper or lower case. Other files are ignored: Caltech-256 holds ``198.spider/RENAME2``."""


@dataclass(frozen=True)
class Listing:
    """Image files below a root, sorted by id."""

    root: Path
    ids: list[str]
    files: list[str]
    sizes: list[int]
    labels: np.ndarray
    class_names: list[str]


def folders(root: Path) -> list[str]:
    """Return the sorted names of folders in ``root``, without hidden ones. Links to folders count. Raises UserError."""
    with _scan(root) as entries:
        return sorted(e.name for e in entries if not _hidden(e.name) and e.is_dir())


def holds_images(root: Path) -> bool:
    """Whether an image file lies directly in ``root``."""
    with _scan(root) as entries:
        return any(_is_image(e.name) and e.is_file() for e in entries)


def class_folders(root: Path, *, prefixes: tuple[str, ...] = ("",), leave_out: frozenset[str] = frozenset()) -> Listing:
    """List ``root/<prefix><class>/**``. The classes are the union over prefixes (``train/``, ``test/``).

    Raises UserError for folders that can't be read, links that lead nowhere, and names that are equal once they are
    written as NFC UTF-8.
    """
    found: list[tuple[str, str, int, str]] = []  # id, file, bytes, class
    names: set[str] = set()
    dead: list[str] = []
    for prefix in prefixes:
        for folder in folders(root / prefix):
            if folder in leave_out:
                continue
            name = text(folder)
            names.add(name)
            for file, size in _images(f"{root}/{prefix}{folder}", f"{prefix}{folder}/", dead):
                found.append((text(file), file, size, name))
    found.sort()
    ids = [id for id, *_ in found]
    faults = [f"{text(name)} is a link that leads nowhere: repair or remove it" for name in sorted(dead)[:20]]
    faults += [
        f"two files are named {a!r} once written as NFC UTF-8: rename one" for a, b in itertools.pairwise(ids) if a == b
    ]
    if faults:
        raise UserError(*faults)
    class_names = sorted(names)
    code = {name: i for i, name in enumerate(class_names)}
    labels = np.array([code[name] for *_, name in found], np.int64)
    return Listing(root, ids, [f for _, f, _, _ in found], [s for _, _, s, _ in found], labels, class_names)


def text(name: str) -> str:
    """Return a file's name as valid UTF-8, the same on all systems: NFC, with ``\\xNN`` for bytes that aren't UTF-8."""
    if name.isascii():
        return name
    return unicodedata.normalize("NFC", os.fsencode(name).decode("utf-8", "backslashreplace"))


def _images(folder: str, prefix: str, dead: list[str]) -> list[tuple[str, int]]:
    """Return (path from the root, bytes) of each image in ``folder`` and the real folders below it.

    Links to files are followed. Links to folders aren't, since they could lead in circles.
    """
    images = []
    with _scan(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if not _hidden(entry.name):
                    images += _images(entry.path, f"{prefix}{entry.name}/", dead)
            elif _is_image(entry.name):
                if entry.is_file():
                    images.append((prefix + entry.name, entry.stat().st_size))
                elif entry.is_symlink() and not entry.is_dir():
                    dead.append(prefix + entry.name)
    return images


def _scan(folder):
    try:
        return os.scandir(folder)
    except OSError as error:
        raise UserError(f"can't read the folder {text(str(folder))}: {error.strerror}") from error


def _is_image(name: str) -> bool:
    stem, _, ending = name.rpartition(".")
    return bool(stem) and ending.lower() in ENDINGS and not name.startswith(".")


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"
