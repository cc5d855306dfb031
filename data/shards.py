"""Data sets in many files, ``KIND:PATH?key=value``: finding the files and their splits, and joining them.

The files are shards of images: tars (data.wds) or tables (data.hf). Images keep their stored order, so that a pass over
the data set reads each file from beginning to end.
"""

import collections
import glob
import itertools
import os
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backbench import SPLITS, UsageError, UserError, grouped, suggest
from backbench.data import groups, imageset, listing, splits
from backbench.data.imageset import ImageSet
from backbench.data.notes import passed_over, taken

RULE = (
    "files with train, val and test in their names, or in folders of these names, are expected; "
    f"{splits.VAL_RULE}; ?test=val after the path tests on val"
)

COMPANIONS = frozenset({"", ".md", ".txt", ".json", ".jsonl", ".yaml", ".yml", ".idx", ".index", ".lock", ".py"})
"""Endings of files that go with shards. They aren't said to be passed over."""


@dataclass(frozen=True)
class Given:
    """The parts of ``KIND:PATH?key=value&key=value``."""

    kind: str
    path: str
    options: dict[str, str]


@dataclass(frozen=True)
class Shard:
    """The images of one file."""

    path: Path
    split: int | None
    """Code of the split; None in all shards of a data set that isn't split yet."""
    names: list[str]
    """One name per image."""
    labels: list[int | str | None]
    """Number or name of each image's class; None or a negative number means unknown."""
    sizes: list[int]
    """Bytes per image, or per group of images, which go into the digest."""
    groups: list[int | str | None] | None = None
    """What each image belongs to, see data.groups; None where that isn't asked for."""


def parse(name: str, *, known: tuple[str, ...]) -> Given:
    """Parse ``KIND:PATH?key=value``. Raises UsageError for options that aren't ``known``."""
    kind, _, rest = name.partition(":")
    found = re.fullmatch(r"(.*?)\?(\w+=[^&]+(?:&\w+=[^&]+)*)", rest, re.DOTALL)
    if not found:
        return Given(kind, rest, {})
    options = dict(pair.split("=", 1) for pair in found[2].split("&"))
    if unknown := [key for key in options if key not in known]:
        takes = f"{kind}:PATH?key=value takes {', '.join(known)}"
        raise UsageError(*(f"{name}: {takes}, not {key!r}.{suggest(key, known)}" for key in unknown))
    return Given(kind, found[1], options)


def find(given: Given, endings: tuple[str, ...]) -> tuple[str, Path, list[Path], list[str]]:
    """Return the data set's name, its root, its sorted files, and notes on what was passed over.

    The path is a folder, which is searched recursively, one file, or a pattern with ``{000..012}``, ``{a,b}``, ``*`` or
    ``[0-9]``. Raises UserError.
    """
    check_test(given)
    path = Path(given.path).expanduser()
    kinds, below = " or ".join(endings), listing.Found(path)
    try:
        if path.is_dir():
            root, base, files = path, path.resolve().name, _below(below)
        elif path.is_file():
            root, base, files = path.parent, path.stem, [path]
        else:
            matches = {pattern: glob.glob(pattern) for pattern in braces(str(path))}
            if missing := [pattern for pattern, found in matches.items() if not found]:
                what = f"a folder of {kinds} files, one such file, or a pattern is expected"
                raise UserError(f"{given.kind}:{path} does not exist ({_some(missing)}): {what}")
            files = sorted({Path(file) for file in itertools.chain(*matches.values())})
            root = Path(os.path.commonpath([file.parent for file in files]))
            base = root.resolve().name
    except OSError as error:
        raise UserError(f"can't look into {given.kind}:{path}: {error.strerror}") from error
    found = [file for file in files if file.name.lower().endswith(endings)]
    if not found:
        packed = [file.name for file in files if re.search(r"\.tar\.\w+$|\.tgz$", file.name)]
        hint = f", but {packed[0]}: uncompress it to a .tar, in which images can be found" if packed else ""
        raise UserError(f"{given.kind}:{path} holds no {kinds} file{hint}")
    below.passed = [file.name for file in files if file not in {*found} and file.suffix.lower() not in COMPANIONS]
    return name_of(given, base), root, found, passed_over(below)


