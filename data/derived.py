"""Data sets derived from others: some of their images, unchanged or changed, all in the test split."""

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
from PIL import Image

from backbench import image_digests
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
    details: object = None

    def read(self, i: int, *, unless: Collection[bytes] = ()) -> Image.Image | None:
        """Read image ``i`` as ``ImageSet.read`` does, and change it."""
        image = self.origin.read(int(self.rows[i]))
        self.content(i)
        if self.contents[i] in unless:
            return None
        return image if self.change is None else self.change(image, self.ids[i])

    def content(self, i: int) -> str:
        """Return the content of image ``i``. That of a changed image follows from its origin's and the change."""
        if not self.contents[i] and (found := self.origin.content(int(self.rows[i]))):
            changed = json.dumps([found, self.ids[i], self.details]).encode()
            self.contents[i] = found.encode() if self.change is None else image_digests.content(changed)
        return self.contents[i].decode()

    def places(self) -> None:
        """Return None, since a changed image is in no file."""


def view(origin: ImageSet, rows: np.ndarray, what: str, *, change=None, details=None) -> View:
    """Derive the data set ``<name>+<what>`` from the images ``rows`` (N,) of ``origin``, each ``change(image, id)``.

    ``details``, plain JSON, describes the change. It goes into the images' contents, so that the features of a view are
    never mistaken for those of its origin or of another view.
    """
    return View(
        name=f"{origin.name}+{what}",
        ids=[origin.ids[i] for i in rows],
        labels=origin.labels[rows],
        split=np.full(len(rows), TEST, np.int8),
        class_names=origin.class_names,
        exif=origin.exif,
        levels=origin.levels,
        root=origin.root,
        files=None if origin.files is None else [origin.files[i] for i in rows],
        pixels=None if origin.pixels is None else origin.pixels[rows],
        origin=origin,
        rows=rows,
        change=change,
        details=details,
    )


def plain(origin: ImageSet, what: str) -> View:
    """Return the view ``test`` or ``all`` of a data set."""
    return view(origin, np.flatnonzero(origin.split == TEST) if what == "test" else np.arange(len(origin)), what)
