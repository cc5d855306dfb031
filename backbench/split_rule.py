"""Splits of a data set that comes without one: seeded, and the same on every machine and Python.

``caltech_rule`` is the published study's, for Caltech-256, Caltech-101 and digits; ``folder_rule`` is for all others.

Order is by ``sha256(f"{seed}:{id}")``, not by a random generator, so that a member's place depends on its own name
only. It needs no images, so that features that come as arrays are split by it, too.
"""

import hashlib

import numpy as np

TRAIN, VAL, TEST = range(3)

SMALL = 10
"""Number of images up to which a class of a data set of one's own is split in integers; see ``folder_counts``."""


def shuffled(ids: list[str], *, seed: int) -> list[int]:
    """Positions of ``ids`` in their seeded order."""
    keys = [hashlib.sha256(f"{seed}:{id}".encode()).digest() for id in ids]
    return sorted(range(len(ids)), key=keys.__getitem__)


def caltech_counts(n: int) -> tuple[int, int, int]:
    """Images for train, val and test in a class of ``n``: the published study's rule, in its floating point.

    0.7 + 0.1 is 0.7999999999999999, so a class of 80 has 56, 7 and 17, not 56, 8 and 16.
    """
    train = int(n * 0.7)
    val = int(n * (0.7 + 0.1)) - train
    return train, val, n - train - val


def folder_counts(n: int) -> tuple[int, int, int]:
    """Images for train, val and test in a class of ``n`` of a data set of one's own.

    Of ten images or fewer it takes 70, 10 and 20 % in integers, with at least one image for val and for test where
    there are three. Larger classes have ``caltech_counts``, which differ from integers by one image at most, so that
    the splits of existing data sets stay where they are.
    """
    if n > SMALL:
        return caltech_counts(n)
    test = n - n * 8 // 10
    val = max(n * 8 // 10 - n * 7 // 10, min(n // 3, 1))
    return n - val - test, val, test


def caltech_rule(ids: list[str], labels: np.ndarray, *, seed: int) -> np.ndarray:
    """Split (N,) int8 by ``caltech_counts`` in each class."""
    return _by_class(ids, labels, caltech_counts, seed)


def folder_rule(ids: list[str], labels: np.ndarray, *, seed: int) -> np.ndarray:
    """Split (N,) int8 by ``folder_counts`` in each class."""
    return _by_class(ids, labels, folder_counts, seed)


def _by_class(ids, labels, counts, seed) -> np.ndarray:
    split = np.empty(len(ids), np.int8)
    for rows in classes(labels):
        order = rows[shuffled([ids[row] for row in rows], seed=seed)]
        train, val, _ = counts(len(rows))
        split[order[:train]] = TRAIN
        split[order[train : train + val]] = VAL
        split[order[train + val :]] = TEST
    return split


def classes(labels: np.ndarray) -> list[np.ndarray]:
    """The rows of each class, in ascending order."""
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(labels[order])) + 1) if len(labels) else []
