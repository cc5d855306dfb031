"""Data sets derived from others: some of their images, unchanged or changed, all in the test split."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from backbench.data.imageset import ImageSet
from backbench.data.splits import TEST

PLAIN = ("test", "all")
"""Views of unchanged images: those of the test split, and all."""


@dataclass(frozen=True, eq=False, kw_only=True)
class View(ImageSet):
    """A data set derived from ``origin`` by ``view``."""

    origin: ImageSet
    rows: np.ndarray
    change: Callable[[Image.Image, str], Image.Image] | None = None

    def read(self, i: int) -> Image.Image:
        """Read image ``i`` as ``ImageSet.read`` does, and change it."""
        image = self.origin.read(int(self.rows[i]))
        return image if self.change is None else self.change(image, self.ids[i])


def view(origin: ImageSet, rows: np.ndarray, what: str, *, change=None, details=None) -> View:
    """Derive the data set ``<name>+<what>`` from the images ``rows`` (N,) of ``origin``, each ``change(image, id)``.

    ``details``, plain JSON, describes the change. It goes into the digest, so that the features of a view are never
    mistaken for those of its origin or of another view.
    """
    return View(
        name=f"{origin.name}+{what}",
        ids=[origin.ids[i] for i in rows],
        labels=origin.labels[rows],
        split=np.full(len(rows), TEST, np.int8),
        class_names=origin.class_names,
        digest=_digest(origin.digest, rows.tolist(), details),
        **dict.fromkeys(("images_digest", "test_digest"), _digest(origin.images_digest, what, details)),
        exif=origin.exif,
        root=origin.root,
        files=None if origin.files is None else [origin.files[i] for i in rows],
        pixels=None if origin.pixels is None else origin.pixels[rows],
        origin=origin,
        rows=rows,
        change=change,
    )


def _digest(*parts) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def plain(origin: ImageSet, what: str) -> View:
    """Return the view ``test`` or ``all`` of a data set."""
    return view(origin, np.flatnonzero(origin.split == TEST) if what == "test" else np.arange(len(origin)), what)
