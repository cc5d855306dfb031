"""Some images of a set as a set of its own, all of them test, as they are or changed."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from backbench.data.imageset import ImageSet
from backbench.data.splits import TEST

PLAIN = ("test", "all")
"""Views of images as they are: those of the test split, and all."""


@dataclass(frozen=True, eq=False, kw_only=True)
class View(ImageSet):
    """Made by ``view``."""

    origin: ImageSet
    rows: np.ndarray
    change: Callable[[Image.Image, str], Image.Image] | None = None

    def read(self, i: int) -> Image.Image:
        """As ``ImageSet.read``."""
        image = self.origin.read(int(self.rows[i]))
        return image if self.change is None else self.change(image, self.ids[i])


def view(origin: ImageSet, rows: np.ndarray, what: str, *, change=None, told=None) -> View:
    """The images ``rows`` (N,) of ``origin`` as ``<name>+<what>``, each as ``change(image, id)`` makes it.

    ``told``, plain JSON, says what the change is: it goes into the digest, so that features of one are never taken for
    the origin's or another's.
    """
    return View(
        name=f"{origin.name}+{what}",
        ids=[origin.ids[i] for i in rows],
        labels=origin.labels[rows],
        split=np.full(len(rows), TEST, np.int8),
        class_names=origin.class_names,
        digest=_digest(origin.digest, rows.tolist(), told),
        **dict.fromkeys(("images_digest", "test_digest"), _digest(origin.images_digest, what, told)),
        exif=origin.exif,
        root=origin.root,
        files=None if origin.files is None else [origin.files[i] for i in rows],
        pixels=None if origin.pixels is None else origin.pixels[rows],
        origin=origin,
        rows=rows,
        change=change,
    )


def _digest(*of) -> str:
    return hashlib.sha256(json.dumps(of).encode()).hexdigest()


def plain(origin: ImageSet, what: str) -> View:
    """The view ``test`` or ``all`` of a set."""
    return view(origin, np.flatnonzero(origin.split == TEST) if what == "test" else np.arange(len(origin)), what)
