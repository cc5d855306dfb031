"""Splits: which images are in train, val and test. They are seeded, and the same on every machine and Python.

Images are ordered by ``sha256(f"{seed}:{id}")``, not by a random generator, so that an image's place depends on its own
name only. Only the CIFAR rule uses scikit-learn's train_test_split, since that split is published.
"""

import re
from typing import NamedTuple

import numpy as np

from backbench import SPLITS, UserError
from backbench.split_rule import TEST, TRAIN, VAL, classes, shuffled
from backbench.split_rule import caltech_counts as caltech_counts
from backbench.split_rule import caltech_rule as caltech_rule
from backbench.split_rule import folder_counts as folder_counts
from backbench.split_rule import folder_rule as folder_rule

WORDS = {
    **dict.fromkeys(("train", "training", "trn", "trainset", "trainingset", "trainval"), TRAIN),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev", "valset", "validset", "devset"), VAL),
    **dict.fromkeys(("test", "testing", "tst", "testset", "testingset"), TEST),
}
"""Words, in lower case, in the name of a file or folder that say which split it holds."""

CALTECH_RULE = (
    "of n images of a class int(n*0.7) become train, those up to int(n*(0.7+0.1)) val and the rest test, "
    "so that at least 2 a class are expected, and 11 in some class for val"
)
"""``caltech_rule`` for a user, and below it the other rules."""

FOLDER_RULE = (
    "of the images of a class 70 % become train, 10 % val and 20 % test, so that at least 2 a class are expected, "
    "and 3 in some class for val"
)

VAL_RULE = "without val, an eighth of each class's train images becomes val, at least one of two"


class Word(NamedTuple):
    """What a name says of a split."""

    split: int | None
    """Code of the split; None where the name says none or several."""
    several: bool
    """Whether it names more than one split: ``train_val``."""
    rest: frozenset[str]
    """The other words of the name: ``seg`` of ``seg_train``."""


def word(name: str) -> Word:
    """Read a file's or folder's name, in any case and wording: ``Training``, ``seg_test``, ``ValSet``, ``test2017``."""
    words = re.findall(r"[^\W\d_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())
    codes = {WORDS[one] for one in words if one in WORDS}
    return Word(codes.pop() if len(codes) == 1 else None, len(codes) > 1, frozenset({*words} - {*WORDS}))


def val_count(n: int) -> int:
    """Return how many of a class's ``n`` train images become val, where a data set has no val of its own."""
    return max(n // 8, min(n // 2, 1))


def val_from_train(ids: list[str], labels: np.ndarray, split: np.ndarray, *, seed: int) -> np.ndarray:
    """Return a copy of ``split`` with ``val_count`` train images of each class moved to val."""
    split = split.copy()
    train = np.flatnonzero(split == TRAIN)
    for members in classes(labels[train]):
        rows = train[members]
        order = rows[shuffled([ids[row] for row in rows], seed=seed)]
        split[order[: val_count(len(rows))]] = VAL
    return split


def cifar_rule(split: np.ndarray, *, seed: int) -> np.ndarray:
    """Return a copy of ``split`` with an eighth of train moved to val, without regard to classes.

    It is scikit-learn's ``train_test_split(test_size=0.125, random_state=seed)`` over train in its order, which gives
    43,750 / 6,250 of CIFAR's 50,000. Raises UserError where train has fewer than 2 images.
    """
    from sklearn.model_selection import train_test_split

    split = split.copy()
    train = np.flatnonzero(split == TRAIN)
    if len(train) < 2:
        raise UserError(f"train holds {len(train)} images, at least 2 are expected to take val from it")
    split[train_test_split(train, test_size=0.125, random_state=seed)[1]] = VAL
    return split


def check(labels: np.ndarray, split: np.ndarray, class_names: list[str], *, rule: str) -> None:
    """Raise UserError, with all errors at once, where nothing could be learnt or measured on such a split.

    Errors are: fewer than two classes; a class without images; a class with images in test or val but none in train, or
    with one image in all; an empty train, val or test. A class may have no val image as long as val isn't empty: under
    the Caltech rule a class of 2, 3, 5, 6 or 10 images has none. A data set that is all test needs no train and no val.
    ``rule`` tells the user what is expected. Classes whose names differ only in case and punctuation are named.
    """
    counts = split_counts(labels, split, len(class_names))
    total = counts.sum(axis=1)
    faults = []
    if len(class_names) < 2:
        found = f"one class, {class_names[0]!r}," if class_names else "no class"
        faults.append(f"found {found} where at least two are expected")
    if empty := [name for name, n in zip(class_names, total, strict=True) if n == 0]:
        faults.append(f"{_some(empty, 'class')} without images: add images or remove the folder")
    if counts[:, [TRAIN, VAL]].any():
        few = [
            f"{name} ({n})"
            for name, n, train in zip(class_names, total, counts[:, TRAIN], strict=True)
            if n and (n < 2 or train == 0)
        ]
        if few:
            faults.append(f"{_some(few, 'class')} with too few images: {rule}. Add images or remove the class")
            faults += _alike(class_names)
        if missing := [SPLITS[code] for code in (TRAIN, VAL, TEST) if not counts[:, code].any()]:
            sizes = " / ".join(f"{n:,}" for n in counts.sum(axis=0))
            faults.append(f"no images in {' and '.join(missing)} (train / val / test: {sizes}): {rule}")
    if faults:
        raise UserError(*faults)


def split_counts(labels: np.ndarray, split: np.ndarray, n_classes: int) -> np.ndarray:
    """Count the images per class and split, (n_classes, 3) int64."""
    return np.bincount(labels * 3 + split, minlength=3 * n_classes).reshape(n_classes, 3)


def _alike(class_names: list[str]) -> list[str]:
    alike = {}
    for name in class_names:
        alike.setdefault(re.sub(r"[\W_]+", " ", name).strip().casefold(), []).append(name)
    return [
        f"classes {', '.join(map(repr, names))} differ only in case or punctuation: give one class one name"
        for names in alike.values()
        if len(names) > 1
    ][:20]


def _some(items: list[str], noun: str) -> str:
    plural = noun if len(items) == 1 else f"{noun}es"
    shown = ", ".join(items[:20]) + (f" and {len(items) - 20} more" if len(items) > 20 else "")
    return f"{len(items)} {plural} ({shown})"
