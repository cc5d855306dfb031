"""Thumbnails of images and two-dimensional maps of features, for the page.

This is the only module of ``report`` that reads feature files and data sets. Rows may come from a stranger, so a
feature file is found by its identity, never by a path in a row, and an image by its name in the data set.
"""

import base64
import functools
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from backbench import UserError, details
from backbench.cache import axes, features, schema
from backbench.data import of_features
from backbench.data.thumbnails import thumbnail
from backbench.decisions import AUDITED

UMAP_ROWS = 10_000
"""Largest number of evenly spaced rows for UMAP, which takes about a minute on 2 cores."""

STEPS = 65_535
"""Coordinates are stored as 16-bit integers, as steps over their range."""


class Files:
    """The feature files under a folder, by their identity.

    ``tested`` holds an identity and the names of the test images in order, and of all images, which folds test on. Its
    keys are the digests of the data set and of these names, as in a row's details, since names alone could be those of
    other images.
    """

    def __init__(self, cache_dir: Path):
        self.faults: list[str] = []
        self.found: dict[str, Path] = {}
        self.tested: dict[tuple[str, str], tuple[dict, list[str]]] = {}
        paths = sorted(Path(cache_dir).rglob("*.h5")) if Path(cache_dir).is_dir() else []
        for path in paths:
            try:
                # Checking all files would take long. Only the files that are shown are compared with their checksums.
                with features.open_file(path, check=False) as file:
                    self.found[schema.key(file.identity)] = path
                    there = file.done == schema.DONE
                    for rows in (there & (file.split == 2), there):
                        tested = [file.ids[i] for i in np.flatnonzero(rows)]
                        images = file.identity["dataset_digest"], details.ids_digest(tested)
                        self.tested.setdefault(images, (file.identity, tested))
            except UserError as error:
                self.faults.append(str(error))

    def of(self, row: dict) -> Path | None:
        """Return the feature file of a row, or None where it isn't there."""
        return self.found.get(identity_of(row))


def identity_of(row: dict) -> str:
    """Return the key of a row's features in ``Files.found``: of the data set before ``audit.csv`` changed it."""
    found = row["features"] or {}
    decided = found.get(AUDITED)
    return schema.key(found | {"dataset_digest": decided.get("of")} if isinstance(decided, dict) else found)


def feature_map(path: Path, *, most: int, umap: bool = False) -> dict:
    """Map the features of a file to two dimensions, for at most ``most`` evenly spaced images.

    Returns ``ids`` (list), ``labels`` and ``split`` (n,) int, ``xy`` (n, 2) float, ``dataset``, ``classes``, ``of``
    (the number of images in the file) and ``how`` (the method). The map is PCA (``cache.axes``), or UMAP. It is cached
    until the file changes. Raises UserError for a damaged file, or without umap-learn.
    """
    return _feature_map(path, path.stat().st_mtime_ns, most, umap)


@functools.lru_cache(64)
def _feature_map(path: Path, _: int, most: int, umap: bool) -> dict:
    with features.open_file(path) as file:
        there = np.flatnonzero(file.done == schema.DONE)
        which = there[axes.evenly(len(there), min(most, UMAP_ROWS) if umap else most)]
        mean, two, share = axes.fit(file, there)
        if umap:
            xy, how = _umap(np.asarray(file.features[which], np.float32)), "UMAP, 15 neighbours, seed 0"
        else:
            xy, how = axes.project(file, which, mean, two), f"PCA, {share:.0%} of the variance in two axes"
        return {
            "ids": [file.ids[i] for i in which],
            "labels": file.labels[which],
            "split": file.split[which],
            "xy": xy,
            "dataset": file.identity["dataset"],
            "classes": file.class_names,
            "of": len(there),
            "how": how,
        }


def _umap(x: np.ndarray) -> np.ndarray:
    try:
        from umap import UMAP
    except ImportError:
        raise UserError("--umap needs umap-learn: pip install 'backbench[umap]'") from None
    return UMAP(n_neighbors=min(15, max(2, len(x) - 1)), random_state=0, n_jobs=1).fit_transform(x)


def packed(found: dict, numbers: np.ndarray) -> dict:
    """Return a map as the page holds it: coordinates as 16-bit steps, labels, splits and thumbnails' ``numbers`` (n,).

    These arrays are encoded as little-endian base64.
    """
    xy = found["xy"]
    low = xy.min(axis=0)
    span = np.maximum(xy.max(axis=0) - low, np.finfo(np.float32).tiny)
    steps = np.rint((xy - low) / span * STEPS).astype("<u2")
    return {
        "n": len(xy),
        "x": _base64(steps[:, 0]),
        "y": _base64(steps[:, 1]),
        "aspect": float(span[0] / span[1]),
        "labels": _base64(found["labels"].astype("<u2")),
        "split": _base64(found["split"].astype("u1")),
        "pictures": _base64(numbers.astype("<u2")),
        "of": found["of"],
        "how": found["how"],
    }


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


_MADE: dict[tuple[str, str], str] = {}
"""Thumbnails by data set digest and image name, so that a renewed page makes none twice."""


class Thumbnails:
    """Thumbnails as data URIs, by data set and image name, of up to ``budget`` bytes together."""

    def __init__(self, data_root: Path, more: Iterable[str] = (), *, budget: int):
        self.data_root, self.more, self.left = data_root, list(more), budget
        self.sets: dict[str, tuple] = {}
        self.made: dict[str, dict[str, str]] = {}
        self.why: dict[str, str] = {}

    def add(self, identity: dict, names: Iterable[str]) -> None:
        """Make the missing thumbnails of ``names``. Images that can't be read are skipped."""
        dataset = identity["dataset"]
        made = self.made.setdefault(dataset, {})
        imageset, places = self._open(identity)
        for name in names:
            if self.left <= 0:
                self.why.setdefault(dataset, "the page has no room for more images")
                return
            if imageset is None or name in made or name not in places:
                continue
            key = imageset.digest, name
            try:
                made[name] = _MADE[key] if key in _MADE else thumbnail(imageset.read(places[name]))
            except UserError:
                continue
            _MADE[key] = made[name]
            self.left -= len(made[name])

    def _open(self, identity: dict) -> tuple:
        """Return the data set that the features were made from, and the place of each image name in it."""
        dataset = identity["dataset"]
        if dataset not in self.sets:
            self.sets[dataset] = None, {}
            try:
                imageset = of_features.load(identity, self.more, data_root=self.data_root)
                self.sets[dataset] = imageset, {name: i for i, name in enumerate(imageset.ids)}
            except UserError as error:
                self.why[dataset] = str(error)
                print(f"There are no images of {dataset}: {error}", file=sys.stderr)
        return self.sets[dataset]
