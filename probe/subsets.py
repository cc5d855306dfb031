"""Rows of a feature file as the heads read them: in blocks, from memory where they fit, else from the mapped file."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

BLOCK_BYTES = 32 << 20
"""Most bytes of float32 features in one block of a part that is not in memory."""

MEMORY_LIMIT = 4 << 30


class Subset:
    """Some rows of a feature file with their labels.

    ``features`` (M, D) is an array in memory, float32, or a mapped one; ``rows`` (N,) are this part's rows of it, None
    for all. ``labels`` is (N,) int64. ``memory_limit`` is how many bytes a method may take for what it keeps of them.
    """

    def __init__(self, features: np.ndarray, labels: np.ndarray, rows=None, *, memory_limit: int = MEMORY_LIMIT):
        self.features, self.labels, self.memory_limit = features, labels, memory_limit
        self.rows: Any = rows

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def dim(self) -> int:
        return self.features.shape[1]

    @property
    def in_memory(self) -> bool:
        return self.rows is None

    def __getitem__(self, which) -> "Subset":
        """The part's rows ``which``, a slice or an index array; of a slice in memory, a view."""
        if self.in_memory:
            return Subset(self.features[which], self.labels[which], memory_limit=self.memory_limit)
        return Subset(self.features, self.labels[which], self.rows[which], memory_limit=self.memory_limit)

    def blocks(self, size: int | None = None) -> Iterator[tuple[slice, np.ndarray]]:
        """Which rows, and their features (m, D) float32, until all have come. In memory: all at once, unless sized."""
        at_once = min(BLOCK_BYTES, self.memory_limit // 8)
        size = size or (len(self) if self.in_memory else max(1, at_once // (4 * self.dim)))
        for start in range(0, len(self), size):
            at = slice(start, min(start + size, len(self)))
            yield at, self.features[at] if self.in_memory else np.asarray(self.features[self.rows[at]], np.float32)

    def loaded(self) -> "Subset":
        """The same rows, in memory."""
        if self.in_memory:
            return self
        return Subset(np.asarray(self.features[self.rows], np.float32), self.labels, memory_limit=self.memory_limit)


class Splits(NamedTuple):
    """What a method may see: it chooses on ``val`` what it fitted on ``train``, then fits ``final`` for good.

    ``final`` is train+val, or train alone where the number of images is what is studied.
    """

    train: Subset
    val: Subset
    final: Subset


def moments(part: Subset) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of every feature, (D,) float64 each; a constant feature's deviation is given as 1.

    Blocks, as many rows as the processor's cache holds, are merged as in Chan, Golub & LeVeque (1979), so that large
    means cost no digits.
    """
    count, mean, squares = 0, np.zeros(part.dim), np.zeros(part.dim)
    for _, block in part.blocks(4096):
        for start in range(0, len(block), 128):
            x = block[start : start + 128].astype(np.float64)
            ones = np.ones(len(x))
            centre = ones @ x / len(x)
            x -= centre
            shift, total = centre - mean, count + len(x)
            squares += ones @ np.square(x, out=x) + shift**2 * count * len(x) / total
            mean += shift * len(x) / total
            count = total
    deviation = np.sqrt(squares / count)
    # Rounding leaves a constant column a deviation of a few ulps, which must not be blown up to 1.
    return mean, np.where(deviation > 1e-6 * np.abs(mean), deviation, 1.0)


def class_sums(features: np.ndarray, labels: np.ndarray, *, n_classes: int, weights=None) -> np.ndarray:
    """Sum of each class's rows, each times its weight: (N, D), (N,) and (N,) to (K, D)."""
    from scipy.sparse import csr_array

    n = len(labels)
    weights = np.ones(n) if weights is None else weights
    return csr_array((weights, (labels, np.arange(n))), shape=(n_classes, n)) @ features
