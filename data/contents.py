"""The contents of a data set's images, without reading the images whose files have not been touched.

Beside the feature files, ``contents.npy`` keeps the content of each image file with what the file system says of the
file: device, inode, size, and the times of its last change. Where all of that is the same, the content is. Only reading
is saved by it. A name plays no part, so that a renamed folder costs nothing.
"""

import contextlib
import io
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from backbench.devices import cores
from backbench.files import write_whole
from backbench.image_digests import CONTENT

FILE = "contents.npy"

STAMP = [("device", "u8"), ("inode", "u8"), ("size", "i8"), ("modified", "i8"), ("changed", "i8"), ("place", "i8")]
"""What the file system says of an image's file (times in ns), and the image's place in it, which is 0 unless the file
is a shard."""

RECENT = 2 * 10**9
"""Nanoseconds for which a file that was just written is not trusted: it may change again within one tick of the file
system's clock. FAT's ticks are the longest, 2 s."""

QUICK = 4 << 30
"""Number of bytes of images that are read first, in a few seconds, to find out whether their features are there."""

MANY = 10_000
"""Number of images from which on reading them takes more than a second or two, and its progress is shown."""

THREADS = 4
"""Least number of threads that read images to know their contents. Reading waits more for the disk than for cores."""


def stamps(imageset) -> np.ndarray | None:
    """Return the ``STAMP`` of each image (N,), zeros for files that are gone. None where images have no files."""
    places = imageset.places()
    if places is None:
        return None
    found: dict[str, tuple] = {}
    made = np.zeros(len(imageset), STAMP)
    for i, (path, place) in enumerate(places):
        if path not in found:
            found[path] = _stat(path)
        made[i] = (*found[path], place)
    return made


def touched(imageset) -> int:
    """Return when the last of the images' files was changed, in ns; 0 where there are none."""
    found = stamps(imageset)
    return 0 if found is None else int(np.maximum(found["modified"], found["changed"]).max(initial=0))


def quick(imageset) -> bool:
    """Whether the images whose contents aren't known yet are few enough to be read first, ``QUICK`` bytes at most."""
    imageset = getattr(imageset, "origin", imageset)
    if imageset.in_memory or (imageset.contents != b"").all():
        return True
    found = stamps(imageset)
    return found is not None and int(np.unique(found[["inode", "size"]])["size"].sum()) <= QUICK


def _keys(stamps: np.ndarray) -> np.ndarray:
    """Return stamps (N,) as byte strings, which can be sorted."""
    return np.ascontiguousarray(stamps).view(f"S{stamps.itemsize}")


def _stat(path: str) -> tuple:
    try:
        stat = os.stat(path)
    except OSError:
        return (0,) * 5
    mask = (1 << 64) - 1
    return stat.st_dev & mask, stat.st_ino & mask, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


class Kept:
    """The contents of ``imageset`` that are kept in ``folder``; they are filled in, and ``save`` keeps all known."""

    def __init__(self, imageset, folder: Path):
        self.imageset, self.path, self.seen = imageset, Path(folder) / FILE, time.time_ns()
        self.stamps = stamps(imageset)
        self.known = self._read()
        if self.stamps is not None and len(self.known):
            known, here = _keys(self.known["stamp"]), _keys(self.stamps)
            order = np.argsort(known)
            at = order[np.minimum(np.searchsorted(known, here, sorter=order), len(known) - 1)]
            same = known[at] == here
            imageset.contents[same] = self.known["content"][at[same]]

    def save(self) -> None:
        """Keep what is known now. A file that can't be written costs only time."""
        if self.stamps is None:
            return
        newest = np.maximum(self.stamps["modified"], self.stamps["changed"])
        sure = (self.imageset.contents != b"") & (newest < self.seen - RECENT) & (self.stamps["inode"] != 0)
        entries = np.zeros(int(sure.sum()), [("stamp", STAMP), ("content", CONTENT)])
        entries["stamp"], entries["content"] = self.stamps[sure], self.imageset.contents[sure]
        if len(entries) and not np.array_equal(entries, self.known):
            file = io.BytesIO()
            np.save(file, entries, allow_pickle=False)
            with contextlib.suppress(OSError):
                write_whole(self.path, file.getvalue())
                self.known = entries

    def learn(self, ids: list[str], contents: np.ndarray) -> None:
        """Take over the contents (n,) of the images ``ids`` (n,), which other processes have read."""
        mine = self.imageset.contents
        if (mine == b"").any():
            known = dict(zip(ids, contents.tolist(), strict=True))
            mine[:] = [one or known.get(id, b"") for id, one in zip(self.imageset.ids, mine.tolist(), strict=True)]

    def _read(self) -> np.ndarray:
        try:
            found = np.load(self.path, mmap_mode="r", allow_pickle=False)
            if found.dtype == [("stamp", STAMP), ("content", CONTENT)] and found.ndim == 1:
                return np.array(found)
        except (OSError, ValueError, EOFError):  # there is none, or another version wrote it
            pass
        return np.zeros(0, [("stamp", STAMP), ("content", CONTENT)])


def look(imageset, folder: Path) -> None:
    """Make all contents of ``imageset`` known, with the help of what is kept in ``folder``, and keep them.

    Of a data set from which images were left out, the contents of these are kept too.
    """
    whole = imageset.undecided
    kept = Kept(whole, folder)
    complete(whole)
    kept.save()
    if imageset.audited:
        imageset.contents[:] = whole.contents[imageset.audited.rows]


def complete(imageset, which: np.ndarray | None = None) -> np.ndarray:
    """Fill in the contents of the images ``which`` (n,), by default of all, and return all contents (N,).

    Files whose contents aren't known are read. The content of a file that can't be read stays empty.
    """
    from backbench.progress import progress

    which = np.arange(len(imageset)) if which is None else np.asarray(which)
    unknown = which[imageset.contents[which] == b""]
    if not len(unknown):
        return imageset.contents
    if origin := getattr(imageset, "origin", None):
        complete(origin, imageset.rows[unknown])
    if origin or imageset.in_memory:
        for i in unknown:
            imageset.content(i)
        return imageset.contents
    label = f"{imageset.name} looking for changes"
    show = progress(len(unknown), label) if len(unknown) > MANY else contextlib.nullcontext(lambda n: None)
    with ThreadPoolExecutor(max(THREADS, cores())) as pool, show as advance:
        for block in np.array_split(unknown, range(MANY, len(unknown), MANY)):  # the pool holds a task for each image
            for _ in pool.map(imageset.content, block.tolist()):
                advance(1)
    return imageset.contents
