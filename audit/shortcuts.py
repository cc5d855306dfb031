"""Shortcuts: what the label follows besides what an image shows, such as its brightness, blur, size or file type."""

from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

SHARE = 0.25
"""Least share of the way from chance to certainty at which a property tells the class."""

FOLDS = 3

LEAVES = 64
"""Largest number of leaves of the tree that tells the class by one property."""

KINDS = ("brightness", "contrast", "sharpness", "width", "height", "file type")


@dataclass(frozen=True)
class Shortcut:
    """A tree that knows this ``property`` alone has this ``balanced`` accuracy (0..1), where ``chance`` has 1 / K."""

    property: str
    balanced: float
    chance: float


def measure(pixels: np.ndarray) -> tuple[float, ...]:
    """Return brightness, contrast, sharpness (0..255), width and height in pixels of an image (H, W, 3) uint8."""
    gray = pixels.mean(axis=2, dtype=np.float32)
    sharp = np.abs(np.diff(gray, axis=0)).mean() if len(gray) > 1 else 0.0
    return float(gray.mean()), float(gray.std()), float(sharp), pixels.shape[1], pixels.shape[0]


def find(measured: np.ndarray, ids: list[str], labels: np.ndarray, groups: np.ndarray) -> list[Shortcut]:
    """Return the properties of N images that tell their class, the best first.

    ``measured`` (N, 5) as ``measure`` gives it, NaN where an image can't be read; ``labels`` and ``groups`` (N,). Each
    property is asked by a decision tree, in cross-validation that keeps groups, such as copies, together.
    """
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.model_selection import cross_val_predict
    from sklearn.tree import DecisionTreeClassifier

    from backbench import grouped

    there = np.isfinite(measured).all(axis=1)
    counts = np.bincount(labels[there], minlength=labels.max() + 1)
    there &= counts[labels] >= 2 * FOLDS
    classes = len(np.unique(labels[there]))
    if classes < 2:
        return []
    endings = [PurePosixPath(name).suffix.lower() for name in ids]
    kinds = np.unique(endings, return_inverse=True)[1]
    columns, of = np.column_stack([measured, kinds])[there], labels[there]
    fold = grouped.folds(of, groups[there], FOLDS, seed=0)
    splits = [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(FOLDS)]
    found, chance = [], 1 / classes
    for k, name in enumerate(KINDS):
        if len(np.unique(columns[:, k])) < 2:
            continue
        tree = DecisionTreeClassifier(max_leaf_nodes=LEAVES, class_weight="balanced", random_state=0)
        told = cross_val_predict(tree, columns[:, [k]], of, cv=splits)
        balanced = float(balanced_accuracy_score(of, told))
        if balanced - chance >= SHARE * (1 - chance):
            found.append(Shortcut(name, balanced, chance))
    return sorted(found, key=lambda one: -one.balanced)
