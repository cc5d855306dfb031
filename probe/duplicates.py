"""Equal images in a feature file, found by their features: copies of training images in test, one image in two classes.

A backbone gives equal pixels equal features, and different photos no equal ones. So equal rows are images that are
equal as the backbone sees them, whatever they are called. Copies that were cropped, scaled or compressed again aren't
found. One in a last, smaller batch may be missed, for its features can differ in their last digits.
"""

import hashlib
import sys
from collections.abc import Callable

import numpy as np

from backbench.statistics import interval
from cache import layout

SAMPLED = 16
"""Features, evenly spaced, in which rows must agree before they are compared in full. So only a little of each row is
read: some 30 ms for 30,000 x 1,280."""

NAMED = 5
"""Pairs that are named."""


def groups(file) -> np.ndarray:
    """For each row of ``file`` a number that it shares with the rows of equal features, (N,) int64.

    -1 where no other row is equal, and for images that were skipped.
    """
    done = np.flatnonzero(file.done == layout.DONE)
    columns = np.unique(np.linspace(0, file.features.shape[1] - 1, SAMPLED).astype(int))
    some = np.ascontiguousarray(file.features[done[:, None], columns])
    alike = done[_shared(some.view(f"V{some.itemsize * len(columns)}").ravel()) >= 0]
    found = np.full(len(file.done), -1)
    if len(alike):
        digests = b"".join(hashlib.blake2b(file.features[row].data, digest_size=16).digest() for row in alike)
        found[alike] = _shared(np.frombuffer(digests, "V16"))
    return found


def _shared(keys: np.ndarray) -> np.ndarray:
    """A number for each of the keys (n,) that occur more than once, -1 for the others."""
    _, number, counts = np.unique(keys, return_inverse=True, return_counts=True)
    return np.where(counts[number] > 1, number, -1)


def figures(file, fitted: np.ndarray, test: np.ndarray, right: np.ndarray, *, limits: Callable = interval) -> dict:
    """What a row says of equal images.

    ``n_test_duplicates`` of the test images equal one that the head was fitted or chosen on, and ``n_contradicting``
    images equal one of another class. ``top1_without_duplicates`` is the accuracy (0..1) of the other test images, with
    its 95 % interval by ``limits``; None where all are left, or none. ``fitted`` and ``test`` are rows of ``file``,
    ``right`` (len(test),) says which test images the head is right about.
    """
    group = groups(file)
    copies = _copies(group, fitted, test)
    name, kept = "top1_without_duplicates", right[~copies]
    found = {
        "n_test_duplicates": int(copies.sum()),
        "n_contradicting": int(_contradicting(group, file.labels).sum()),
        **dict.fromkeys((name, f"{name}_low", f"{name}_high")),
    }
    if copies.any() and len(kept):
        low, high = limits(kept.sum(), len(kept))
        found |= {name: float(kept.mean()), f"{name}_low": float(low), f"{name}_high": float(high)}
    return found


def _copies(group: np.ndarray, fitted: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Which of the rows ``test`` equal one of the rows ``fitted``, (len(test),) bool."""
    return (group[test] >= 0) & np.isin(group[test], group[fitted])


def _contradicting(group: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Which rows equal one of another class, (N,) bool."""
    order = np.lexsort((labels, group))
    first = np.flatnonzero(np.diff(group[order], prepend=-2))  # where each group begins, by ascending label
    least = np.repeat(labels[order][first], np.diff([*first, len(order)]))
    found = np.zeros(len(labels), bool)
    found[order] = (group[order] >= 0) & (labels[order] != least)
    return (group >= 0) & np.isin(group, group[found])


def say(file) -> None:
    """Tell on stderr how many images of ``file`` are equal, and name some pairs."""
    group = groups(file)
    test, fitted = (np.flatnonzero((file.split == 2) == is_test) for is_test in (True, False))
    copied = test[_copies(group, fitted, test)]
    if len(copied):
        pairs = [(row, _twin(group, row, file.split < 2)) for row in copied[:NAMED]]
        print(
            f"{file.path}: {len(copied):,} of {len(test):,} test images equal an image of train or val: "
            f"{_named(file, pairs)}. Rows give top-1 without them, too.",
            file=sys.stderr,
        )
    torn = np.flatnonzero(_contradicting(group, file.labels))
    if len(torn):
        firsts = torn[np.unique(group[torn], return_index=True)[1]]
        pairs = [(row, _twin(group, row, file.labels != file.labels[row])) for row in np.sort(firsts)[:NAMED]]
        print(
            f"{file.path}: {len(torn):,} images equal one of another class: {_named(file, pairs)}.",
            file=sys.stderr,
        )


def _twin(group: np.ndarray, row: int, among: np.ndarray) -> int:
    """The first row equal to ``row`` among those marked, (N,) bool."""
    return int(np.flatnonzero((group == group[row]) & among)[0])


def _named(file, pairs) -> str:
    shown = [
        " = ".join(f"{_printable(file.ids[row])} ({_printable(file.class_names[file.labels[row]])})" for row in pair)
        for pair in pairs
    ]
    return ", ".join(shown)


def _printable(name: str) -> str:
    return name if name.isprintable() else repr(name)
