"""Prediction sets that hold the true class as often as they say, and p-values of new images, by split conformal.

Both rest on scores of val's images under a model that was not fitted on them (V. Vovk, A. Gammerman & G. Shafer 2005,
Algorithmic learning in a random world). They hold for new images that are exchangeable with those of val, on average
over all images: not for each class, and not after a distribution shift.
"""

import math

import numpy as np

from backbench import UserError

KINDS = ("lac", "raps")
"""Kinds of sets: the least ambiguous ones (M. Sadinle, J. Lei & L. Wasserman 2019, Least ambiguous set-valued
classifiers with bounded error levels. JASA 114), which are the smallest on average, and regularised adaptive ones (A.
Angelopoulos, S. Bates, M. Jordan & J. Malik 2021, Uncertainty sets for image classifiers using conformal prediction.
ICLR), which are larger where an image is hard. Neither is randomised: the same image has the same set."""

PENALTY, FREE = 0.1, 1
"""RAPS adds ``PENALTY`` for each rank beyond the first ``FREE``. Chosen on val of real features (two backbones; 10, 100
and 101 classes; logistic and kNN heads; levels of 0.9 and 0.95): over 20 halvings of it sets are 1.08 times as large as
by the best of 44 pairs on average, 1.33 times at most. Of few images, 0.01 and 5 leave sets of 4 and 5 classes."""


def nonconformity(probabilities: np.ndarray, kind: str) -> np.ndarray:
    """The score that each class would have if it were true, higher where it is less expected: (N, K) to (N, K) float64.

    LAC's is 1 - p. RAPS's is the sum of the probabilities from the highest to that of the class, with ``PENALTY`` for
    each rank beyond ``FREE``; of equal probabilities the first class ranks first.
    """
    p = np.asarray(probabilities, np.float64)
    if kind == "lac":
        return 1 - p
    if kind != "raps":
        raise unknown(kind)
    order = np.argsort(-p, axis=1, kind="stable")
    beyond = np.maximum(0, np.arange(1, p.shape[1] + 1) - FREE)
    found = np.cumsum(np.take_along_axis(p, order, axis=1), axis=1) + PENALTY * beyond
    scores = np.empty_like(found)
    np.put_along_axis(scores, order, found, axis=1)
    return scores


def threshold(scores: np.ndarray, level: float) -> float:
    """Of the true classes' scores on val (M,) the ceil((M + 1) level)-th smallest; inf where M is less than that.

    A new image's true class scores at most that with probability ``level`` at least.
    """
    rank = _rank(len(scores), level)
    return float(np.partition(scores, rank - 1)[rank - 1]) if rank <= len(scores) else math.inf


def images_needed(level: float) -> int:
    """The number of val images from which on ``threshold`` is finite: 9 at a level of 0.9, 19 at 0.95."""
    return max(1, _ceil(_checked(level) / (1 - level)))


def sets(probabilities: np.ndarray, *, kind: str, threshold: float) -> np.ndarray:
    """Which classes are in each image's set, (N, K) bool: those that score ``threshold`` at most, and the first.

    Scores are compared as float32, as they are kept: rounded to nearest, which keeps their order.
    """
    found = nonconformity(probabilities, kind).astype(np.float32) <= np.float32(threshold)
    found[np.arange(len(found)), np.argmax(probabilities, axis=1)] = True
    return found


def p_values(scores: np.ndarray, new: np.ndarray) -> np.ndarray:
    """The share of val's scores (M,), with its own, that are at least as high as each new one (N,): (N,) in 0..1.

    Of images exchangeable with val a share of ``a`` at most has a p-value of ``a`` or less. A score that is NaN counts
    as higher than all.
    """
    known, new = np.sort(np.asarray(scores, np.float32)), np.asarray(new, np.float32)
    return (1 + len(known) - np.searchsorted(known, new, side="left")) / (1 + len(known))


def _rank(n: int, level: float) -> int:
    return _ceil((n + 1) * _checked(level))


def _ceil(value: float) -> int:
    """The next whole number: of 9.000000000000002, which is meant to be 9, it is 9."""
    return math.ceil(round(value, 9))


def _checked(level: float) -> float:
    if not 0 < level < 1:
        raise UserError(f"a level of {level:g} is no share of the images: a number between 0 and 1 is expected.")
    return level


def unknown(kind: str) -> UserError:
    """The error for a kind of sets that there isn't."""
    return UserError(f"{kind!r} is no kind of prediction sets: {' or '.join(KINDS)} is expected.")
