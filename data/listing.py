"""Listing folders of images: their files and sizes, and all that was passed over."""

import itertools
import os
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from backbench import UserError
from backbench.data import formats

PROGRAMS = frozenset({
    "@eadir", "@sharebin", "@tmp", "#recycle", "#snapshot", "lost+found", "__pycache__", "__macosx", "$recycle.bin",
    "recycler", "system volume information",
})  # fmt: skip
"""Folders, in lower case, in which other programs and systems keep their own files: thumbnails, waste, caches. Folders
whose names begin with a dot are such folders, too."""

SYSTEM_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini"})
"""Files, in lower case, that a system leaves in folders of images. Nobody misses them."""


@dataclass(frozen=True)
class Listing:
    """Image files below a root, sorted by id."""

    root: Path
    ids: list[str]
    files: list[str]
    sizes: list[int]
    labels: np.ndarray
    class_names: list[str]
    found: "Found"
    """Also what was passed over."""


@dataclass
class Found:
    """What lies below ``root``, by paths from there as text. All lists but ``images`` are what notes tell of."""

    root: Path
    images: list[tuple[str, str, int]] = field(default_factory=list)
    """(id, path for the operating system, bytes)."""
    folders: list[str] = field(default_factory=list)
    """All folders that were looked into."""
    passed: list[str] = field(default_factory=list)
    """Files that are no images by their names or, where they have no ending, by their first bytes."""
    programs: list[str] = field(default_factory=list)
    """Folders of other programs, which weren't looked into."""
    followed: list[str] = field(default_factory=list)
    """Links to folders that were followed."""
    again: list[str] = field(default_factory=list)
    """Links to folders that weren't followed: they lead to a folder above, or to one that was taken already."""
    loose: list[str] = field(default_factory=list)
    """Images that lie beside the class folders."""
    others: list[str] = field(default_factory=list)
    """Images in folders beside those of the splits."""
    empty: list[str] = field(default_factory=list)
    """Folders without an image beside the class folders."""
    dead: list[str] = field(default_factory=list)
    """Links with names of images that lead nowhere."""

    def inside(self, prefix: str = "") -> list[str]:
        """Return the sorted names of folders in ``root/prefix``, linked ones too. Images beside them become loose.

        Folders of other programs are noted, and left out. Raises UserError.
        """
        names = []
        with _scan(f"{self.root}/{prefix}") as entries:
            for entry in entries:
                at = text(f"{prefix}{entry.name}")
                if not entry.is_dir():
                    if entry.is_file() and _is_image(entry):
                        self.loose.append(at)
                    elif ending(entry.name) in formats.UNREAD:
                        self.passed.append(at)
                elif _is_program(entry.name):
                    self.programs.append(at)
                else:
                    names.append(entry.name)
        return sorted(names)

    def walk(self, top: str, *, on: Callable[[os.DirEntry, str], None] | None = None) -> None:
        """Look into the folder ``top`` (a path from the root, or "") and all below it, and give each file to ``on``.

        By default images are listed. Links to folders are followed after the real folders, each folder once, and never
        to a folder above. Raises UserError for folders that can't be read.
        """
        on = on or self._take
        real = os.path.realpath(f"{self.root}/{top}")
        root = os.path.realpath(self.root)
        seen = {str(place) for each in (root, real) for place in Path(each).parents} | ({root} if top else set())
        todo, links = [(top, real)], []
        while todo or links:
            if todo:
                at, real = todo.pop()
            else:
                links.sort(reverse=True)
                at = links.pop()
                real = os.path.realpath(f"{self.root}/{at}")
            if real in seen:
                self.again.append(text(at))
                continue
            seen.add(real)
            if os.path.islink(f"{self.root}/{at}"):
                self.followed.append(text(at))
            self.folders.append(text(at))
            prefix = f"{at}/" if at else ""
            with _scan(f"{self.root}/{at}") as entries:
                for entry in entries:
                    path = f"{prefix}{entry.name}"
                    if not entry.is_dir():
                        on(entry, path)
                    elif _is_program(entry.name):
                        self.programs.append(text(path))
                    elif entry.is_symlink():
                        links.append(path)
                    else:
                        todo.append((path, f"{real}/{entry.name}"))

    def _take(self, entry: os.DirEntry, path: str) -> None:
        if entry.is_file():
            if _is_image(entry):
                self.images.append((text(path), path, entry.stat().st_size))
            elif entry.name.lower() not in SYSTEM_FILES:
                self.passed.append(text(path))
        elif entry.is_symlink() and ending(entry.name) in formats.endings():
            self.dead.append(text(path))

    def listing(self, class_of: Callable[[list[str]], str | None]) -> Listing:
        """Return the images with the class that ``class_of(parts of the id)`` tells. Those of None become loose.

        Raises UserError for links that lead nowhere, and names that are equal once they are written as NFC UTF-8.
        """
        classes = [class_of(id.split("/")) for id, _, _ in self.images]
        self.loose += [id for (id, _, _), name in zip(self.images, classes, strict=True) if name is None]
        rows = sorted((*image, name) for image, name in zip(self.images, classes, strict=True) if name is not None)
        ids = [id for id, *_ in rows]
        faults = [f"{name} is a link that leads nowhere: repair or remove it" for name in sorted(self.dead)[:20]]
        faults += [
            f"two files are named {a!r} once written as NFC UTF-8: rename one"
            for a, b in itertools.pairwise(ids)
            if a == b
        ]
        if faults:
            raise UserError(*faults)
        class_names = sorted({name for *_, name in rows})
        code = {name: i for i, name in enumerate(class_names)}
        labels = np.array([code[name] for *_, name in rows], np.int64)
        return Listing(
            self.root, ids, [f for _, f, _, _ in rows], [n for _, _, n, _ in rows], labels, class_names, self
        )

    def without_images(self, folders: list[str]) -> list[str]:
        """Return those of ``folders`` (paths from the root) that were looked into and hold no image."""
        known = {*_above([id for id, _, _ in self.images]), *self.again}
        return [name for each in folders if (name := text(each)) not in known]

    def note_empty(self, class_folders: list[str]) -> None:
        """Note those of ``class_folders`` (paths from the root) that hold no image.

        Raises UserError where one holds images in formats that aren't read: that is a class, not a folder of something
        else.
        """
        bare = self.without_images(class_folders)
        self.empty += bare
        unread = _above([path for path in self.passed if ending(path) in formats.UNREAD])
        if lost := [folder for folder in bare if folder in unread]:
            kinds = {ending(path) for path in self.passed if path.startswith(tuple(f"{folder}/" for folder in lost))}
            raise UserError(
                f"{', '.join(lost[:20])} in {self.root} hold no image but "
                f"{', '.join(f'.{kind}' for kind in sorted(kinds & formats.UNREAD))}, which isn't read here. "
                + formats.advice(kinds)
            )


