"""Trained models from Python: ``bb.load(path).predict(images)``."""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from backbench import UserError
from backbench.data import given, unlabelled
from backbench.data.imageset import ImageSet
from backbench.predict import find, run
from backbench.predict.predictions import Predictions
from backbench.progress import silenced


class Model:
    """A probe head, the checkpoint of a run, or several that answer together. ``classes`` (K) are the class names."""

    def __init__(self, paths: Sequence[str | Path], *, weights=None, trust: bool = False, device: str = "auto"):
        weights = None if weights is None else Path(weights)
        self.models = [replace(find.at(Path(path)), trust=trust, weights=weights) for path in paths]
        run.check(self.models)
        self.classes, self.device = list(self.models[0].classes), device

    def __repr__(self) -> str:
        return f"<Model {' + '.join(str(model.folder) for model in self.models)}: {len(self.classes)} classes>"

    def predict(
        self, images, *, top: int = 5, sets: float | None = None, set_kind: str = "lac", unknown: float | None = None,
        combine: str = "mean", on_error: str = "fail", cache_dir="cache", data_root="data/raw", progress=None,
    ) -> Predictions:  # fmt: skip
        """Classify images: a list of N paths, PIL images or arrays (H, W) or (H, W, 3) of uint8; or a place.

        A place is a text or Path as ``backbench predict`` takes it: a folder, a file, a pattern, ``wds:PATH``. Its
        features are kept in ``cache_dir``; those of a list are in memory alone, and its N predictions are in its order.
        ``sets`` and ``unknown`` are the command's. With ``on_error="skip"`` images that can't be read are left out.

        Raises UserError for images that can't be read, naming all, and UsageError for what isn't known.
        """
        how = {"level": sets, "kind": set_kind, "rate": unknown, "combine": combine}
        with silenced(progress, stderr=True):
            run.check(self.models, **how)
            how |= {"top": top, "device": self.device, "skip": on_error == "skip"}
            if isinstance(images, str | Path):
                first = self.models[0]
                told = {"exif": first.exif, "seed": first.identity["seed"], "data_root": Path(data_root)}
                imageset = unlabelled.images([str(images)], **told)
                return run.predict(self.models, imageset, cache_dir=Path(cache_dir), **how)
            with tempfile.TemporaryDirectory(prefix="backbench-") as folder:
                return run.predict(self.models, self._listed(images), cache_dir=Path(folder), **how)

    def _listed(self, images) -> ImageSet:
        images = [Image.fromarray(_pixels(one)) if isinstance(one, np.ndarray) else one for one in images]
        if not images:
            raise UserError("an empty list of images: at least one is expected.")
        ids = [
            Path(one).as_posix() if isinstance(one, str | os.PathLike) else f"image {i}" for i, one in enumerate(images)
        ]
        if len({*ids}) < len(ids):
            ids = [f"{id} ({i})" for i, id in enumerate(ids)]
        zeros = np.zeros(len(ids), np.int64)
        told = {"ids": ids, "labels": zeros, "split": zeros + 2, "class_names": [""], "exif": self.models[0].exif}
        return given.images(images, name=f"{unlabelled.NEW}images", **told)


def _pixels(array: np.ndarray) -> np.ndarray:
    """Raise UserError where an array is no image of 8 bits."""
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        raise UserError(
            f"an array of shape {array.shape} and dtype {array.dtype}: uint8 of shape (H, W) or (H, W, 3) is expected."
        )
    return array
