"""Groups: images that belong together, as of a patient, a video or a site, and stay in one split.

They come from a column or field that ``?group=`` names, or for folders from a pattern on the ids. Where none are given
and the names look like groups, ``told`` says so.
"""

import dataclasses
import re
import shlex
from collections import defaultdict

import numpy as np

from backbench import SPLITS, UsageError, UserError, grouped
from backbench.data import splits
from backbench.data.imageset import ImageSet

RULE = "whole groups are drawn for train, val and test, so that at least 2 groups a class are expected, 3 in some class"

LONGEST = 500
"""Largest number of characters of a pattern. It is the user's own, and Ctrl-C ends one that takes for ever."""

PATTERNS = (
    r"([^/]*\d)[^/\d]+\d+[^/\d]*\.\w+$",
    r"([^/]*\d[^/]*)/[^/\d]*\d+[^/\d]*\.\w+$",
)
"""Patterns of ids that look like groups: ``patient12_03.jpg``, and ``patient12/03.jpg``."""

COUNTER = 5
"""Largest number of digits of a counter that may have gaps: in ``IMG_20230104_173501`` the time is none."""

LOOKED_AT = 100_000
"""Number of ids that are looked at: the first ones, since names of one group lie beside each other."""

ENOUGH, FEWEST = 0.8, 3
"""Share of the images whose names must look like groups, and number of groups that a class must have for it."""


def asked(ids: list[str], options: dict[str, str]) -> np.ndarray | None:
    """Return each id's group by the pattern ``?group=``, (N,) str; None without one. Raises as ``by_pattern``."""
    return by_pattern(ids, options["group"]) if "group" in options else None


def by_pattern(ids: list[str], pattern: str) -> np.ndarray:
    """Return each id's group, (N,) str: what the first bracket of the regular expression ``pattern`` finds in it.

    Raises UsageError where that isn't a pattern with a bracket, and UserError naming ids in which it finds nothing.
    """
    shape = "a regular expression whose first bracket finds the group in a path is expected, such as '([^/]+)_[^/]*$'"
    try:
        expression = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise UsageError(f"?group={pattern}: {error}; {shape}") from None
    if not expression.groups or len(pattern) > LONGEST:
        found = f"it has {len(pattern):,} characters, {LONGEST} at most" if expression.groups else "it has no bracket"
        raise UsageError(f"?group={pattern}: {found}; {shape}")
    found = [match and match[1] for match in map(expression.search, ids)]
    if none := [id for id, group in zip(ids, found, strict=True) if not group]:
        raise UserError(f"?group={pattern} finds no group in {len(none):,} of {len(ids):,} paths: {_some(none)}")
    return np.array(found, str)


def val_from_train(
    ids: list[str], labels: np.ndarray, groups: np.ndarray | None, split: np.ndarray, *, seed: int
) -> np.ndarray:
    """Return a copy of ``split`` with about an eighth of train moved to val, by whole groups where there are groups."""
    if groups is None:
        return splits.val_from_train(ids, labels, split, seed=seed)
    return grouped.val_from_train(labels, groups, split, seed=seed)


def told(images: ImageSet, name: str) -> ImageSet:
    """Return the set, loaded as ``name``, with what should be said of its groups added to its notes."""
    notes = [_groups_note(images)] if images.groups is not None else _suggestion(images, name)
    return dataclasses.replace(images, notes=(*images.notes, *filter(None, notes)))


def _groups_note(images: ImageSet) -> str:
    assert images.groups is not None
    across = grouped.crossing(images.groups, images.split)
    if len(across):
        found = {group: np.unique(images.split[images.groups == group]) for group in across[:5].tolist()}
        where = [f"{_plain(group)} in {' and '.join(SPLITS[code] for code in found[group])}" for group in found]
        named = "; ".join(where)
        more = f" and {len(across) - 5:,} more" if len(across) > 5 else ""
        number = "1 group has" if len(across) == 1 else f"{len(across):,} groups have"
        return f"Warning: {number} images in more than one split: {named}{more}."
    number = grouped.numbered(images.groups, len(images))
    sizes, alone = np.bincount(number), grouped.per_class(images.labels, number) == 1
    said = f"{len(sizes):,} groups of {sizes.min():,} to {sizes.max():,} images, each in one split"
    if alone.any():
        names = [images.class_names[label] for label in np.flatnonzero(alone)]
        said += f"; all images of a class are of one group, and so in one split, for {_some(names)}"
    return f"{said}."


def _suggestion(images: ImageSet, name: str) -> list[str]:
    """Return a warning where ids look like groups, which could be in several splits."""
    kind, _, rest = name.partition(":")
    if not rest or not (found := suggested(images.ids, images.labels)):
        return []
    pattern, example, n = found
    path, option = rest.partition("?")[0], shlex.quote(f"{name}{'&' if '?' in rest else '?'}group={pattern}")
    how = f"--dataset {option}" if kind == "folder" else f"{kind}:{path}?group=..., with their column or field"
    return [
        f"Warning: names such as {_plain(example)} look like groups ({n:,} of them) whose images may be in several "
        f"splits; to keep each in one: {how}"
    ]


def suggested(ids: list[str], labels: np.ndarray) -> tuple[str, str, int] | None:
    """Return the pattern by which ids look like groups, an example, and how many groups there are; or None.

    They do where names within a class are equal but for two numbers: the first takes at least ``FEWEST`` values in the
    class, and with most of these the second counts several images. So ``001.ak47/001_0001.jpg`` doesn't, where the
    first number is the class's, nor ``brown_bear_s_000076.webp``, which has one number.
    """
    ids, labels = ids[:LOOKED_AT], labels[:LOOKED_AT]
    for pattern in PATTERNS:
        expression, by_class = re.compile(pattern.replace(r"\d+[", r"(\d+)[")), defaultdict(lambda: defaultdict(list))
        masks: dict[str, str] = {}
        for id, label in zip(ids, labels.tolist(), strict=True):
            if match := expression.search(id):
                if match[1] not in masks:
                    masks[match[1]] = re.sub(r"\d+", "0", match[1])
                by_class[label, masks[match[1]]][match[1]].append(match[2])
        alike = [
            {group: counters for group, counters in groups.items() if _counted(counters)}
            for groups in by_class.values()
        ]
        alike = [groups for groups in alike if len(groups) >= FEWEST]
        if sum(len(counters) for groups in alike for counters in groups.values()) >= max(1, ENOUGH * len(ids)):
            names = {group for groups in alike for group in groups}
            return pattern, next(id for id in ids if expression.search(id)), len(names)
    return None


def _counted(counters: list[str]) -> bool:
    """Whether several images are counted: by few digits, or without large gaps."""
    numbers = np.unique([int(counter) for counter in counters if len(counter) < 19])
    if len(numbers) < 2:
        return False
    return max(map(len, counters)) <= COUNTER or numbers[-1] - numbers[0] < 3 * len(numbers)


def _plain(name: str) -> str:
    """Return a name from a stranger's disk or table without control characters."""
    return name if name.isprintable() else repr(name)


def _some(items) -> str:
    items = list(items)
    return ", ".join(map(_plain, items[:5])) + (f" and {len(items) - 5:,} more" if len(items) > 5 else "")
