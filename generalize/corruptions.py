"""Corrupted images, the same in every run: blur, noise, JPEG and low resolution at five strengths.

Blur, noise and JPEG are those of D. Hendrycks & T. Dietterich (2019), Benchmarking neural network robustness to common
corruptions and perturbations, with its levels for ImageNet. They are meant for images of 224 pixels: a larger one is
first brought to that on its shorter side, or resizing after them would undo what they did.
"""

import hashlib
import io

import numpy as np
from PIL import Image, ImageFilter

from backbench.data.derived import View, view
from backbench.data.imageset import ImageSet

SIDE = 224
"""Pixels of the shorter side at which blur, noise and JPEG are laid on."""

LEVELS = {
    "resolution": (224, 128, 64, 32, 16),
    "blur": (1, 2, 3, 4, 6),
    "noise": (0.08, 0.12, 0.18, 0.26, 0.38),
    "jpeg": (25, 18, 15, 10, 7),
}
"""By strength, 1 to 5. resolution: pixels of the shorter side that are left, enlarged again to the size it had. blur:
standard deviation of the Gaussian in pixels. noise: standard deviation of Gaussian noise, black to white being 1. jpeg:
libjpeg's quality, 1..100."""


def corrupted(origin: ImageSet, rows: np.ndarray, corruption: str, strength: int, *, seed: int) -> View:
    """The images ``rows`` at a strength from 1 to 5, named after the level: ``caltech256+blur-6``."""
    level = LEVELS[corruption][strength - 1]

    def change(image, id):
        return corrupt(image, corruption, strength, seed=seed, id=id)

    return view(origin, rows, f"{corruption}-{level:g}", change=change, details=[corruption, strength, level, seed])


def corrupt(image: Image.Image, corruption: str, strength: int, *, seed: int, id: str) -> Image.Image:
    """A PIL RGB image at ``LEVELS[corruption][strength - 1]``. Noise depends on nothing but
    ``seed``, ``id``, the corruption and its strength.

    Lower resolution leaves the size as it is, and a image that has no more pixels than that untouched.
    """
    level = LEVELS[corruption][strength - 1]
    if corruption == "resolution":
        return _resized(image, level).resize(image.size, Image.Resampling.BICUBIC)
    image = _resized(image, SIDE)
    if corruption == "blur":
        return image.filter(ImageFilter.GaussianBlur(level))
    if corruption == "jpeg":
        file = io.BytesIO()
        image.save(file, "JPEG", quality=level)
        return Image.open(file).convert("RGB")
    key = hashlib.sha256(f"{seed}:{corruption}:{strength}:{id}".encode()).digest()
    noise = np.random.default_rng(int.from_bytes(key[:16], "big")).normal(
        scale=255 * level, size=(*image.size[::-1], 3)
    )
    return Image.fromarray(np.clip(np.rint(np.asarray(image) + noise), 0, 255).astype(np.uint8))


def _resized(image: Image.Image, shorter: int) -> Image.Image:
    """With at most so many pixels on the shorter side."""
    short = min(image.size)
    if short <= shorter:
        return image
    size = [max(1, round(side * shorter / short)) for side in image.size]
    return image.resize(size, Image.Resampling.BICUBIC)
