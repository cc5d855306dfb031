"""Splits that keep the images of a group together: of a patient, a video, a site.

Images of one group are alike. Where some are in train and others in test, a head is measured on what it has seen.
scikit-learn draws the folds; what is added is that no class is held out whole.
"""

import warnings
from collections.abc import Iterable

import numpy as np

from backbench import UserError
from backbench.split_rule import TEST, TRAIN, VAL

SHARES = 0.2, 0.125
"""Share of the images that become test, and of the rest that become val: about 70, 10 and 20 % in all."""

MANY = 3000
"""Number of groups above which folds are drawn by each group's most frequent class. StratifiedGroupKFold compares every
group with every fold: of 100,000 groups that takes a minute, and so many are balanced without it."""


def numbered(groups: np.ndarray | None, n: int) -> np.ndarray:
    """Return each of ``n`` images' group as a number from 0 on, (n,) int64. With None every image is its own group."""
    return np.arange(n) if groups is None else np.unique(groups, return_inverse=True)[1].reshape(n)


def per_class(labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Count the groups that hold images of each label, (max + 1,) int64. ``labels`` and ``groups`` are (N,) int."""
    return np.bincount(_pairs(labels, groups)[0])


def united(links: Iterable[np.ndarray]) -> np.ndarray:
    """Number images so that two have the same number where they share one in any of ``links``, (n,) int64 from 0 on.

    They also do by way of others. Each of ``links`` is (n,) int; -1 is shared with none.
    """
    start, end, n = [], [], 0
    for number in links:
        n = len(number)
        at = np.flatnonzero(number >= 0)
        _, first, inverse = np.unique(number[at], return_index=True, return_inverse=True)
        start.append(at[first[inverse]])
        end.append(at)
    return connected(np.concatenate(start), np.concatenate(end), n=n)


def connected(start: np.ndarray, end: np.ndarray, *, n: int) -> np.ndarray:
    """Number ``n`` images, (n,) int64, alike where the pairs ``start``, ``end`` (m,) int link them, also by others."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    return connected_components(coo_array((np.ones(len(start), bool), (start, end)), shape=(n, n)), directed=False)[1]


def _pairs(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the different pairs of ``a`` and ``b``, (N,) int from 0 on, sorted, and how often each occurs."""
    codes, counts = np.unique(a * (int(b.max()) + 1) + b, return_counts=True)
    return *np.divmod(codes, int(b.max()) + 1), counts


def folds(labels: np.ndarray, groups: np.ndarray, k: int, *, seed: int) -> np.ndarray:
    """Return each image's fold, 0..k-1, (N,) int64: a group is in one fold, and classes are balanced over folds.

    ``labels`` and ``groups`` are (N,) int. Without real groups it is scikit-learn's StratifiedKFold, else
    StratifiedGroupKFold, in which ``seed`` moves only groups that are alike, and for more than ``MANY`` groups
    StratifiedKFold of the groups. Where a class has fewer groups than ``k``, some folds lack it; a fold may be empty.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    _, first, group, sizes = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
    if sizes.max() == 1 or len(sizes) > MANY:
        if sizes.max() == 1:
            kind = labels[first]
        else:  # of each group the most frequent class; of equals the lowest
            of, label, counts = _pairs(group, labels)
            order = np.lexsort((label, -counts, of))
            kind = label[order][np.unique(of[order], return_index=True)[1]]
        drawn, known = StratifiedKFold(k, shuffle=True, random_state=seed).split(kind, kind), group
    else:
        drawn = StratifiedGroupKFold(k, shuffle=True, random_state=seed).split(labels, labels, group)
        known = np.arange(len(labels))
    fold = np.zeros(known.max() + 1, np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class with fewer members than folds, which the caller knows
        for number, (_, members) in enumerate(drawn):
            fold[members] = number
    return fold[known]


def held_out(labels: np.ndarray, groups: np.ndarray, share: float, *, seed: int) -> np.ndarray:
    """Return which images to hold out, (N,) bool: about ``share`` of them, whole groups, of as many classes as can be.

    ``labels`` and ``groups`` are (N,) int. Of ``round(1 / share)`` folds, or as many as classes have groups in the
    median, one with the most classes is taken: ``seed`` chooses among those of about the right size, else the nearest
    is taken. Groups return from it until no class is held out whole. Where each class is of one group, nothing is held
    out.
    """
    n_groups = per_class(labels, groups)
    if n_groups.max() < 2:
        return np.zeros(len(labels), bool)
    k = max(2, min(round(1 / share), int(np.median(n_groups[n_groups > 0]))))
    fold = folds(labels, groups, k, seed=seed)
    covered, off = per_class(fold, labels), np.bincount(fold) / len(labels) / share - 1

    def order(f):
        # Twice as large as a fold should be comes last; the right size by half or so is as good as the right size.
        return off[f] + 1 > 2 / k / share, -covered[f], max(abs(off[f]), 0.5)

    taken = min(np.random.default_rng(seed).permutation(np.unique(fold)), key=order)
    held = fold == taken
    for label in np.setdiff1d(labels[held], labels[~held]):
        if (labels[~held] == label).any():  # came back with another class's group
            continue
        candidates, counts = np.unique(groups[held & (labels == label)], return_counts=True)
        held &= groups != candidates[counts.argmin()]
    return held


def draw(labels: np.ndarray, groups: np.ndarray, *, seed: int) -> np.ndarray:
    """Split images (N,) int8 by whole groups: about 70 % train, 10 % val and 20 % test, of as many classes as can be.

    ``labels`` (N,) int and ``groups`` (N,). The order of the images has a part in it. Raises UserError where the images
    of each class are all of one group.
    """
    split, group = np.full(len(labels), TRAIN, np.int8), numbered(groups, len(labels))
    if len(labels) and per_class(labels, group).max() < 2:
        raise UserError(
            "the images of each class are all of one group, so that no class can be both in train and in test: "
            "groups that are parts of a class are expected, or no groups"
        )
    split[held_out(labels, group, SHARES[0], seed=seed)] = TEST
    return val_from_train(labels, groups, split, seed=seed)


def val_from_train(labels: np.ndarray, groups: np.ndarray, split: np.ndarray, *, seed: int) -> np.ndarray:
    """Return a copy of ``split`` (N,) with about an eighth of train moved to val, by whole groups."""
    split, train = split.copy(), np.flatnonzero(split == TRAIN)
    if len(train):
        group = numbered(groups, len(labels))[train]
        split[train[held_out(labels[train], group, SHARES[1], seed=seed)]] = VAL
    return split


def crossing(groups: np.ndarray, split: np.ndarray) -> np.ndarray:
    """Return the groups, sorted, that have images in more than one split. ``groups`` and ``split`` are (N,)."""
    names, group = np.unique(groups, return_inverse=True)
    return names[per_class(group, split.astype(int)) > 1]
