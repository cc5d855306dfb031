"""Why what a stored head's two files hold can't be a head: they may be a stranger's."""

from collections import Counter

import numpy as np

from backbench import reference
from backbench.probe.outliers import Outliers

LINEAR = "mean", "scale", "weights", "intercept"
"""The arrays of a linear head."""

KNN = "bank", "labels", "k"
"""The arrays of a head of nearest neighbours."""


def parts(arrays: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """Those of the head, of the reference and of the outliers, each by its own name."""
    parts = {"": {}, "reference.": {}, "outliers.": {}}
    for name, array in arrays.items():
        start = next(start for start in ("reference.", "outliers.", "") if name.startswith(start))
        parts[start][name.removeprefix(start)] = array
    return [*parts.values()]


def of_arrays(arrays: dict[str, np.ndarray], n_classes: int) -> list[str]:
    """Why these arrays aren't a head of so many classes with what belongs to it."""
    head, scores, outliers = parts(arrays)
    if wrong := (_no_bank if "bank" in head else _not_linear)(head, n_classes):
        return wrong
    dim = head["bank" if "bank" in head else "weights"].shape[1]
    found = [*(reference.faults(scores) if scores else []), *(Outliers.faults(outliers, dim) if outliers else [])]
    if bool(outliers) != ("distance" in scores):
        found.append("a distance of val's images, or what it is computed by, but not the other")
    return found


def _no_bank(arrays: dict[str, np.ndarray], n_classes: int) -> list[str]:
    """Why these arrays aren't a head of nearest neighbours."""
    if sorted(arrays) != sorted(KNN):
        return [f"holds {', '.join(sorted(arrays))}; {', '.join(KNN)} were expected"]
    bank, k, labels = (arrays[name] for name in ("bank", "k", "labels"))
    if bank.ndim != 2 or not bank.size or bank.dtype not in (np.float16, np.float32) or not np.isfinite(bank).all():
        return [f"bank has shape {bank.shape} and dtype {bank.dtype}; finite (images, features) were expected"]
    found = []
    if labels.shape != bank.shape[:1] or labels.dtype != np.int64 or not 0 <= labels.min() <= labels.max() < n_classes:
        found.append(f"labels of shape {labels.shape}; one of {n_classes} classes for each of {len(bank)} was expected")
    if k.shape != (1,) or k.dtype != np.int64 or not 1 <= k[0] <= len(bank):
        found.append(f"k is {k.ravel()[:1].tolist()} of shape {k.shape}; one number in 1..{len(bank)} was expected")
    return found


def _not_linear(arrays: dict[str, np.ndarray], n_classes: int) -> list[str]:
    """Why these arrays aren't a linear head."""
    if sorted(arrays) != sorted(LINEAR):
        return [f"holds {', '.join(sorted(arrays)) or 'nothing'}; {', '.join(LINEAR)} were expected"]
    weights = arrays["weights"]
    dim = weights.shape[1] if weights.ndim == 2 else 0
    shapes = {"mean": (dim,), "scale": (dim,), "weights": (n_classes, dim), "intercept": (n_classes,)}
    wrong = [
        f"{name} has shape {arrays[name].shape} and dtype {arrays[name].dtype}, "
        f"{shape if dim else '(classes, features)'} in float32 or float64 was expected"
        for name, shape in shapes.items()
        if arrays[name].shape != shape or not dim or arrays[name].dtype not in (np.float32, np.float64)
    ]
    if wrong:
        return wrong
    with np.errstate(over="ignore", divide="ignore"):
        used = arrays | {"scale": np.abs(arrays["scale"]), "1 / scale": 1 / arrays["scale"]}
        unfit = [name for name, array in used.items() if not np.isfinite(array.astype(np.float32)).all()]
    if unfit or (arrays["scale"] <= 0).any():
        return [f"numbers that are not finite in float32, or scales not above 0, in {', '.join(unfit) or 'scale'}"]
    return []


def of_classes(classes: list) -> list[str]:
    """Why these can't be the names of a head's classes."""
    if len(classes) < 2 or not all(isinstance(name, str) for name in classes):
        return [f"{len(classes)} class names; at least two were expected, all of them text"]
    twice = [name for name, n in Counter(classes).items() if n > 1]
    return [f"class names that occur twice: {', '.join(twice[:5])}"] if twice else []
