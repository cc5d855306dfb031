"""Accuracies from class scores, each with its 95 % interval."""

from collections.abc import Callable
from functools import cached_property

import numpy as np

from backbench.statistics import Z, effective, interval

BLOCK = 1 << 22
"""Scores that are copied to float64 at a time: 32 MB."""


class Scored:
    """Scores (N, K) of N images and their labels (N,) in 0..K-1: what follows from both, computed once and kept.

    The scores may have any float type. They are never copied whole, so that 50,000 images of 21,000 classes fit.
    """

    def __init__(self, scores: np.ndarray, labels: np.ndarray):
        self.scores, self.labels = scores, labels
        self._softmax: dict[float, tuple[np.ndarray, np.ndarray]] = {}

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def n_classes(self) -> int:
        """K."""
        return self.scores.shape[1]

    @cached_property
    def right(self) -> np.ndarray:
        """Whether each image's label has the highest score, (N,) bool, see ``top_k``."""
        return top_k(self.scores, self.labels, k=1)

    @cached_property
    def right5(self) -> np.ndarray:
        """Whether each image's label is among the five highest scores, (N,) bool."""
        return top_k(self.scores, self.labels, k=min(5, self.n_classes))

    @cached_property
    def predicted(self) -> np.ndarray:
        """The class of each image's highest score, (N,) int.

        Where the label ties with others, one of those: as in ``top_k``, a tie earns nothing.
        """
        highest = self.scores.argmax(axis=1)
        tied = np.flatnonzero((highest == self.labels) & ~self.right)
        others = self.scores[tied].astype(float)
        others[np.arange(len(tied)), self.labels[tied]] = -np.inf
        highest[tied] = others.argmax(axis=1)
        return highest

    def softmax(self, temperature: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
        """Of softmax(scores / temperature): minus the log of the label's probability, and the highest probability.

        Both are (N,) float64, the first in nats.
        """
        if temperature not in self._softmax:
            loss, confidence = np.empty(len(self)), np.empty(len(self))
            step = max(1, BLOCK // max(1, self.n_classes))
            for start in range(0, len(self), step):
                rows = slice(start, start + step)
                below = below_top(self.scores[rows] / temperature if temperature != 1 else self.scores[rows])
                total = np.exp(below).sum(axis=1)
                loss[rows] = np.log(total) - below[np.arange(len(below)), self.labels[rows]]
                confidence[rows] = 1 / total
            self._softmax[temperature] = loss, confidence
        return self._softmax[temperature]


def below_top(scores: np.ndarray) -> np.ndarray:
    """Scores (N, K) in float64, less their row's highest: the same softmax, and no exponential overflows."""
    scores = scores.astype(np.float64)
    return scores - scores.max(axis=1, keepdims=True)


def top_k(scores: np.ndarray, labels: np.ndarray, *, k: int) -> np.ndarray:
    """Whether each label is among its row's ``k`` highest scores: (N, K) and (N,) to (N,) bool.

    Classes that tie with the label's own score count as ahead of it, so that constant scores earn nothing; nor do NaN.
    """
    own = scores[np.arange(len(labels)), labels]
    return ((scores >= own[:, None]).sum(axis=1) <= k) & ~np.isnan(own)


def balanced(right: np.ndarray, labels: np.ndarray, *, limits: Callable = interval) -> tuple[float, float, float]:
    """Mean per-class accuracy over the classes present, and its 95 % interval. (N,) bool and (N,) int.

    The interval is that of a plain accuracy of equal variance, at the effective number of images. As a guess that is
    K^2 / sum(1/n_k), right where all classes are equally hard; ``statistics.effective`` says how far the variance
    within the classes moves it. Classes of one image have no variance of their own: theirs is that among them all (W.
    G. Cochran 1977, Sampling techniques, 5A.12), and of a single such class that of an outcome as rare as its own.

    In simulation (K of 2 to 256, 30 to 1,000 images, classes of equal and unequal size, equally and unequally hard) it
    covers the truth in 93 to 99 % of the draws, but for these: 91 % where all errors are in the smaller of two classes
    and about three are expected; above 99 %, up to 100 %, in one setting of ten: where a small class makes no
    errors beside a large one that does (119 images of 1,000, too), or classes of a dozen images have most errors.
    """
    n = np.bincount(labels)
    present = n > 0
    hits = np.bincount(labels, weights=right, minlength=len(n))[present]
    n = n[present]
    p, classes, single = hits / n, len(n), n == 1
    mean, singles, free = p.mean(), int(single.sum()), n - 1.0
    variances = p * (1 - p) / np.maximum(n - 1, 1)
    if singles == 1:
        variances[single], free[single] = 1 - p[single] if mean >= 0.5 else p[single], 0.5
    elif singles:
        variances[single], free[single] = p[single].var(ddof=1), (singles - 1) / singles
    freedom = (1 / n).sum() ** 2 / (1 / n**2 / free).sum()  # Satterthwaite's
    size = effective(mean, variances.sum() / classes**2, classes**2 / (1 / n).sum(), freedom * min(mean, 1 - mean))
    return mean, *limits(mean * size, size)


BY_GROUPS = "by the spread between groups, at the effective n, Student's t for their number"
"""What a row says of intervals that ``between_groups`` gives."""


def between_groups(
    right: np.ndarray, labels: np.ndarray, groups: np.ndarray, *, limits: Callable = interval
) -> tuple[float, float]:
    """Return the 95 % limits of the mean per-class accuracy where images of one group are alike; (N,) each.

    With all ``labels`` 0 it is that of a plain accuracy. The variance is that of the sums over groups, each corrected
    for its leverage (R. M. Bell & D. F. McCaffrey 2002, Bias reduction in standard errors for linear regression with
    multi-stage samples. Survey Methodology 28): a cluster bootstrap's in closed form. The limits are those of a plain
    accuracy at the effective number of images, reduced as Student's t is wider than the normal distribution (E. L. Korn
    & B. I. Graubard 1998, Confidence intervals for proportions with small expected number of positive counts estimated
    from survey data. Survey Methodology 24). As a guess ``statistics.effective`` gets G^3/4 n^1/4, for G groups of n
    images: with the images alone it would be too sure where few groups have errors. Groups of unequal size count as
    the smaller number of equal ones (A. V. Carter, K. T. Schnepel & D. G. Steigerwald 2017, Asymptotic behavior of a
    t-test robust to cluster heterogeneity. Review of Economics and Statistics 99).

    In simulation (10 to 100 groups of 2 to 50 images, of equal or unequal size, within a class or across three,
    accuracies of .6 to .98, correlations within a group of 0 to .4) it covers the truth in 93.6 to 100 % of the draws,
    and in more than 99 % in half of these settings, where few groups have errors. The interval of single images has it
    in 23 % at worst.
    """
    from scipy.special import stdtrit

    _, group = np.unique(groups, return_inverse=True)
    size = np.bincount(labels)
    k = np.count_nonzero(size)
    cells, cell = np.unique(group.reshape(-1) * len(size) + labels, return_inverse=True)
    n, hits = np.bincount(cell.reshape(-1)), np.bincount(cell.reshape(-1), weights=right)
    group, label = np.divmod(cells, len(size))
    p, share = np.bincount(label, weights=hits) / np.maximum(size, 1), n / size[label]
    rest = np.where(share < 1, 1 - share, 1)
    off = (hits - p[label] * n) / size[label] / np.sqrt(rest) / k
    variance = np.square(np.bincount(group, weights=off)).sum()
    value, images = p[size > 0].mean(), k**2 / (1 / size[size > 0]).sum()
    # Of unequal groups there are as many as there would be of equal ones of the same spread.
    several = 1 / np.square(np.bincount(group, weights=share / k)).sum()
    rare = min(len(np.unique(group[some])) for some in (hits < n, hits > 0))
    found = effective(value, variance, several**0.75 * images**0.25, rare)
    # Where groups are parts of classes, each class has a mean of its own.
    freedom = several - (k if len(cells) == group[-1] + 1 else 1)
    found = min(found * (Z / stdtrit(max(freedom, 1), 0.975)) ** 2, images)
    low, high = limits(value * found, found)
    return float(low), float(high)


def figures(scored: Scored, *, limits: Callable = interval, groups: np.ndarray | None = None) -> dict[str, float]:
    """top1, top5 (among all classes where there are fewer than 5) and balanced, with ``_low`` and ``_high``.

    ``limits`` gives the 95 % limits of so many right of so many images. With ``groups`` (N,) of images that are alike,
    intervals are by ``between_groups``.
    """
    found = {}
    for name, right in (("top1", scored.right), ("top5", scored.right5)):
        found[name] = right.mean()
        found[f"{name}_low"], found[f"{name}_high"] = limits(right.sum(), len(right))
    names = ("balanced", "balanced_low", "balanced_high")
    found |= zip(names, balanced(scored.right, scored.labels, limits=limits), strict=True)
    if groups is not None:
        one = np.zeros_like(scored.labels)
        for name, right, labels in (
            ("top1", scored.right, one), ("top5", scored.right5, one), ("balanced", scored.right, scored.labels)
        ):  # fmt: skip
            ends = between_groups(right, labels, groups, limits=limits)
            found |= zip((f"{name}_low", f"{name}_high"), ends, strict=True)
    return {name: float(value) for name, value in found.items()}
