"""Weighted k-nearest neighbours, as DINOv2 evaluates its features."""

import numpy as np

from probe.metrics import top_k

KS = (10, 20, 100, 200)
"""Neighbours tried, as in DINOv2's evaluation (Oquab et al. 2023, eval/knn.py)."""

TEMPERATURE = 0.07
"""A neighbour votes with exp(cosine / TEMPERATURE). Same source."""

BLOCK = 512
"""Query rows at a time: bounds the similarity matrix in memory."""


class Knn:
    """Cosine similarity, votes weighted by exp(similarity / 0.07); k chosen on val, then val joins the bank."""

    def __init__(self, train, val, *, n_classes: int, seed: int):
        self.n_classes = n_classes
        n_train = len(train.labels)
        ks = sorted({min(k, n_train) for k in KS})
        bank = _unit(train.features)
        right = {
            k: top_k(votes, val.labels, k=1).mean() for k, votes in self._votes(val.features, bank, train.labels, ks)
        }
        self.k = max(ks, key=lambda k: (right[k], -k))
        self.val_top1 = float(right[self.k])
        self.bank = np.concatenate([bank, _unit(val.features)])
        self.labels = np.concatenate([train.labels, val.labels])
        # An image is its own nearest neighbour: its vote is left out, or accuracy on train would mean nothing.
        ((_, votes),) = self._votes(train.features, self.bank, self.labels, [self.k], own=True)
        self.train_top1 = float(top_k(votes, train.labels, k=1).mean())
        self.converged = True
        self.chosen = f"k={self.k}"
        self.protocol = {
            "k": self.k,
            "k_tried": ks,
            "temperature": TEMPERATURE,
            "similarity": "cosine",
            "chosen_on": "val top-1, ties to the smaller k",
            "bank": "train+val",
            "train_top1": "each image's own vote left out",
        }

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Votes (N, K) for features (N, D)."""
        ((_, votes),) = self._votes(features, self.bank, self.labels, [self.k])
        return votes

    def _votes(self, features, bank, labels, ks, *, own: bool = False):
        """For each k the votes (N, K). With ``own``, row i of ``features`` is row i of ``bank``, and has no vote."""
        votes = {k: np.zeros((len(features), self.n_classes)) for k in ks}
        most = min(max(ks), len(bank) - own)
        for start in range(0, len(features), BLOCK):
            query = _unit(features[start : start + BLOCK])
            similarity = query @ bank.T
            rows = np.arange(len(query))[:, None]
            if own:
                similarity[rows[:, 0], start + rows[:, 0]] = -np.inf
            near = np.argpartition(-similarity, most - 1, axis=1)[:, :most]
            near = np.take_along_axis(near, np.argsort(-similarity[rows, near], axis=1, kind="stable"), axis=1)
            weights = np.exp((similarity[rows, near].astype(np.float64) - 1) / TEMPERATURE)
            for k in ks:
                np.add.at(votes[k][start : start + BLOCK], (rows, labels[near[:, :k]]), weights[:, :k])
        return votes.items()


def _unit(features: np.ndarray) -> np.ndarray:
    """Rows of length 1; a row of zeros stays one."""
    features = features.astype(np.float32)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
