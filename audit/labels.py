"""Wrong labels, by confident learning (C. Northcutt et al. 2021) on probabilities of heads fitted on other images."""

from dataclasses import dataclass

import numpy as np

from backbench import calibration, grouped
from backbench.probe.logistic import GRID, Logistic
from backbench.probe.subsets import Splits, Subset
from backbench.progress import progress

FOLDS = 5

VAL_SHARE = 0.125
"""Share of the other folds on which the penalty of the first fold's head, and each head's temperature, are chosen."""

TOLERANCE = 1e-4
"""How far a head's objective may lie above its optimum, as a share. On caltech101 and caltech256 the
probability of a label is within 0.0001 of the exact one on average, and within 0.006 at most."""

OVERLAP = 0.1
"""Two classes overlap where at least this share of the images of each are suspected to show the other."""


@dataclass(frozen=True)
class Suspects:
    """What is suspected of N labels: ``probability`` (N,) float64 that it is wrong, and ``suggested`` (N,) int64.

    ``expected`` is the estimated number of wrong labels, which the probabilities add up to.
    """

    probability: np.ndarray
    suggested: np.ndarray
    expected: float


def out_of_fold(
    features, which: np.ndarray, labels: np.ndarray, unit: np.ndarray, *, n_classes: int, seed: int, memory_limit: int
) -> np.ndarray:
    """Return calibrated probabilities (N, K) of each image by a logistic head that has not seen it.

    ``which`` (N,) are the images' rows of ``features`` (M, D), which may be mapped. Images of one ``unit`` (N,) int,
    such as copies, are in one fold. The penalty is chosen in the first fold and used in all: it moves little, and the
    path takes longer than the other four heads. A class that the other folds lack has a probability near 0.
    """
    fold = grouped.folds(labels, unit, FOLDS, seed=seed)
    found, c = np.empty((len(labels), n_classes)), None

    def part(rows: np.ndarray) -> Subset:
        return Subset(features, labels[rows], which[rows], memory_limit=memory_limit)

    with progress(FOLDS, "fitting heads", unit="folds") as advance:
        for number in range(FOLDS):
            test, others = np.flatnonzero(fold == number), np.flatnonzero(fold != number)
            held = grouped.held_out(labels[others], unit[others], VAL_SHARE, seed=seed)
            train, val = part(others[~held]), part(others[held])
            grid = GRID if c is None else (c,)
            fitted = Logistic(Splits(train, val, train), n_classes=n_classes, seed=seed, grid=grid, tolerance=TOLERANCE)
            c = fitted.protocol["C"]
            t = calibration.temperature(fitted.val_scores, val.labels)
            found[test] = calibration.probabilities(fitted.head.over(part(test)), t)
            advance(1)
    return found


def confident_joint(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Estimate how often images are labelled i and are of class j, (K, K) float64 counts that add up to N.

    As cleanlab 2.9 does it: an image counts as of the most probable class among those whose probability is at least the
    mean one of the images labelled so, and each row is then scaled to the number of images labelled so.
    """
    n, k = probabilities.shape
    counts = np.bincount(labels, minlength=k)
    there = counts > 0
    own = np.bincount(labels, probabilities[np.arange(n), labels], minlength=k)
    threshold = np.where(there, own / np.maximum(counts, 1), np.inf)
    above = np.where(probabilities >= threshold - 1e-6, probabilities, -1)
    confident = above.max(axis=1) >= 0
    joint = np.zeros((k, k))
    np.add.at(joint, (labels[confident], above.argmax(axis=1)[confident]), 1)
    empty = joint.sum(axis=1) == 0
    joint[empty, empty] = 1
    return joint / joint.sum(axis=1, keepdims=True) * counts[:, None]


def suspects(probabilities: np.ndarray, labels: np.ndarray) -> Suspects:
    """Find wrong labels from out-of-fold ``probabilities`` (N, K) and ``labels`` (N,) int.

    By Bayes' rule an image x labelled i is of class j with a probability in proportion to p(j | x) P(i | j). The second
    is the noise, of the confident joint, divided by how often the head mistakes j for i at all: what a head can't tell
    apart is no noise. On CIFAR-10's human labels this ranks better than p(i | x) does (``benchmarks/audit.py``). The
    log odds are then moved, all by the same, until they add up to the number of wrong labels by the confident joint.
    """
    n, k = probabilities.shape
    at = np.arange(n)
    joint = confident_joint(probabilities, labels)
    counts = np.bincount(labels, minlength=k)
    soft = np.array([np.bincount(labels, probabilities[:, j], minlength=k) for j in range(k)]).T
    soft = soft / np.maximum(counts, 1)[:, None]  # mean probability of j among the images labelled i
    tiny = np.finfo(np.float64).tiny
    noise = (joint / np.maximum(joint.sum(axis=0), tiny)) / np.maximum(soft / np.maximum(soft.sum(axis=0), tiny), tiny)
    posterior = probabilities * noise[labels]
    own = posterior[at, labels].copy()
    posterior[at, labels] = -1
    suggested = posterior.argmax(axis=1)
    posterior[at, labels] = 0
    other = posterior.sum(axis=1)
    expected = float(n - np.trace(joint))
    odds = np.log(np.maximum(other, 1e-12)) - np.log(np.maximum(own, 1e-12))
    return Suspects(_adding_up(odds, expected), suggested, expected)


def _adding_up(odds: np.ndarray, expected: float) -> np.ndarray:
    """Return probabilities (N,) of log ``odds`` moved by one number so that they add up to ``expected``."""
    from scipy.special import expit

    low, high = -60.0, 60.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if expit(odds + middle).sum() < expected else (low, middle)
    return expit(odds + low)


def overlapping(found: Suspects, labels: np.ndarray, *, n_classes: int) -> list[tuple[int, int, float]]:
    """Return pairs of classes that overlap, each with the lesser of their two shares (0..1), the largest first."""
    moved = np.zeros((n_classes, n_classes))
    np.add.at(moved, (labels, found.suggested), found.probability)
    share = moved / np.maximum(np.bincount(labels, minlength=n_classes), 1)[:, None]
    both = np.minimum(share, share.T)
    pairs = [(int(i), int(j), float(both[i, j])) for i, j in np.argwhere(np.triu(both, 1) >= OVERLAP)]
    return sorted(pairs, key=lambda pair: -pair[2])
