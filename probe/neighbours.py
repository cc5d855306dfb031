"""Nearest neighbours by cosine similarity and their votes, in blocks that bound the memory."""

from collections.abc import Iterator

import numpy as np

from backbench.probe.subsets import Subset

TEMPERATURE = 0.07
"""A neighbour votes with exp(cosine / TEMPERATURE), as in DINOv2's evaluation (Oquab et al. 2023, eval/knn.py), which
lists no other."""

QUERIES, BANK = 2048, 4096
"""Images asked about and images of the bank at a time: bounds the similarity matrix in memory.

The same for parts in memory and mapped ones, so that both give the same bits.
"""


def nearest(queries: Subset, bank: Subset, k: int) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Block by block of ``queries``: which rows, and the cosines and labels (n, k) of their nearest, nearest first.

    k is cut to the size of the bank.
    """
    for at, x in queries.blocks(QUERIES):
        query = _unit(x)
        best, labels = np.empty((len(query), 0), np.float32), np.empty((len(query), 0), np.int64)
        for where, y in bank.blocks(BANK):
            similarity = query @ _unit(y).T
            near = _largest(similarity, k)
            best = np.concatenate([best, np.take_along_axis(similarity, near, axis=1)], axis=1)
            labels = np.concatenate([labels, bank.labels[where][near]], axis=1)
            near = _largest(best, k)
            best, labels = (np.take_along_axis(a, near, axis=1) for a in (best, labels))
        order = np.argsort(-best, axis=1, kind="stable")
        yield at, np.take_along_axis(best, order, axis=1), np.take_along_axis(labels, order, axis=1)


def votes_of(features: np.ndarray, bank: Subset, *, k: int, n_classes: int) -> np.ndarray:
    """The votes (N, K) of the ``k`` nearest images of the bank, for features (N, D)."""
    found = [np.zeros((0, n_classes))]
    for _, similarity, labels in nearest(Subset(features, np.zeros(len(features), np.int64)), bank, k):
        found.append(votes(similarity, labels, n_classes=n_classes))
    return np.concatenate(found)


def votes(similarity: np.ndarray, labels: np.ndarray, *, n_classes: int) -> np.ndarray:
    """The votes (N, K) of each image's neighbours (N, k), in units of the vote of a neighbour at cosine 1."""
    n = len(labels)
    weights = np.exp((similarity.astype(np.float64) - 1) / TEMPERATURE)
    cells = np.arange(n)[:, None] * n_classes + labels
    return np.bincount(cells.ravel(), weights.ravel(), minlength=n * n_classes).reshape(n, n_classes)


def _largest(values: np.ndarray, k: int) -> np.ndarray:
    """Columns of each row's ``k`` largest values, in no order, or of all where there are fewer: (n, <= k)."""
    return np.argpartition(values, max(values.shape[1] - k, 0), axis=1)[:, -k:]


def _unit(features: np.ndarray) -> np.ndarray:
    """Rows of length 1; a row of zeros stays one."""
    features = np.asarray(features, np.float32)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
