"""Several views of an image: its centre, the mirrored centre, and random crops. They are the same in every run."""

import hashlib
import math
from dataclasses import dataclass

import numpy as np

from backbench.cache import schema
from backbench.cache.reuse import Layout
from backbench.data import contents

AREA = (0.35, 1.0)
"""Least and greatest share of an image's area that a random crop shows. Its aspect ratio is between 3:4 and 4:3."""

ASPECT = 4 / 3


@dataclass(frozen=True)
class Rows:
    """The rows of a feature file. ``images`` (R, V) and ``views`` (R, V) say what each row is computed from."""

    name: str  # as in the identity: plain, mean5, rows5
    images: np.ndarray
    views: np.ndarray
    labels: np.ndarray
    split: np.ndarray
    ids: list[str]

    def __len__(self):
        return len(self.images)

    @property
    def one_per_image(self) -> bool:
        """Whether row i is that of image i."""
        return np.array_equal(self.images[:, 0], np.arange(len(self)))


def rows(imageset, n: int = 1, store: str = "mean") -> Rows:
    """Lay out ``n`` views per image: with ``mean`` one row per image, with ``rows`` one row per view.

    With ``rows`` only train images have more than one view, as in training with augmentation; val and test have the
    centre. Rows of one image are neighbours. View 0 is the centre, view 1 its mirror image, and others are random
    crops, half of them mirrored.
    """
    size = len(imageset)
    if n == 1 or store == "mean":
        images = np.repeat(np.arange(size)[:, None], n, axis=1)
        views = np.repeat(np.arange(n)[None], size, axis=0)
        name = "plain" if n == 1 else f"mean{n}"
        return Rows(name, images, views, imageset.labels, imageset.split, imageset.ids)
    images = np.repeat(np.arange(size), np.where(imageset.split == 0, n, 1))
    views = np.arange(len(images)) - np.searchsorted(images, images)
    ids = [f"{imageset.ids[i]}#{view}" if view else imageset.ids[i] for i, view in zip(images, views, strict=True)]
    labels, split = imageset.labels[images], imageset.split[images]
    return Rows(f"rows{n}", images[:, None], views[:, None], labels, split, ids)


def layout(imageset, rows: Rows) -> Layout:
    """Return the rows as a feature file knows them: with the contents of their images."""
    images = rows.images[:, 0]

    def known(which: np.ndarray | None) -> np.ndarray:
        contents.complete(imageset, None if which is None else np.unique(images[which]))
        return contents_of(imageset, rows)

    return Layout(
        rows.ids,
        rows.labels,
        rows.split,
        imageset.class_names,
        known,
        groups=None if imageset.groups is None else imageset.groups[images],
        listings=imageset.listings,
        touched=lambda: contents.touched(imageset),
        quick=lambda: contents.quick(imageset),
    )


def contents_of(imageset, rows: Rows, which=slice(None)) -> np.ndarray:
    """Return the contents (n,) S40 of the rows ``which`` (n,), as far as their images' contents are known."""
    known, views = imageset.contents[rows.images[which, 0]], rows.views[which, 0]
    if views.any():
        # The mean over several views belongs to the image itself; its identity says which views.
        numbers = np.array([f"#{view}" if view else "" for view in range(views.max() + 1)], "S8")[views]
        known = np.where(known == b"", b"", np.char.add(known, numbers))
    return known.astype(schema.CONTENT)


def random_crop(content: str, view: int, *, seed: int, width: int, height: int) -> tuple[tuple[float, ...], bool]:
    """Return the box (left, top, right, bottom) in pixels, and whether to mirror it.

    Both depend on the image's content and size, the view and the seed alone.
    """
    digest = hashlib.sha256(f"{seed} {view} {content}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    area, aspect, across, down, mirror = rng.random(5)
    area = width * height * (AREA[0] + (AREA[1] - AREA[0]) * area)
    aspect = ASPECT ** (2 * aspect - 1)
    w, h = min(width, math.sqrt(area * aspect)), min(height, math.sqrt(area / aspect))
    left, top = across * (width - w), down * (height - h)
    return (left, top, min(left + w, width), min(top + h, height)), mirror < 0.5
