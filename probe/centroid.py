"""Nearest class mean by cosine similarity: what the features give without any fitting."""

import numpy as np

from backbench.accuracy import top_k
from backbench.probe.head import LinearHead
from backbench.probe.subsets import Splits, Subset, class_sums, moments

BLOCK = 4096
"""Rows at a time, in float64: bounds the memory."""

ABSENT = -2.0
"""Cosine given to a class without an image, times the length sqrt(D) of an average image: below all real ones, and
finite, so that the head can be stored and calibrated."""


class Centroid:
    """A class scores z . m / ||m||, with z a standardised image and m the mean of the class's images.

    That is cosine similarity times ||z||: the same order of classes, and a linear head. Nothing is chosen.
    """

    def __init__(self, data: Splits, *, n_classes: int, seed: int):
        standard = moments(data.train)
        before = _head(data.train, *standard, n_classes=n_classes)
        self.head = before if data.final is data.train else _head(data.final, *standard, n_classes=n_classes)
        self.val_scores = before.over(data.val)
        self.val_top1 = float(top_k(self.val_scores, data.val.labels, k=1).mean())
        self.train_top1 = self.head.top1(data.train)
        self.converged = True
        self.chosen = "-"
        self.protocol = {
            "similarity": "cosine to the class mean, times the image's own length",
            "standardised": "mean and standard deviation of train",
            "means_of": "train+val" if len(data.final) > len(data.train) else "train",
            "chosen_on": "nothing to choose",
        }

    def scores(self, features: np.ndarray) -> np.ndarray:
        """(N, D) to (N, K): cosine similarity to each class mean, times the image's own length."""
        return self.head.scores(features)


def _head(part: Subset, mean: np.ndarray, scale: np.ndarray, *, n_classes: int) -> LinearHead:
    sums = np.zeros((n_classes, part.dim))
    for at, x in part.blocks(BLOCK):
        sums += class_sums((x - mean) / scale, part.labels[at], n_classes=n_classes)
    length = np.linalg.norm(sums, axis=1, keepdims=True)
    absent = np.bincount(part.labels, minlength=n_classes) == 0
    weights = np.divide(sums, length, out=np.zeros_like(sums), where=length > 0)
    return LinearHead(mean, scale, weights, np.where(absent, ABSENT * part.dim**0.5, 0.0))