def name_of(given: Given, base: str) -> str:
    """Return the data set's name: its kind, ``base`` and the options that choose images or labels."""
    # Groups and layouts move images between splits: the set is the same.
    options = [clean(value) for key, value in given.options.items() if key not in ("group", "layout")]
    return "-".join((given.kind, listing.text(base), *options))


def check_test(given: Given) -> None:
    """Raise UsageError where the option ``test`` is anything but a word for val."""
    test = given.options.get("test")
    if test is not None and splits.word(test).split != splits.VAL:
        raise UsageError(f"?test={test}: ?test=val, to test on val, is expected")


def braces(pattern: str) -> list[str]:
    """Expand ``{a,b}`` and ``{008..012}`` as a shell does."""
    found = re.search(r"\{([^{}]*,[^{}]*|\d+\.\.\d+)\}", pattern)
    if not found:
        return [pattern]
    first, dots, last = found[1].partition("..")
    if dots and first.isdigit():
        if int(last) - int(first) > 1_000_000:
            raise UsageError(f"{pattern} names more than a million files")
        inner = [f"{n:0{len(first)}}" for n in range(int(first), int(last) + 1)]
    else:
        inner = found[1].split(",")
    return [pattern[: found.start()] + word + end for end in braces(pattern[found.end() :]) for word in inner]


def by_split(files: list[Path], root: Path, *, test: str | None) -> list[tuple[Path, int | None]]:
    """Return each file with the split that its name says, or else the names of its folders.

    The split is None for all files where no name says one, or all say train, which is the usual name for everything.
    ``test="val"`` uses val as test and leaves out the files of test. Raises UserError.
    """
    codes = {file: _split(file.relative_to(root)) for file in files}
    if two := [str(file) for file, code in codes.items() if code == "two"]:
        raise UserError(
            f"{_some(two)} match more than one of train, val and test: rename them so that each names one split"
        )
    unnamed = [str(file) for file, code in codes.items() if code is None]
    if 0 < len(unnamed) < len(files):
        raise UserError(f"{_some(unnamed)} name no split, but {len(files) - len(unnamed)} other files do: {RULE}")
    if test:
        codes = {file: splits.TEST for file, code in codes.items() if code == splits.VAL} | {
            file: code for file, code in codes.items() if code == splits.TRAIN
        }
        if splits.TEST not in codes.values():
            raise UserError(f"{root} has no files of val to test on")
    whole = {*codes.values()} == {splits.TRAIN}
    return [(file, None if whole else codes[file]) for file in files if file in codes]


