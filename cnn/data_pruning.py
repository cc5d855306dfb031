"""Data pruning: each epoch skips a random part of the images that had the lowest loss when they were last seen.

This follows Z. Qin et al. (2024), InfoBatch, arXiv:2303.04947. The first epoch and the last ones use every image. There
are two differences. Images are easy below a quantile of the loss, so that the work of a run is known in advance. The
loss of the easy images that stay isn't scaled up to make up for the skipped ones, which changed nothing on val.
"""

import numpy as np

WHOLE = 8
"""The last 1/8 of the epochs, and at least one, use every image, as in InfoBatch."""


def left_out(recipe, epoch: int, n: int) -> tuple[int, int]:
    """Return how many of ``n`` images are easy, and how many of these an epoch skips."""
    if epoch == 0 or epoch >= recipe.epochs - max(1, recipe.epochs // WHOLE):
        return 0, 0
    easy = round(recipe.prune_easy * n)
    return easy, round(recipe.prune * easy)


def shown(losses: np.ndarray, recipe, epoch: int, draw: np.random.Generator) -> np.ndarray:
    """Return the images of an epoch. ``losses`` (N,) holds each image's last loss, infinite where it was never seen."""
    easy, out = left_out(recipe, epoch, len(losses))
    easiest = np.argsort(losses, kind="stable")[:easy]
    return np.setdiff1d(np.arange(len(losses)), draw.choice(easiest, out, replace=False) if out else [])
