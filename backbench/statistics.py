"""How far to trust an accuracy, and a difference between two on the same images. 95 % and two-sided throughout."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Z = 1.959963984540054
"""Standard normal quantile of 97.5 %, for two-sided 95 % intervals."""


class Paired(NamedTuple):
    """Two heads, a and b, on the same images."""

    n10: int  # images that a alone gets right
    n01: int  # images that b alone gets right
    p: float  # McNemar's exact test of equal accuracy
    difference: float  # a's accuracy less b's
    low: float  # its 95 % interval
    high: float


def wilson(right, n):
    """Wilson's score interval of ``right`` successes in ``n`` trials; scalars or arrays, n > 0.

    E. B. Wilson (1927), Probable inference, the law of succession, and statistical inference. JASA 22.
    """
    p = right / n
    centre = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * np.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    # Rounding must push no limit past p, 0 or 1.
    return np.clip(centre - half, 0.0, p), np.clip(centre + half, p, 1.0)


def mcnemar(right_a: np.ndarray, right_b: np.ndarray) -> Paired:
    """Paired test between two heads, from whether each is right on each image, (N,) bool both, N > 0.

    Only images on which one head alone is right tell them apart; were the heads equally good, each of these would be
    either's with probability 1/2, and p is that binomial's, exactly. McNemar (1947), Psychometrika 12. The interval is
    Newcombe's, which need not agree with the test at its edge.
    """
    n10, n01 = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    n, fewer = n10 + n01, np.arange(1, min(n10, n01) + 1)
    # log C(n, i) 2^-n for i = 0, 1, ...: factor by factor, since the numbers themselves leave float64 at n = 1,030.
    logs = np.concatenate([[0.0], np.cumsum(np.log((n - fewer + 1) / fewer))]) - n * np.log(2)
    p = min(1.0, 2 * float(np.exp(logs).sum()))
    return Paired(n10, n01, p, (n10 - n01) / len(right_a), *newcombe(right_a, right_b))


def newcombe(right_a: np.ndarray, right_b: np.ndarray) -> tuple[float, float]:
    """95 % interval of a's accuracy less b's on the same images, (N,) bool both.

    Wilson's limits of the two, joined as their correlation phi demands. R. G. Newcombe (1998), Improved confidence
    intervals for the difference between binomial proportions based on paired data. Stat. Med. 17, method 10.
    """
    n, a, b, both = len(right_a), int(right_a.sum()), int(right_b.sum()), int((right_a & right_b).sum())
    covariance = both * (n - a - b + both) - (a - both) * (b - both)
    if covariance > 0:
        covariance = max(covariance - n / 2, 0)
    margins = a * (n - a) * b * (n - b)
    phi = covariance / margins**0.5 if margins else 0.0
    (low_a, high_a), (low_b, high_b) = wilson(a, n), wilson(b, n)

    def joined(one, other):
        return max(0.0, float(one**2 - 2 * phi * one * other + other**2)) ** 0.5

    difference = (a - b) / n
    low = difference - joined(a / n - low_a, high_b - b / n)
    return max(low, -1.0), min(difference + joined(high_a - a / n, b / n - low_b), 1.0)


def holm(ps: Sequence[float]) -> np.ndarray:
    """p-values of a family of tests, each corrected for all of them. S. Holm (1979), Scand. J. Stat. 6."""
    ps = np.asarray(ps, float)
    order = np.argsort(ps, kind="stable")
    stepped = np.maximum.accumulate(ps[order] * np.arange(len(ps), 0, -1))
    corrected = np.empty_like(ps)
    corrected[order] = np.minimum(stepped, 1.0)
    return corrected
