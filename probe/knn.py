"""Weighted k-nearest neighbours, as DINOv2 evaluates its features."""

from collections.abc import Iterator

import numpy as np

from backbench.accuracy import top_k
from backbench.probe.subsets import Splits, Subset

KS = (10, 20, 100, 200)
"""Neighbours tried, as in DINOv2's evaluation (Oquab et al. 2023, eval/knn.py)."""

TEMPERATURE = 0.07
"""A neighbour votes with exp(cosine / TEMPERATURE). Same source, which lists no other."""

QUERIES, BANK = 2048, 4096
"""Images asked about and images of the bank at a time: bounds the similarity matrix in memory.

The same for parts in memory and mapped ones, so that both give the same bits.
"""


class Knn:
    """Cosine similarity, votes weighted by exp(similarity / 0.07); k chosen on val, then val joins the bank."""

    head = None

    def __init__(self, data: Splits, *, n_classes: int, seed: int):
        self.n_classes = n_classes
        ks = sorted({min(k, len(data.train)) for k in KS})
        found = [(s, labels) for _, s, labels in _neighbours(data.val, data.train, max(ks))]
        similarity, labels = (np.concatenate(blocks) for blocks in zip(*found, strict=True))
        right = {k: top_k(self._votes(similarity[:, :k], labels[:, :k]), data.val.labels, k=1).mean() for k in ks}
        self.k = max(ks, key=lambda k: (right[k], -k))
        self.val_top1 = float(right[self.k])
        self.val_scores = self._votes(similarity[:, : self.k], labels[:, : self.k])
        self.bank = data.final
        self.train_top1 = self._train_top1(data.train)
        self.converged = True
        self.chosen = f"k={self.k}"
        self.protocol = {
            "k": self.k,
            "k_tried": [{"k": k, "val_top1": float(right[k])} for k in ks],
            "k_at_edge": self.k in (ks[0], ks[-1]),
            "temperature": TEMPERATURE,
            "similarity": "cosine",
            "chosen_on": "val top-1, ties to the smaller k",
            "bank": "train+val" if len(data.final) > len(data.train) else "train",
            "train_top1": "each image's nearest neighbour, itself, left out",
        }

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Votes (N, K) for features (N, D)."""
        queries = Subset(features, np.zeros(len(features), np.int64))
        votes = [self._votes(s, labels) for _, s, labels in _neighbours(queries, self.bank, self.k)]
        return np.concatenate(votes) if votes else np.zeros((0, self.n_classes))

    def _train_top1(self, train: Subset) -> float:
        """The accuracy on train, where no image votes for itself: with its own vote it would mean nothing."""
        right = 0
        for at, similarity, labels in _neighbours(train, self.bank, self.k + 1):
            right += top_k(self._votes(similarity[:, 1:], labels[:, 1:]), train.labels[at], k=1).sum()
        return float(right / len(train))

    def _votes(self, similarity: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """The votes (N, K) of each image's neighbours (N, k), in units of the vote of a neighbour at cosine 1."""
        n = len(labels)
        weights = np.exp((similarity.astype(np.float64) - 1) / TEMPERATURE)
        cells = np.arange(n)[:, None] * self.n_classes + labels
        votes = np.bincount(cells.ravel(), weights.ravel(), minlength=n * self.n_classes)
        return votes.reshape(n, self.n_classes)


def _neighbours(queries: Subset, bank: Subset, k: int) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
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


def _largest(values: np.ndarray, k: int) -> np.ndarray:
    """Columns of each row's ``k`` largest values, in no order, or of all where there are fewer: (n, <= k)."""
    return np.argpartition(values, max(values.shape[1] - k, 0), axis=1)[:, -k:]


def _unit(features: np.ndarray) -> np.ndarray:
    """Rows of length 1; a row of zeros stays one."""
    features = np.asarray(features, np.float32)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
