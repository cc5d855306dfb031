"""Weighted k-nearest neighbours, as DINOv2 evaluates its features."""

import numpy as np

from backbench.accuracy import top_k
from backbench.probe.head import KnnHead
from backbench.probe.neighbours import TEMPERATURE, nearest, votes, votes_of
from backbench.probe.subsets import Splits, Subset

KS = (10, 20, 100, 200)
"""Neighbours tried, as in DINOv2's evaluation (Oquab et al. 2023, eval/knn.py)."""


class Knn:
    """Cosine similarity, votes weighted by exp(similarity / 0.07); k chosen on val, then val joins the bank."""

    def __init__(self, data: Splits, *, n_classes: int, seed: int):
        self.n_classes = n_classes
        ks = sorted({min(k, len(data.train)) for k in KS})
        found = [(s, labels) for _, s, labels in nearest(data.val, data.train, max(ks))]
        similarity, labels = (np.concatenate(blocks) for blocks in zip(*found, strict=True))

        def voted(k: int) -> np.ndarray:
            return votes(similarity[:, :k], labels[:, :k], n_classes=n_classes)

        right = {k: top_k(voted(k), data.val.labels, k=1).mean() for k in ks}
        self.k = max(ks, key=lambda k: (right[k], -k))
        self.val_top1 = float(right[self.k])
        self.val_scores = voted(self.k)
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
        return votes_of(features, self.bank, k=self.k, n_classes=self.n_classes)

    @property
    def head(self) -> KnnHead:
        """With a copy of the bank, as the file has it."""
        bank = self.bank
        features = bank.features if bank.in_memory else np.asarray(bank.features[bank.rows])
        return KnnHead(features, bank.labels, self.k, self.n_classes)

    def _train_top1(self, train: Subset) -> float:
        """The accuracy on train, where no image votes for itself: with its own vote it would mean nothing."""
        right = 0
        for at, similarity, labels in nearest(train, self.bank, self.k + 1):
            voted = votes(similarity[:, 1:], labels[:, 1:], n_classes=self.n_classes)
            right += top_k(voted, train.labels[at], k=1).sum()
        return float(right / len(train))
