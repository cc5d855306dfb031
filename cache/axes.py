"""The two principal axes of a file's features, which are the axes of its map."""

import numpy as np

from backbench.cache import schema

FITTED = 2000
"""Largest number of evenly spaced rows for fitting the principal axes, so that 60,000 x 1,280 takes seconds."""

BLOCK = 4096
"""Number of rows that are projected at a time."""


def evenly(n: int, most: int) -> np.ndarray:
    """Return at most ``most`` evenly spaced numbers below ``n``, (m,) int64."""
    return np.arange(n) if n <= most else np.linspace(0, n - 1, most).astype(int)


def fit(file, there: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the mean (D,) of the rows ``there``, their two principal axes (D, 2), and these axes' share of variance.

    They are those of at most ``FITTED`` rows. The largest entry of each axis is positive.
    """
    from scipy.sparse.linalg import eigsh

    some = there[evenly(len(there), FITTED)]
    x = np.concatenate([x for _, x in schema.parts(file.features, some)])
    mean = x.mean(axis=0)
    x -= mean
    covariance = x.T @ x
    # ARPACK finds the two largest quickly; all 1,280 would take seconds.
    values, vectors = np.linalg.eigh(covariance) if len(mean) < 8 else eigsh(covariance, 2, v0=np.ones(len(mean)))
    axes = vectors[:, np.argsort(-values)[:2]]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    share = np.sort(values)[-2:].sum() / max(np.trace(covariance), np.finfo(np.float32).tiny)
    return mean, axes, float(share)


def project(file, which: np.ndarray, mean: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Return the place of the rows ``which`` (n,) on the axes, (n, 2), read in blocks."""
    blocks = np.array_split(which, max(1, len(which) // BLOCK))
    return np.concatenate([place(np.asarray(file.features[block], np.float32), mean, axes) for block in blocks])


def place(x: np.ndarray, mean: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Return the place of features ``x`` (n, D) on the axes, (n, 2)."""
    flat = (x - mean) @ axes
    return np.pad(flat, ((0, 0), (0, 2 - flat.shape[1])))  # a single feature has one axis
