"""Ridge regression to targets of ±1, every penalty from one eigendecomposition.

Minimises, over weights W (D, K) and an unpenalised intercept b (K,),

    ||Z W + b - Y||^2 + alpha ||W||^2,

where Z (N, D) are the standardised features and Y (N, K) is 1 at an image's class and -1 elsewhere. The features are
read once: all that is needed of them is sums.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from probe.head import LinearHead
from probe.metrics import top_k
from probe.parts import Data, Part, class_sums, moments

GRID = tuple(np.logspace(0, -11, 45).tolist())
"""Values of alpha tried, from strong to weak, as shares of the sum of the eigenvalues of Z^T Z, which is N D.

The strongest exceeds each of them, and leaves little but the class means and sizes: what is stronger still lets the
largest class win. The weakest is least squares, yet stands well above what rounding makes of a zero (1e-16 of the sum).
"""

BLOCK = 4096
"""Rows at a time, in float64: bounds the memory."""

TOLERANCE = 1e-6
"""Largest gradient entry of a solved problem, as a share of the largest at W = 0."""


class Ridge:
    """alpha chosen on val, then solved anew on final with that alpha. Standardisation is train's throughout."""

    def __init__(self, data: Data, *, n_classes: int, seed: int):
        self.mean, self.scale = moments(data.train)
        on_train = self._sums(data.train, n_classes)
        problem = _Problem(on_train)
        alphas = [float(f"{share * problem.spectrum[0].sum() or share:.3g}") for share in GRID]
        right = self._right(problem, data.val, alphas)
        best = int(right.argmax())  # the first of equals: the strongest
        alpha = alphas[best]
        weights = problem.solve(alpha)
        before = problem.head(weights, self.mean, self.scale)
        self.val_scores = before.over(data.val)
        self.val_top1 = float(top_k(self.val_scores, data.val.labels, k=1).mean())

        if data.final is not data.train:
            n = len(data.train)
            problem = _Problem(
                on_train + self._sums(data.final[n:], n_classes)
                if _begins_with(data.final, data.train)
                else self._sums(data.final, n_classes)
            )
            weights = problem.solve(alpha)
        self.head = problem.head(weights, self.mean, self.scale)
        self.train_top1 = self.head.top1(data.train)
        share = problem.gradient_share(weights, alpha)
        self.converged = share <= TOLERANCE
        self.chosen = f"alpha={alpha:g}"
        self.protocol = {
            "objective": "||Z W + b - Y||^2 + alpha ||W||^2, Y of 1 and -1, intercept free",
            "solver": "eigenvectors of the Gram matrix to choose, LU for the head, float64",
            "standardised": "mean and standard deviation of train",
            "alpha": alpha,
            "alpha_tried": [
                {"alpha": a, "val_top1": float(n / len(data.val))} for a, n in zip(alphas, right, strict=True)
            ],
            "alpha_at_edge": alpha in (alphas[0], alphas[-1]),
            "chosen_on": "val top-1, ties to the stronger penalty",
            "refit_on": "train+val" if len(data.final) > len(data.train) else "train",
            "tolerance": TOLERANCE,
            "gradient_share": share,
        }

    def scores(self, features: np.ndarray) -> np.ndarray:
        """(N, D) to (N, K): the regression's estimates, near 1 for the class and near -1 for others."""
        return self.head.scores(features)

    def _sums(self, part: Part, n_classes: int) -> "_Sums":
        gram, by_class = np.zeros((part.dim, part.dim)), np.zeros((n_classes, part.dim))
        for at, x in part.blocks(BLOCK):
            z = (x - self.mean) / self.scale
            gram += z.T @ z
            by_class += class_sums(z, part.labels[at], n_classes=n_classes)
        return _Sums(np.bincount(part.labels, minlength=n_classes), by_class, gram)

    def _right(self, problem: "_Problem", val: Part, alphas: list[float]) -> np.ndarray:
        """How many images of val each alpha gets right, (A,) int.

        Among the eigenvectors a change of alpha only rescales: each costs one float32 product of val with K columns.
        """
        eigenvalues, basis, target = problem.spectrum
        level, right = problem.level.astype(np.float32), np.zeros(len(alphas), int)
        for at, x in val.blocks(BLOCK):
            rotated = (((x - self.mean) / self.scale - problem.centre) @ basis).astype(np.float32)
            for i, alpha in enumerate(alphas):
                scores = rotated @ (target / (eigenvalues + alpha)[:, None]).astype(np.float32) + level
                right[i] += top_k(scores, val.labels[at], k=1).sum()
        return right


@dataclass(frozen=True)
class _Sums:
    """Over standardised images z: how many (K,) and their sum (K, D) by class, and the sum of z z^T (D, D)."""

    counts: np.ndarray
    by_class: np.ndarray
    gram: np.ndarray

    def __add__(self, other: "_Sums") -> "_Sums":
        return _Sums(self.counts + other.counts, self.by_class + other.by_class, self.gram + other.gram)


class _Problem:
    """Centred, so that the intercept falls out: (gram + alpha I) W = target, with gram (D, D) and target (D, K)."""

    def __init__(self, sums: _Sums):
        n = sums.counts.sum()
        self.centre = sums.by_class.sum(axis=0) / n
        self.level = 2 * sums.counts / n - 1  # mean of Y
        self.gram = sums.gram - n * np.outer(self.centre, self.centre)
        self.target = 2 * (sums.by_class - sums.counts[:, None] * self.centre).T

    @cached_property
    def spectrum(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Eigenvalues (D,) and eigenvectors (D, D) of gram, and the target (D, K) among the eigenvectors."""
        eigenvalues, basis = np.linalg.eigh(self.gram)
        return np.maximum(eigenvalues, 0), basis, basis.T @ self.target  # rounding leaves a zero on either side

    def solve(self, alpha: float) -> np.ndarray:
        """W (D, K) for one alpha, without the spectrum."""
        return np.linalg.solve(self.gram + alpha * np.eye(len(self.gram)), self.target)

    def gradient_share(self, weights: np.ndarray, alpha: float) -> float:
        gradient = self.gram @ weights + alpha * weights - self.target
        return float(np.abs(gradient).max() / (np.abs(self.target).max() or 1.0))

    def head(self, weights: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> LinearHead:
        return LinearHead(mean, scale, weights.T, self.level - self.centre @ weights)


def _begins_with(whole: Part, start: Part) -> bool:
    """Whether the first rows of ``whole`` are those of ``start``, whose sums can then be used again."""
    n = len(start)
    if whole.in_memory != start.in_memory or not np.array_equal(whole.labels[:n], start.labels):
        return False
    if start.in_memory:
        return np.array_equal(whole.features[:n], start.features)
    return whole.features is start.features and np.array_equal(whole.rows[:n], start.rows)
