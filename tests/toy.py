"""Small data for the heads, in memory and mapped."""

import numpy as np

from backbench.probe.subsets import Splits, Subset


def clusters(n, d, k, *, seed=0, spread=1.0) -> Subset:
    """One Gaussian cloud a class, n images in all, the classes by turns."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(k, d))
    labels = np.arange(n) % k
    return Subset((centres[labels] + spread * rng.normal(size=(n, d))).astype("f4"), labels)


def join(a: Subset, b: Subset) -> Subset:
    return Subset(np.concatenate([a.features, b.features]), np.concatenate([a.labels, b.labels]))


def split(part: Subset, n: int) -> Splits:
    """The first n images as train, the others as val, all as final."""
    return Splits(part[:n], part[n:], part)


def mapped(data: Splits, path) -> Splits:
    """The same images in a file, in another order, read through a map."""
    n, both = len(data.train), join(data.train, data.val)
    place = np.random.default_rng(0).permutation(len(both))
    file = np.memmap(path, np.float32, "w+", shape=both.features.shape)
    file[place] = both.features
    return Splits(*(Subset(file, both.labels[at], place[at]) for at in (np.s_[:n], np.s_[n:], np.s_[:])))
