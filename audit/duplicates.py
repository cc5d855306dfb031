"""Duplicates of images: which are equal, which nearly so, and what each pair means for the answers."""

from dataclasses import dataclass

import numpy as np

from backbench import SPLITS, grouped
from backbench.audit import pixels
from backbench.audit.pairs import Pairs, by_chance, similar, whitened
from backbench.cache.equal import shared
from backbench.findings import Finding
from backbench.probe.subsets import Subset
from backbench.split_rule import TEST

ALIKE, EDGES = 0.5, 0.35
"""Least harmonic mean of the three cosines, of features, colours and edges, of a near duplicate, and least of edges.
The harmonic mean is high only where all three are. Of the published near duplicates of CIFAR-10 seven in eight are
found, and of the others that are found about half are real, by eye (``benchmarks/audit.py``)."""

SURE = 0.7
"""Least score of a pair whose images are kept in one fold."""

ALIKE_BY_FEATURES = 0.6
"""Least cosine of features of a near duplicate where there are no images to look at, or more, see ``by_chance``."""


@dataclass(frozen=True)
class Duplicates:
    """Pairs of rows of a feature file that show the same, with what was measured of each, (n,).

    ``exact`` says that the images are equal; ``colours``, ``edges`` and ``mirrored`` are None without images. ``agree``
    is the number of backbones that found the pair.
    """

    pairs: Pairs
    exact: np.ndarray
    agree: np.ndarray
    colours: np.ndarray | None = None
    edges: np.ndarray | None = None
    mirrored: np.ndarray | None = None

    @property
    def score(self) -> np.ndarray:
        """How sure each pair is, (n,), 0..1."""
        found = np.clip(self.pairs.cosine, 0, 1)
        if self.colours is not None and self.edges is not None:
            three = np.clip([self.pairs.cosine, self.colours, self.edges], 1e-6, 1)
            found = len(three) / (1 / three).sum(axis=0)
        return np.where(self.exact, 1.0, found)

    def __getitem__(self, which) -> "Duplicates":
        parts = (self.exact, self.agree, self.colours, self.edges, self.mirrored)
        return Duplicates(self.pairs[which], *(part if part is None else part[which] for part in parts))


def find(files: list, rows: np.ndarray, small: np.ndarray | None = None, *, memory_limit: int) -> Duplicates:
    """Find the duplicates among ``rows`` (n,) of feature files of the same images, by each file's features.

    ``small`` (n, side, side, 3), see ``pixels.look``, lets pixels decide; images that are black there are decided by
    their features. Equal images are found by their contents and by equal features, and of those only the first is
    compared with other images.
    """
    number, equal = _equal(files, rows)
    first = np.sort(np.unique(number, return_index=True)[1])
    single = rows[first]
    keys, cosines, enough = [], [], []
    for file in files:
        part = Subset(file.features, np.zeros(len(single), np.int64), single, memory_limit=memory_limit)
        directions = whitened(part)
        near = similar(directions)
        enough.append(near.cosine >= max(ALIKE_BY_FEATURES, by_chance(directions)))
        keys.append(near.a * len(single) + near.b)
        cosines.append(near.cosine)
    key, where, agree = np.unique(np.concatenate(keys), return_inverse=True, return_counts=True)
    cosine = np.full(len(key), -1, np.float32)
    np.maximum.at(cosine, where, np.concatenate(cosines))
    a, b = np.divmod(key, len(single))
    found = Duplicates(Pairs(single[a], single[b], cosine), np.zeros(len(key), bool), agree)
    by_features = np.zeros(len(key), bool)
    np.logical_or.at(by_features, where, np.concatenate(enough))
    if small is None:
        return _joined(found[by_features], equal, len(files))
    found = Duplicates(found.pairs, found.exact, agree, *pixels.alike(small, first[a], first[b]))
    seen = small.reshape(len(small), -1).any(axis=1)[first]
    alike = (found.score >= ALIKE) & (found.edges >= EDGES)
    kept = np.where(seen[a] & seen[b], alike, by_features)
    return _joined(found[kept], equal, len(files))