def class_folders(root: Path, *, prefixes: tuple[str, ...] = ("",), leave_out: frozenset[str] = frozenset()) -> Listing:
    """List ``root/<prefix><class>/**``. The classes are the union over prefixes (``train/``, ``test/``).

    Raises UserError as ``Found.walk`` and ``Found.listing`` do.
    """
    found = Found(root)
    tops = [prefix + name for prefix in prefixes for name in found.inside(prefix) if name not in leave_out]
    for top in tops:
        found.walk(top)
    found.note_empty(tops)
    depth = prefixes[0].count("/")
    return found.listing(lambda parts: parts[depth])


def folders(root: Path) -> list[str]:
    """Return the sorted names of folders in ``root``, linked ones too, without those of other programs."""
    return Found(root).inside()


def text(name: str) -> str:
    """Return a file's name as valid UTF-8, the same on all systems: NFC, with ``\\xNN`` for bytes that aren't UTF-8."""
    if name.isascii():
        return name
    return unicodedata.normalize("NFC", os.fsencode(name).decode("utf-8", "backslashreplace"))


def _above(paths: list[str]) -> set[str]:
    """Return all folders, as paths, that hold these files."""
    found = set()
    for folder in {path.rpartition("/")[0] for path in paths}:
        while folder and folder not in found:
            found.add(folder)
            folder = folder.rpartition("/")[0]
    return found


def _scan(folder):
    try:
        return os.scandir(folder)
    except OSError as error:
        raise UserError(f"can't read the folder {text(str(folder))}: {error.strerror}") from error


def ending(name: str) -> str:
    """Return the lower-case ending of a file's name or path; "" where it has none."""
    stem, _, ending = name.rpartition("/")[2].rpartition(".")
    return ending.lower() if stem else ""


def _is_image(entry: os.DirEntry) -> bool:
    if entry.name.startswith("."):
        return False
    if "." in entry.name:
        return ending(entry.name) in formats.endings()
    try:
        with open(entry.path, "rb") as file:
            return formats.starts_as_image(file.read(formats.FIRST_BYTES))
    except OSError:  # it is found where images are read
        return False


def _is_program(name: str) -> bool:
    return name.startswith(".") or name.lower() in PROGRAMS
