"""Accuracies from class scores, each with its 95 % interval."""

from collections.abc import Callable

import numpy as np

from backbench.statistics import effective, interval


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


def figures(scores: np.ndarray, labels: np.ndarray, *, limits: Callable = interval) -> dict[str, float]:
    """top1, top5 (among all classes where there are fewer than 5) and balanced, with ``_low`` and ``_high``.

    ``limits`` gives the 95 % limits of so many right of so many images.
    """
    found = {}
    for name, k in (("top1", 1), ("top5", min(5, scores.shape[1]))):
        right = top_k(scores, labels, k=k)
        found[name] = right.mean()
        found[f"{name}_low"], found[f"{name}_high"] = limits(right.sum(), len(right))
    names = ("balanced", "balanced_low", "balanced_high")
    found |= zip(names, balanced(top_k(scores, labels, k=1), labels, limits=limits), strict=True)
    return {name: float(value) for name, value in found.items()}