def assemble(
    name: str,
    root: Path,
    shards: list[Shard],
    stored: Callable[[int], bytes],
    *,
    class_names: list[str] | None,
    seed: int,
    exif: str,
    notes: list[str],
    labelled: bool = True,
) -> ImageSet:
    """Join all ``shards`` into one data set. ``stored(i)`` reads image ``i``; ``class_names`` says what numbers mean.
    Where ``labelled`` is False, an image without a label is of the class "", and all are in test.

    Ids are ``<split>/<name>``, as in a folder of such files, or ``<shard>/<name>`` where those come twice. Classes are
    those that occur. Raises UserError with everything that is wrong.
    """
    faults = []
    ids = _ids(shards, lambda shard: "" if shard.split is None else SPLITS[shard.split])
    if len({*ids}) < len(ids):
        ids = _ids(shards, lambda shard: clean(shard.path.relative_to(root).with_suffix("").as_posix()))
        if twice := [id for id, n in collections.Counter(ids).items() if n > 1]:
            faults.append(f"{_some(twice)} are there twice")
    given = [label for shard in shards for label in shard.labels]
    unknown = [
        id for id, label in zip(ids, given, strict=True) if label is None or (isinstance(label, int) and label < 0)
    ]
    if unknown and labelled:
        faults.append(f"{len(unknown):,} of {len(ids):,} images have no label: {_some(unknown)}")
        given = [0]
    elif unknown:
        called = dict(enumerate(class_names or ()))
        given = ["" if label is None else str(called.get(label, label)) for label in given]
    labels, names, more = _classes(given, class_names)
    belongs = None
    if shards and shards[0].groups is not None:
        found = [group for shard in shards for group in shard.groups or ()]
        if none := [id for id, group in zip(ids, found, strict=True) if group is None or group == ""]:
            faults.append(f"{len(none):,} of {len(ids):,} images have no group: {_some(none)}")
        belongs = np.array([clean(str(group)) for group in found])
    if faults := faults + more:
        raise UserError(*(f"{name} in {root}: {fault}" for fault in faults))
    lengths = [len(shard.names) for shard in shards]
    rule, how = RULE, "by the files' names"
    try:
        if not labelled:
            split = np.full(len(ids), splits.TEST, np.int8)
        elif shards[0].split is None:
            how = f"drawn with seed {seed}" if belongs is None else f"drawn by whole groups with seed {seed}"
            rule = splits.FOLDER_RULE if belongs is None else groups.RULE
            split = (
                splits.folder_rule(ids, labels, seed=seed)
                if belongs is None
                else grouped.draw(labels, belongs, seed=seed)
            )
        else:
            split = np.repeat(np.array([shard.split for shard in shards], np.int8), lengths)
            if not (split == splits.VAL).any():
                split = groups.val_from_train(ids, labels, belongs, split, seed=seed)
                how += ", val taken from train"
        if labelled:
            splits.check(labels, split, names, rule=rule)
    except UserError as error:
        raise UserError(*(f"{name} in {root}: {fault}" for fault in error.faults)) from error
    sizes = [size for shard in shards for size in shard.sizes]
    told = imageset.listings(ids, labels, split, names, sizes=sizes)
    return ImageSet(
        name, ids, labels, split, names, exif=exif, root=root, stored=stored, groups=belongs, listings=told,
        notes=(*([taken(names, split, how)] if labelled else []), *notes),
    )  # fmt: skip


def clean(text: str) -> str:
    """Turn any name from a stranger's file into text that can be stored: NFC, valid UTF-8, without NUL."""
    text = text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()
    return unicodedata.normalize("NFC", text)


def _below(found: listing.Found) -> list[Path]:
    """Return the sorted files in a folder and below, without hidden ones. Linked files and folders count."""
    files = []

    def take(entry, at):
        if entry.is_file() and not entry.name.startswith("."):
            files.append(found.root / at)

    found.walk("", on=take)
    return sorted(files)


def _split(file: Path) -> int | str | None:
    """Return the code of the split in the file's name, or else in the nearest folder's; "two" where a name has two."""
    for part in reversed(file.with_suffix("").parts):
        word = splits.word(part)
        if word.several or word.split is not None:
            return "two" if word.several else word.split
    return None


def _ids(shards: list[Shard], prefix: Callable[[Shard], str]) -> list[str]:
    return [f"{prefix(shard)}/{name}".lstrip("/") for shard in shards for name in shard.names]


def _classes(given: list, class_names: list[str] | None) -> tuple[np.ndarray, list[str], list[str]]:
    """Return labels (N,) int64, the sorted names (numbers by size) of the classes that occur, and all errors."""
    faults = []
    if all(isinstance(label, int) for label in given):
        used = sorted({*given})
        if class_names is None:
            names = {n: str(n) for n in used}
        else:
            if beyond := [str(n) for n in used if n >= len(class_names)]:
                faults.append(f"labels {_some(beyond)}, where only {len(class_names)} class names are given")
            cleaned = [clean(name) for name in class_names]
            count = collections.Counter(cleaned)  # ImageNet has two classes named crane: a bird and a machine
            names = {n: cleaned[n] + (f" ({n})" if count[cleaned[n]] > 1 else "") for n in used if n < len(cleaned)}
        kept = list(names.values()) if class_names is None else sorted({*names.values()})
    else:
        names = {label: clean(str(label)) for label in {*given}}
        kept = sorted({*names.values()})
    code = {name: i for i, name in enumerate(kept)}
    labels = np.array([code[names[label]] for label in given if label in names], np.int64)
    return labels, kept, faults


def _some(items: list[str]) -> str:
    return ", ".join(items[:5]) + (f" and {len(items) - 5:,} more" if len(items) > 5 else "")