def _equal(files: list, rows: np.ndarray) -> tuple[np.ndarray, Pairs]:
    """Number the images ``rows`` (n,), equal ones alike, (n,); and the pairs of each with the first equal to it."""
    by = [file.equal[rows] for file in files]
    for contents in (getattr(file, "contents", None) for file in files):  # arrays, and files of before, have none
        if contents is not None:
            by.append(np.where(contents[rows] == b"", -1, shared(contents[rows])))
    number = grouped.united(by)
    first = np.unique(number, return_index=True)[1][number]
    again = np.flatnonzero(first != np.arange(len(rows)))
    return number, Pairs(rows[first[again]], rows[again], np.ones(len(again), np.float32))


def _joined(near: Duplicates, equal: Pairs, n_files: int) -> Duplicates:
    n = len(equal)
    ones = np.ones(n, np.float32)
    looked = [None] * 3 if near.colours is None else [ones, ones, np.zeros(n, bool)]
    parts = [
        None if here is None else np.concatenate([here, there])
        for here, there in zip(
            (near.exact, near.agree, near.colours, near.edges, near.mirrored),
            (np.ones(n, bool), np.full(n, n_files), *looked),
            strict=True,
        )
    ]
    both = (np.concatenate([getattr(near.pairs, of), getattr(equal, of)]) for of in ("a", "b", "cosine"))
    return Duplicates(Pairs(*both), *parts)


def groups(found: Duplicates, n: int) -> np.ndarray:
    """Return a number that rows share which surely show the same, also by way of others, (n,) int64.

    Less sure pairs would make chains, and in the end one group of all images that are a little alike.
    """
    found = found[found.score >= SURE]
    return grouped.connected(found.pairs.a, found.pairs.b, n=n)


def counts(found: Duplicates, labels: np.ndarray, split: np.ndarray) -> dict:
    """Return the figures for the row, and the rows of test images that have a copy in train or val, ``leaked``."""
    a, b = found.pairs.a, found.pairs.b
    tested = (split[a] == TEST) != (split[b] == TEST)
    leaked = np.unique(np.where(split[a] == TEST, a, b)[tested])
    return {
        "n_exact": int(found.exact.sum()),
        "n_near": int((~found.exact).sum()),
        "n_leaks": len(leaked),
        "n_redundant": int(((split[a] == split[b]) & (labels[a] == labels[b])).sum()),
        "n_contradictions": int((labels[a] != labels[b]).sum()),
        "leaked": leaked,
    }


def findings(found: Duplicates, ids: list[str], labels: np.ndarray, split: np.ndarray, n_files: int) -> list[Finding]:
    """Return one line for each image that may go, with the surest image that stays, the surest first.

    Of two images the one in test stays, then the one in val, then the first; so a test set stays as it is.
    """
    a, b = found.pairs.a, found.pairs.b
    first = (split[a] > split[b]) | ((split[a] == split[b]) & (a < b))
    stays, goes = np.where(first, a, b), np.where(first, b, a)
    order = np.lexsort((stays, -found.score))
    order = order[np.unique(goes[order], return_index=True)[1]]
    order = order[np.lexsort((goes[order], -found.score[order]))]
    lines = []
    for k in order.tolist():
        i, j = int(goes[k]), int(stays[k])
        told = [
            f"both in {SPLITS[split[i]]}" if split[i] == split[j] else f"in {SPLITS[split[i]]} and {SPLITS[split[j]]}"
        ]
        told += ["a leak"] if (split[i] == TEST) != (split[j] == TEST) else []
        told.append("the same class" if labels[i] == labels[j] else "of two classes")
        if not found.exact[k]:
            told.append(f"cosine {found.pairs.cosine[k]:.2f}")
            if found.colours is not None:
                told.append(f"colours {found.colours[k]:.2f}, edges {found.edges[k]:.2f}")
                told += ["mirrored"] if found.mirrored[k] else []
        if n_files > 1:
            told.append(f"found by {found.agree[k]} of {n_files} backbones")
        kind = "exact duplicate" if found.exact[k] else "near duplicate"
        lines.append(Finding(ids[i], kind, ids[j], "; ".join(told)))
    return lines
