"""Cross-entropy of a linear softmax classifier and its gradient, over rows in memory or streamed from the file.

Weights are (K, D + 1), the last column the intercept. The rows are standardised and sorted by class.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from backbench.probe.softmax.array_backends import Numpy, numpy
from backbench.probe.subsets import Subset, class_sums

ROWS = 4096
"""Rows at a time: the logits of a block stay in the processor's cache between the two products."""


class Rows:
    """Standardised rows of a part, (x - mean) / scale in float32, with their labels and weights.

    Within ``limit`` bytes they are kept, sorted by class; beyond it every pass reads the part again, block by block.
    ``weights`` (N,) are relative: the objective is a weighted mean over images.
    """

    def __init__(self, part: Subset, mean, scale, *, weights=None, limit: int):
        self.mean, self.factor = mean.astype(np.float32), (1 / scale).astype(np.float32)
        order = np.argsort(part.labels, kind="stable")
        self.limit, self.kept = limit, None
        if 4 * len(part) * part.dim <= limit:
            self.kept = np.empty((len(part), part.dim), np.float32)
            for start in range(0, len(part), ROWS):
                at = slice(start, start + ROWS)
                ((_, x),) = part[order[at]].blocks(ROWS)
                self.kept[at] = self._standardised(x)
        self.part, self.of_class = part, order  # of_class: row numbers, grouped by class
        self.labels = part.labels[order] if self.kept is not None else part.labels
        share = np.ones(len(part)) if weights is None else np.asarray(weights, float)
        self.share = (share / share.sum())[order if self.kept is not None else slice(None)]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def dim(self) -> int:
        return self.part.dim

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Which rows, and their standardised features (m, D) float32."""
        if self.kept is not None:
            for start in range(0, len(self), ROWS):
                yield slice(start, start + ROWS), self.kept[start : start + ROWS]
        else:
            for at, x in self.part.blocks():
                yield at, self._standardised(x)

    def of(self, label_range: slice) -> tuple[slice | np.ndarray, np.ndarray]:
        """Row numbers and standardised features of a range of the rows sorted by class; a view where they are kept."""
        if self.kept is not None:
            return label_range, self.kept[label_range]
        rows = np.sort(self.of_class[label_range])
        return rows, np.concatenate([self._standardised(x) for _, x in self.part[rows].blocks()])

    def _standardised(self, x: np.ndarray) -> np.ndarray:
        x = x - self.mean
        x *= self.factor
        return x


class Point(NamedTuple):
    """Weights, and what one pass over the rows says of them."""

    weights: np.ndarray  # (K, D + 1)
    loss: float  # mean cross-entropy
    slope: np.ndarray  # (K, D + 1), its gradient
    miss: np.ndarray  # (N,), one less the probability given to the true class
    stray: np.ndarray  # (K,), mean probability given to each class by the images of all others

    def at(self, penalty: float) -> tuple[float, np.ndarray]:
        """Objective and gradient: mean cross-entropy + penalty / 2 ||W||^2, the intercept free."""
        free = self.weights[:, :-1]
        gradient = self.slope + 0
        gradient[:, :-1] += penalty * free
        return self.loss + penalty / 2 * float((free * free).sum()), gradient


class Objective:
    """Mean cross-entropy over ``rows``, in float32 until ``raise_precision`` makes it float64. Sums are float64."""

    device = "cpu"

    def __init__(self, rows: Rows, n_classes: int, *, dtype=np.float32):
        self.rows, self.n_classes, self.dtype = rows, n_classes, np.dtype(dtype)
        self.precision = self.dtype.name  # of the products, by now
        self.arrays = Numpy()
        self.evaluations = 0

    def start(self) -> Point:
        """The optimum without features: intercepts that give every class its share. Costs one sum over the rows."""
        rows, k = self.rows, self.n_classes
        prior = np.bincount(rows.labels, rows.share, k)
        weights = np.zeros((k, rows.dim + 1), self.dtype)
        weights[:, -1] = np.log(np.maximum(prior, 1e-12))
        sums = np.zeros((k, rows.dim))
        for at, x in rows.blocks():
            sums += class_sums(x, rows.labels[at], n_classes=k, weights=rows.share[at].astype(np.float32))
        slope = np.zeros_like(weights)
        slope[:, :-1] = prior[:, None] * sums.sum(axis=0) - sums
        loss = -float(prior @ weights[:, -1].astype(float))
        return Point(weights, loss, slope, 1 - prior[rows.labels], prior * (1 - prior))

    @property
    def noise(self) -> float:
        """Share of the objective that its rounding may hide."""
        return 1e-14 if self.precision == "float64" else 1e-6

    def native(self, array):
        """An array of the kind that weights and gradients are."""
        return numpy(array).astype(self.dtype, copy=False)

    def gap_error(self, point: Point, penalty: float) -> float:
        """The gap below which the arithmetic used at ``point`` can't be believed."""
        return 0.0

    def gradient_error(self, point: Point) -> float:
        """Square norm of what the arithmetic may have added to the gradient at ``point``."""
        return 0.0

    def along(self, point: Point, step) -> Callable[[float], Point]:
        """What lies ``length`` times ``step`` (K, D + 1) from ``point``, the last the solver took, by length."""
        return lambda length: self.evaluate(point.weights + length * step)

    def evaluate(self, weights: np.ndarray) -> Point:
        """One pass over the rows, of which there is no doubt."""
        self.evaluations += 1
        weights = weights.astype(self.dtype, copy=False)
        free, intercept = np.ascontiguousarray(weights[:, :-1]), weights[:, -1]
        slope, loss = np.zeros_like(weights), 0.0
        miss, stray = np.empty(len(self.rows)), np.zeros(self.n_classes)
        for at, x in self.rows.blocks():
            x, labels, share = x.astype(self.dtype, copy=False), self.rows.labels[at], self.rows.share[at]
            own = np.arange(len(x)), labels
            p = x @ free.T
            p += intercept
            p -= p.max(axis=1, keepdims=True)
            mine = p[own].astype(float)
            np.exp(p, out=p)
            total = p.sum(axis=1)
            loss += float(share @ (np.log(total.astype(float)) - mine))
            p *= (share / total).astype(self.dtype)[:, None]
            p[own] = 0
            # Summed over the others: 1 - p would lose all digits where p nears 1.
            rest = p.sum(axis=1, dtype=np.float64)
            stray += p.sum(axis=0, dtype=np.float64)
            p[own] = -rest
            miss[at] = rest / np.where(share > 0, share, 1)
            slope[:, :-1] += p.T @ x
            slope[:, -1] += p.sum(axis=0, dtype=np.float64)
        return Point(weights, loss, slope, miss, stray)

    def raise_precision(self) -> bool:
        """Go on in finer arithmetic; False where there is none."""
        finer = self.precision != "float64"
        self.dtype, self.precision = np.dtype(np.float64), "float64"
        return finer
