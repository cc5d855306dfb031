"""Which pictures an epoch shows: those that are learnt already are left out more often than not.

Dynamic data pruning after Z. Qin et al. (2024), InfoBatch, arXiv:2303.04947: a picture whose loss was low when it was
last seen is left out of an epoch by chance, the first epoch and the last ones show all. Unlike there, easy are those
below a quantile, so that a run's work is known before it, and the loss of those that stay isn't raised to make up for
the others, which changed nothing on val.
"""

import numpy as np

WHOLE = 8
"""The last 1/8 of the epochs, and at least one, show every picture, as InfoBatch has it."""


def left_out(recipe, epoch: int, n: int) -> tuple[int, int]:
    """Of ``n`` pictures, how many are easy, and how many of these an epoch leaves out."""
    if epoch == 0 or epoch >= recipe.epochs - max(1, recipe.epochs // WHOLE):
        return 0, 0
    easy = round(recipe.prune_easy * n)
    return easy, round(recipe.prune * easy)


def shown(losses: np.ndarray, recipe, epoch: int, draw: np.random.Generator) -> np.ndarray:
    """The pictures of an epoch, from ``losses`` (N,): of each when it was last seen, infinite where it never was."""
    easy, out = left_out(recipe, epoch, len(losses))
    easiest = np.argsort(losses, kind="stable")[:easy]
    return np.setdiff1d(np.arange(len(losses)), draw.choice(easiest, out, replace=False) if out else [])
