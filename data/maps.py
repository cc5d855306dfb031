"""Class maps say which class of one data set is which class of another. They are CSV files of pairs.

A map ships with backbench, is the user's own, or is proposed by class names. ``maps/<source>-<target>.csv`` holds
``source_class,target_class`` lines that were made by hand. There is a line only where every image of the target's class
shows the source's class, or one of the source's classes that have lines with the same target. Near matches are left
out: Open Images' ``Flag`` is not only American, its ``Guitar`` not only electric, its ``Horn`` of an uncertain kind.
"""

import csv
import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from backbench import UserError, suggest

FOLDER = Path(__file__).with_name("maps")

OPENIMAGES = Path(__file__).with_name("openimages.csv")
"""Open Images' boxable classes, ``mid,name``. It is their class-descriptions-boxable.csv with a header."""

HEADER = ["source_class", "target_class"]

NEAR = 0.8
"""Least similarity (difflib's ratio) of two names for them to be proposed as the same class."""


class Groups(NamedTuple):
    """Classes that correspond, as G groups. A target's image is right with any source class of its group."""

    names: list[str]
    """The target's class in each group; several are joined by `` / ``."""
    of_source: np.ndarray
    """(K,) int64: the group of each source class, -1 for none."""
    of_target: np.ndarray
    """(T,) int64: the group of each target class, -1 for none."""


def openimages() -> dict[str, str]:
    """Return the ids (``/m/...``) of Open Images' boxable classes, by name."""
    with OPENIMAGES.open(newline="", encoding="utf-8") as file:
        return {line["name"]: line["mid"] for line in csv.DictReader(file)}


def shipped(source: str, target: str) -> Path | None:
    """Return the map that ships with backbench, or None. ``office_shift/amazon`` uses that of ``office_shift``."""
    path = FOLDER / f"{source.partition('/')[0]}-{target.partition('/')[0]}.csv"
    return path if re.fullmatch(r"[\w-]+", path.stem) and path.is_file() else None


def read(path: str | Path) -> list[tuple[str, str]]:
    """Read the pairs of a CSV file.

    Several source classes may have one target, and one source class several targets. But where two source classes share
    one target, they must share all. Raises UserError with every error, each with its line.
    """
    path = Path(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [(at, [cell.strip() for cell in line]) for at, line in enumerate(csv.reader(file), 1) if line]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"the class map {path} can't be read: {reason}. A CSV file of {','.join(HEADER)} is expected"
        ) from None
    if not lines or lines[0][1] != HEADER:
        found = ",".join(lines[0][1])[:80] if lines else "nothing"
        raise UserError(f"{path}:1: {found} where the header {','.join(HEADER)} is expected")
    faults, pairs = [], {}
    for at, cells in lines[1:]:
        if len(cells) != 2 or not all(cells):
            faults.append(f"{path}:{at}: {','.join(cells)[:80]!r} where two class names are expected")
        elif tuple(cells) in pairs:
            faults.append(f"{path}:{at}: {','.join(cells)} is there twice: remove one")
        else:
            pairs[tuple(cells)] = at
    faults += [f"{path}: {fault}" for fault in _torn(pairs)]
    if not (pairs or faults):
        faults.append(f"{path} holds no pair of classes")
    if faults:
        raise UserError(*faults)
    return list(pairs)


def _torn(pairs) -> list[str]:
    """Describe targets whose source classes have different targets, where it would be unclear what counts as right."""
    targets, sources = {}, {}
    for a, b in pairs:
        targets.setdefault(a, set()).add(b)
        sources.setdefault(b, []).append(a)
    return [
        f"{', '.join(some)} share the target {b}, so all of their targets must be the same"
        for b, some in sources.items()
        if any(targets[a] != targets[some[0]] for a in some)
    ]


def groups(pairs, source_classes: Sequence[str], target_classes: Sequence[str], *, path=None) -> Groups:
    """Group two lists of classes by the pairs. Pairs with a class that is in neither list are ignored.

    With ``path``, the file that the pairs come from, a name that a list lacks is an error. Raises UserError with all
    such names.
    """
    places = [{name: k for k, name in enumerate(names)} for names in (source_classes, target_classes)]
    if path:
        faults = [
            f"{path}: the {side} has no class {name!r}.{suggest(name, known)}"
            for side, known, at in (("source", places[0], 0), ("target", places[1], 1))
            for name in dict.fromkeys(pair[at] for pair in pairs)
            if name not in known
        ]
        if faults:
            raise UserError(*faults)
    pairs = [(a, b) for a, b in pairs if a in places[0] and b in places[1]]
    targets = {}
    for a, b in pairs:
        targets.setdefault(a, []).append(b)
    blocks = sorted({tuple(sorted(some)) for some in targets.values()})
    of_source, of_target = np.full(len(source_classes), -1), np.full(len(target_classes), -1)
    for a, some in targets.items():
        group = blocks.index(tuple(sorted(some)))
        of_source[places[0][a]] = group
        of_target[[places[1][b] for b in some]] = group
    return Groups([" / ".join(block) for block in blocks], of_source, of_target)


def between(source: str, source_classes, target: str, target_classes, *, file: Path | None = None) -> Groups:
    """Return the groups of two data sets' classes.

    They come from the user's ``file``, the shipped map, or the names where all of the target's are also the source's.
    Raises UserError where there is none of these, or no class corresponds.
    """
    if file:
        found = groups(read(file), source_classes, target_classes, path=file)
    elif path := shipped(source, target):
        found = groups(read(path), source_classes, target_classes)
    elif set(target_classes) <= set(source_classes):
        found = groups([(name, name) for name in target_classes], source_classes, target_classes)
    else:
        raise UserError(
            f"there is no map of classes from {source} to {target}. Make one, correct it by hand, and give it with "
            f"--map: backbench data map {source} {target} > map.csv"
        )
    if not found.names:
        raise UserError(f"none of the classes of {source} that are here corresponds to a class of {target}")
    return found


def plain(name: str) -> str:
    """Reduce a class name to words: ``101.head-phones`` becomes ``head phone``, ``sunflower-101`` ``sunflower``."""
    name = re.sub(r"^\d+\.|[-_ ]101$", "", name)
    words = re.findall(r"[^\W_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())
    return " ".join(word[:-1] if len(word) > 3 and re.search(r"[^s]s$", word) else word for word in words)


def propose(source_classes: Sequence[str], target_classes: Sequence[str]) -> list[tuple[str, str]]:
    """Propose pairs of classes with similar names, at most one target per source class, for a person to correct.

    Names alone mislead: ``mouse`` may be an animal in one data set and a device in another.
    """
    known = {}
    for name in target_classes:
        known.setdefault(plain(name).replace(" ", ""), name)
    found = []
    for name in source_classes:
        words = plain(name).split(" ")
        tries = ["".join(words), *([words[-1]] if len(words) > 1 else [])]  # coffee mug: mug
        near = next((known[one] for one in tries if one in known), None)
        if near is None:
            alike = difflib.get_close_matches(tries[0], known, n=1, cutoff=NEAR)
            near = known[alike[0]] if alike else None
        if near is not None:
            found.append((name, near))
    return found
