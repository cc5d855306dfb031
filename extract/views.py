"""Several views of an image: its centre, the mirrored centre, and random crops, the same in every run."""

import hashlib
import math
from dataclasses import dataclass

import numpy as np

AREA = (0.35, 1.0)
"""Least and greatest share of a picture that a random crop shows; its sides are to each other as 3:4 to 4:3."""

ASPECT = 4 / 3


@dataclass(frozen=True)
class Rows:
    """The rows of a feature file: ``images`` (R, V) and ``views`` (R, V) say what each is computed from."""

    name: str  # as in the identity: plain, mean5, rows5
    images: np.ndarray
    views: np.ndarray
    labels: np.ndarray
    split: np.ndarray
    ids: list[str]

    def __len__(self):
        return len(self.images)


def rows(imageset, n: int = 1, store: str = "mean") -> Rows:
    """``n`` views an image: a row an image, the ``mean`` over its views, or with ``rows`` one a view.

    Then only train images are shown more than once, as in training with augmentation; val and test stay plain. Rows of
    one image lie side by side. View 0 is the centre, view 1 its mirror image, others random crops, half of them
    mirrored.
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


def random_crop(id: str, view: int, *, seed: int, width: int, height: int) -> tuple[tuple[float, ...], bool]:
    """Box (left, top, right, bottom) in pixels and whether to mirror it: a function of image, view and seed alone."""
    digest = hashlib.sha256(f"{seed} {view} {id}".encode("utf-8", "surrogateescape")).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    area, aspect, across, down, mirror = rng.random(5)
    area = width * height * (AREA[0] + (AREA[1] - AREA[0]) * area)
    aspect = ASPECT ** (2 * aspect - 1)
    w, h = min(width, math.sqrt(area * aspect)), min(height, math.sqrt(area / aspect))
    left, top = across * (width - w), down * (height - h)
    return (left, top, min(left + w, width), min(top + h, height)), mirror < 0.5
