"""Real images on which exported files are checked: some of the data set's, or scikit-learn's two photos in parts."""

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from PIL import Image

from backbench import UserError
from backbench.data import given, registry, sources
from backbench.devices import cores
from backbench.export.network import Trained
from backbench.extract.preprocess import Preprocessor, Reader

IMAGES = 32
"""Number of images of a data set that are looked at."""

PARTS = 4
"""Number of parts on each side that a photo of scikit-learn's is cut into."""


class Images(NamedTuple):
    """Preprocessed images (N, H, W, 3) uint8, and a phrase that says which they are."""

    pixels: np.ndarray
    said: str


def images(trained: Trained, *, dataset: str | None, data_root) -> Images:
    """Return images as the backbone takes them.

    They are test images of the data set that ``dataset`` names, or of the source where that is a registered data set
    that is there. Raises UserError where the named one can't be read.
    """
    predictor = trained.predictor
    name = dataset or (predictor.source if _is_there(predictor.source, data_root) else None)
    if name is None:
        imageset, said = _photos(predictor.exif), "parts of scikit-learn's two sample photos"
    else:
        imageset = registry.load(
            name, data_root=data_root, seed=predictor.identity["seed"] % 2**32, exif=predictor.exif
        )
        said = f"test images of {imageset.name}"
    rows = np.flatnonzero(imageset.split == 2)
    rows = rows[np.linspace(0, len(rows) - 1, min(IMAGES, len(rows))).astype(int)]
    with ThreadPoolExecutor(cores()) as pool:
        (batch,), faults = Reader(imageset, pool).read(rows, np.zeros(len(rows), int), [Preprocessor(trained.backbone)])
    good = np.array([fault is None for fault in faults], bool)
    if not good.any():
        raise UserError(f"none of {len(rows)} test images of {imageset.name} can be read.")
    return Images(np.ascontiguousarray(batch.permute(0, 2, 3, 1).numpy()[good]), f"{good.sum()} {said}")


def _is_there(name: str, data_root) -> bool:
    """Whether it is a registered data set that is there. Names of folders come from files, and are not looked for."""
    return name in sources.SETS and registry.there(name, data_root)


def _photos(exif: str):
    from sklearn.datasets import load_sample_images

    parts = [
        Image.fromarray(np.ascontiguousarray(part))
        for photo in load_sample_images().images
        for row in np.array_split(photo, PARTS, axis=0)
        for part in np.array_split(row, PARTS, axis=1)
    ]
    n = len(parts)
    how = {"ids": [f"part {i}" for i in range(n)], "labels": np.arange(n) % 2, "split": np.full(n, 2)}
    return given.images(parts, **how, class_names=["china", "flower"], exif=exif)
