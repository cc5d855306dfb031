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


DRAWS = 10_000
"""Bootstrap draws: they move the ends of an interval by about 2 % of its width."""


def drop(source: np.ndarray, target: np.ndarray, *, seed: int, paired: bool = False) -> dict[str, float]:
    """What accuracy loses from source to target: ``drop`` (0..1) and ``relative_drop`` (of the source's), with ``_low``
    and ``_high``, the 95 % percentile bootstrap over images (B. Efron 1979). Right or not, (N,) and (M,) bool.

    The images of two sets are drawn each for themselves; those of one set seen in two ways (``paired``, N = M)
    together. All right, or all wrong, in both has an interval without width. Relative to 0 is NaN.
    """
    rng = np.random.default_rng(seed)
    if paired:
        a, b = _drawn_together(source, target, rng)
    else:
        a, b = (rng.binomial(len(of), of.mean(), DRAWS) / len(of) for of in (source, target))
    found = {}
    with np.errstate(divide="ignore", invalid="ignore"):
        before, after = source.mean(), target.mean()
        for name, value, draws in (
            ("drop", before - after, a - b),
            ("relative_drop", 1 - after / before if before else np.nan, 1 - b / a),
        ):
            ends = np.percentile(draws[np.isfinite(draws)], [2.5, 97.5]) if np.isfinite(value) else (np.nan, np.nan)
            found |= {name: float(value), f"{name}_low": float(ends[0]), f"{name}_high": float(ends[1])}
    return found


def drops_apart(a: tuple, b: tuple, *, seed: int) -> tuple[float, float, float]:
    """How much more a's accuracy drops than b's, from the same source images to the same target images, 0..1, and its
    95 % percentile bootstrap: an image drawn is drawn for both. ``a`` and ``b`` are (source, target), bool each."""
    rng = np.random.default_rng(seed)
    (a_source, b_source), (a_target, b_target) = (_drawn_together(x, y, rng) for x, y in zip(a, b, strict=True))
    value = (a[0].mean() - a[1].mean()) - (b[0].mean() - b[1].mean())
    low, high = np.percentile((a_source - a_target) - (b_source - b_target), [2.5, 97.5])
    return float(value), float(low), float(high)


def _drawn_together(x: np.ndarray, y: np.ndarray, rng) -> tuple[np.ndarray, np.ndarray]:
    """Means of two on the same images, (DRAWS,) each: counted by their four outcomes, a draw is a multinomial's."""
    cells = np.array([(x & y).sum(), (x & ~y).sum(), (~x & y).sum(), (~x & ~y).sum()])
    drawn = rng.multinomial(len(x), cells / len(x), size=DRAWS) / len(x)
    return drawn[:, 0] + drawn[:, 1], drawn[:, 0] + drawn[:, 2]


def auroc(known: np.ndarray, unknown: np.ndarray) -> tuple[float, float, float]:
    """How often a known image scores above an unknown one (ties half), 0..1, and its 95 % interval: (N,) and (M,).

    Mann & Whitney's U as a share; the standard error is J. Hanley & B. McNeil's (1982), The meaning and use of the area
    under a ROC curve, Radiology 143.
    """
    n, m = len(known), len(unknown)
    order = np.sort(unknown)
    wins = (np.searchsorted(order, known, "left") + np.searchsorted(order, known, "right")).sum() / 2
    a = float(wins / (n * m))
    variance = a * (1 - a) + (n - 1) * (a / (2 - a) - a**2) + (m - 1) * (2 * a**2 / (1 + a) - a**2)
    half = Z * (max(variance, 0.0) / (n * m)) ** 0.5
    return a, max(a - half, 0.0), min(a + half, 1.0)
