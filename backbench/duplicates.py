"""Copies of training images in test, and images in two classes: equal images, found by ``cache.equal``."""

from collections.abc import Callable

import numpy as np

from backbench.progress import tell
from backbench.statistics import interval

NAMED = 5
"""Pairs that are named."""


def figures(equal, labels, fitted: np.ndarray, test: np.ndarray, right: np.ndarray, *, limits: Callable = interval):
    """What a row says of equal images: ``equal`` (N,) as of ``cache.equal``, and their ``labels`` (N,).

    ``n_test_duplicates`` of the test images equal one that the head was fitted or chosen on, and ``n_contradicting``
    images equal one of another class. ``top1_without_duplicates`` is the accuracy (0..1) of the other test images, with
    its 95 % interval by ``limits``; None where all are left, or none. ``fitted`` and ``test`` are rows among the N,
    ``right`` (len(test),) says which test images the head is right about.
    """
    copies = _copies(equal, fitted, test)
    name, kept = "top1_without_duplicates", right[~copies]
    found = {
        "n_test_duplicates": int(copies.sum()),
        "n_contradicting": int(_contradicting(equal, labels).sum()),
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
    least = np.repeat(labels[order][first], np.diff(first, append=len(order)))
    found = np.zeros(len(labels), bool)
    found[order] = (group[order] >= 0) & (labels[order] != least)
    return (group >= 0) & np.isin(group, group[found])


def say(file) -> None:
    """Tell how many images of ``file`` are equal, and name some pairs."""
    group = file.equal
    test, fitted = (np.flatnonzero((file.split == 2) == is_test) for is_test in (True, False))
    copied = test[_copies(group, fitted, test)]
    if len(copied):
        pairs = [(row, _twin(group, row, file.split < 2)) for row in copied[:NAMED]]
        tell(
            f"{file.path}: {len(copied):,} of {len(test):,} test images equal an image of train or val: "
            f"{_named(file, pairs)}. Rows give top-1 without them, too."
        )
    torn = np.flatnonzero(_contradicting(group, file.labels))
    if len(torn):
        firsts = torn[np.unique(group[torn], return_index=True)[1]]
        pairs = [(row, _twin(group, row, file.labels != file.labels[row])) for row in np.sort(firsts)[:NAMED]]
        tell(f"{file.path}: {len(torn):,} images equal one of another class: {_named(file, pairs)}.")


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
