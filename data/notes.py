"""Notes: the sentences that say what of a data set was taken, and what was passed over."""

import collections

import numpy as np

from backbench import SPLITS
from backbench.data import formats
from backbench.data.imageset import ImageSet
from backbench.data.listing import Found, ending
from backbench.progress import tell

NAMED = 3
"""Number of things that a note names one by one. Of more it names the first, or their kinds."""


def tell_notes(images: ImageSet) -> None:
    """Say a data set's notes to the person at work, each on a line of its own."""
    for note in images.notes:
        tell(f"{images.name}: {note}")


def taken(class_names: list[str], split: np.ndarray, how: str) -> str:
    """Say how many classes and images were taken, and how the splits (N,) were made: ``by folders``."""
    sizes = np.bincount(split, minlength=3)
    classes = f"{len(class_names):,} {'class' if len(class_names) == 1 else 'classes'}"
    whole = [name for name, n in zip(SPLITS, sizes, strict=True) if n == len(split)]
    if whole:
        return f"{classes}, {_many(len(split), 'image')}, all in {whole[0]}{how and f', {how}'}."
    counts = " / ".join(f"{n:,}" for n in sizes)
    return f"{classes}, {counts} images in train / val / test{how and f', {how}'}."


def passed_over(found: Found) -> list[str]:
    """Say what of a folder was passed over, and which links were followed. Nothing to say: no sentence."""
    several = [
        _files(found.passed),
        _named(found.loose, "image", "beside the class folders"),
        _named(found.others, "image", "in folders that are no splits"),
        _named(found.empty, "folder", "without images"),
        _programs(found.programs),
        _named(found.again, "link", "to a folder above or already taken"),
    ]
    notes = [_were(list(filter(None, several)), "passed over")]
    if found.followed:
        notes.append(_were([_many(len(found.followed), "link to a folder", "links to folders")], "followed"))
    if unread := {ending(path) for path in found.passed} & {*formats.HEIF}:
        notes.append(f"To read .{' and .'.join(sorted(unread))} files, {formats.advice(unread).lower()}.")
    return list(filter(None, notes))


def files_passed(names: list[str], noun: str) -> list[str]:
    """Say which files, or whatever ``noun`` calls them, were passed over, by their names."""
    return [_were([_files(names, noun)], "passed over")] if names else []


def _files(paths: list[str], noun: str = "file") -> str:
    """Return ``36 files (12 .heic, 24 .txt)``, or the paths themselves where they are few."""
    if len(paths) <= NAMED:
        return _named(paths, noun, "")
    kinds = collections.Counter(_kind(path) for path in paths).most_common()
    shown = [f"{n:,} {kind}" for kind, n in kinds[:5]] + ([f"{len(kinds) - 5} other kinds"] if len(kinds) > 5 else [])
    return f"{len(paths):,} {noun}s ({', '.join(shown)})"


def _kind(path: str) -> str:
    name = path.rpartition("/")[2]
    return "hidden" if name.startswith(".") else f".{_plain(ending(name))}" if ending(name) else "without an ending"


def _programs(paths: list[str]) -> str:
    names = sorted({_plain(path.rpartition("/")[2]) for path in paths})
    what = _many(len(paths), "folder of other programs", "folders of other programs")
    return paths and f"{what} ({', '.join(names[:NAMED])}{', ...' if len(names) > NAMED else ''})"


def _named(paths: list[str], noun: str, where: str) -> str:
    """Return ``2 images beside the class folders (a.jpg, b.jpg)``. Of more than ``NAMED`` it names the first."""
    shown = [_plain(path) for path in sorted(paths)]
    shown = shown if len(shown) <= NAMED else [shown[0], "..."]
    return paths and f"{_many(len(paths), noun)}{where and f' {where}'} ({', '.join(shown)})"


def _were(things: list[str], done: str) -> str:
    """Join things to a sentence: ``3 files (...) and 1 folder (...) were passed over.``"""
    if not things:
        return ""
    *most, last = things
    one = not most and last.startswith("1 ")
    return f"{', '.join(most)}{' and ' if most else ''}{last} {'was' if one else 'were'} {done}."


def _many(n: int, noun: str, plural: str = "") -> str:
    return f"{n:,} {noun if n == 1 else plural or f'{noun}s'}"


def _plain(name: str) -> str:
    """Return a name from a stranger's disk without control characters."""
    return "".join(c if c.isprintable() else "?" for c in name)
