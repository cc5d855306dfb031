"""Facts about a data set: its size per split and class, its images' sizes, and what is missing."""

from pathlib import Path

import numpy as np

from backbench import SPLITS, UserError
from backbench.data import decode, registry, splits
from backbench.data.imageset import ImageSet
from backbench.data.sources import SETS
from backbench.progress import progress

SHORT_SIDE = 224
"""Input side in pixels of most of the study's backbones. An image with a shorter side is enlarged."""


def overview(data_root: Path, *, seed: int) -> list[dict]:
    """Return one dict per registered data set.

    Keys are name, state ('present', 'missing' or 'unusable'), where, n_classes, n_train, n_val, n_test and whole
    (classes, images), and fault where it isn't present.
    """
    return [_overview(name, data_root, seed=seed) for name in registry.names()]


def _overview(name: str, data_root: Path, *, seed: int) -> dict:
    source = SETS[name]
    row = {"name": name, "whole": {"classes": source.classes, "images": source.images}}
    try:
        found = source.find(data_root)
        if found is None and source.places:
            return row | {"state": "missing", "fault": registry.missing(name, data_root)}
        images = registry.load(name, data_root=data_root, seed=seed)
    except UserError as error:
        return row | {"state": "unusable", "fault": str(error)}
    sizes = {f"n_{part}": int(n) for part, n in zip(SPLITS, np.bincount(images.split, minlength=3), strict=True)}
    where = "scikit-learn" if found is None else str(found)
    return row | {"state": "present", "where": where, "n_classes": len(images.class_names), **sizes}


def describe(images: ImageSet, *, seed: int) -> dict:
    """Return all that ``backbench data show`` shows. It reads every image's header, but no pixels."""
    counts = splits.split_counts(images.labels, images.split, len(images.class_names))
    return {
        "name": images.name,
        "root": None if images.root is None else str(images.root),
        "seed": seed,
        "digest": images.digest,
        "notes": list(images.notes),
        "n_images": len(images),
        "n_classes": len(images.class_names),
        **{f"n_{part}": int(n) for part, n in zip(SPLITS, counts.sum(axis=0), strict=True)},
        "classes": [
            {"name": name, **dict(zip(SPLITS, map(int, row), strict=True))}
            for name, row in zip(images.class_names, counts, strict=True)
        ],
        "missing": _missing(images.undecided),
        **image_facts(images),
    }


def _missing(images: ImageSet) -> dict | None:
    """Count missing classes and images. None for a folder or shards, whose full size is unknown."""
    source = SETS.get(images.name)
    if source is None:
        return None
    return {
        "classes": max(0, source.classes - len(images.class_names)),
        "images": max(0, source.images - len(images)),
    }


def image_facts(images: ImageSet) -> dict:
    """Return width and height (min, median, max, in pixels as stored) and the share with a side under SHORT_SIDE.

    Also returns the share of each of PIL's colour modes, and the unreadable images as id and reason.
    """
    if images.pixels is not None:
        n, height, width = images.pixels.shape[:3]
        sizes, modes, unreadable = np.tile((width, height), (n, 1)), ["RGB"] * n, []
    else:
        sizes, modes, unreadable = _headers(images)
    if not modes:
        return {"width": None, "height": None, "share_small": None, "modes": {}, "unreadable": unreadable}
    names, counts = np.unique(modes, return_counts=True)
    return {
        "width": _spread(sizes[:, 0]),
        "height": _spread(sizes[:, 1]),
        "share_small": float((sizes.min(axis=1) < SHORT_SIDE).mean()),
        "modes": {str(name): n / len(modes) for name, n in zip(names, counts.tolist(), strict=True)},
        "unreadable": unreadable,
    }


def _headers(images: ImageSet) -> tuple[np.ndarray, list[str], list[dict]]:
    sizes, modes, unreadable = [], [], []
    with progress(len(images), f"{images.name} headers") as advance:
        for i, id in enumerate(images.ids):
            try:
                width, height, mode = decode.header(images.encoded(i), id=id)
            except decode.UnreadableImage as error:
                unreadable.append({"id": error.id, "reason": error.reason})
            else:
                sizes.append((width, height))
                modes.append(mode)
            advance(1)
    return np.array(sizes), modes, unreadable


def _spread(values: np.ndarray) -> dict:
    return {"min": int(values.min()), "median": float(np.median(values)), "max": int(values.max())}
