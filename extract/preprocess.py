"""Preprocessing: images at the backbone's input size in 8 bits, as timm's evaluation transform gives them, but faster.

torch resizes 8-bit images twice as fast as PIL. Values differ by 0.004 of 255 levels on average, and by 3 at most. Of
an elongated image only the centre is computed. An image is decoded once for all backbones.
"""

import math

import numpy as np

from backbench import UserError
from backbench.extract.views import random_crop

FILTERS = ("bilinear", "bicubic")
"""Interpolations that are computed here. With others, timm's own transform is used."""

LONG = 2
"""Longest image, as its longer side over its shorter, that is resized whole. Of a longer one only the centre is
computed, by PIL, since a line of pixels resized whole would take gigabytes."""

SMALL = 64
"""Longest side of images that are resized a batch at a time. For CIFAR (32 to 224 pixels) that is twice as fast. The
rule depends on the image alone, and so do its pixels, whatever other images are in its batch."""


class Preprocessor:
    """Preprocesses images for backbones that share one input size, crop and interpolation."""

    def __init__(self, backbone):
        config = backbone.config
        self.size = tuple(config["input_size"][1:])
        self.filter = config["interpolation"]
        plain = self.size[0] == self.size[1] and config.get("crop_mode", "center") == "center"
        self.shorter = math.floor(self.size[0] / config["crop_pct"]) if plain and self.filter in FILTERS else None
        self.transform = backbone.transform()

    def whole(self, width: int, height: int) -> bool:
        """Whether images of this size (pixels) are resized by ``resized`` rather than ``crop``."""
        return max(width, height) <= LONG * min(width, height) and self._plan(width, height) is not None

    def crop(self, image) -> np.ndarray:
        """Return the resized centre of a PIL image, (H, W, 3) uint8."""
        from PIL import Image

        plan = self._plan(*image.size)
        if plan is None:
            return np.asarray(self.transform(image)).transpose(1, 2, 0)
        (width, height), left, top = plan
        filter = getattr(Image.Resampling, self.filter.upper())
        across, down = image.width / width, image.height / height
        # First along rows, then along columns, as PIL does it for a whole image. For a part it may take another order.
        reach = 2 * max(1, down) + 1
        first = max(0, math.floor(top * down - reach))
        last = min(image.height, math.ceil((top + self.size[0]) * down + reach))
        box = (left * across, first, (left + self.size[1]) * across, last)
        image = image.resize((self.size[1], last - first), filter, box)
        box = (0, top * down - first, self.size[1], (top + self.size[0]) * down - first)
        return np.asarray(image.resize(self.size[::-1], filter, box))

    def view(self, pixels: np.ndarray, number: int, *, content: str, seed: int) -> np.ndarray:
        """Return view ``number`` of an image (h, w, 3) uint8 as (H, W, 3): 0 its centre, 1 that mirrored, else a random
        crop."""
        from PIL import Image

        height, width, _ = pixels.shape
        if number < 2:
            whole = self.whole(width, height)
            centre = self.resized(pixels[None])[0] if whole else self.crop(Image.fromarray(pixels))
            return centre[:, :: 1 - 2 * number]
        image = Image.fromarray(pixels)
        box, mirror = random_crop(content, number, seed=seed, width=image.width, height=image.height)
        filter = getattr(Image.Resampling, self.filter.upper(), Image.Resampling.BICUBIC)
        return np.asarray(image.resize(self.size[::-1], filter, box))[:, :: -1 if mirror else 1]

    def resized(self, images: np.ndarray) -> np.ndarray:
        """Return the resized centres (B, H, W, 3) uint8 of images of one size, (B, h, w, 3) uint8."""
        import torch

        (width, height), left, top = self._plan(*images.shape[2:0:-1])
        batch = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
        # numpy may give a single image a stride that hides its layout, and torch would take three times as long.
        batch = batch.as_strided(batch.shape, (images[0].size, *batch.stride()[1:]))
        batch = torch.nn.functional.interpolate(batch, (height, width), mode=self.filter, antialias=True)
        batch = batch[:, :, top : top + self.size[0], left : left + self.size[1]]
        return batch.permute(0, 2, 3, 1).numpy()

    def _plan(self, width: int, height: int):
        """Return the whole image's size after resizing, and where its centre begins; None where timm must do it."""
        # Of a tall image that becomes smaller, some versions of PIL resize the columns first. Then timm takes no more
        # memory than the image has.
        if self.shorter is None or (height > 2 * width and width >= self.shorter):
            return None
        short = min(width, height)
        resized = [int(self.shorter * side / short) for side in (width, height)]  # as torchvision rounds
        left, top = (round((side - kept) / 2) for side, kept in zip(resized, self.size[::-1], strict=True))
        return (resized, left, top) if left >= 0 and top >= 0 else None


class Reader:
    """Reads views of a data set's images, each once for any number of ``Preprocessor``. ``pool``, if any, shares it."""

    def __init__(self, imageset, pool=None, *, seed: int = 42):
        self.imageset, self.seed = imageset, seed
        # Of images in memory each is too little work for a thread.
        self.map = map if pool is None or imageset.pixels is not None else pool.map

    def read(self, images: np.ndarray, views: np.ndarray, preprocessors: list[Preprocessor], unless=(), *, out=None):
        """Read view ``views[r]`` of image ``images[r]``, for each r of R.

        Images whose contents are among ``unless`` aren't decoded, and are black. ``out`` may give an array
        (R, H, W, 3) uint8 for each of ``preprocessors`` to be filled.

        Returns a batch (R, 3, H, W) uint8, channels last, for each of ``preprocessors``. Also returns an array (R,)
        that holds None or the UserError that says why the image could not be read. Such images are black, so that the
        batch keeps its other rows in place.
        """
        import torch

        batches = out or [np.empty((len(images), *one.size, 3), np.uint8) for one in preprocessors]
        distinct, places = np.unique(images, return_inverse=True)
        rows = [np.flatnonzero(places == k) for k in range(len(distinct))]
        small: list[list] = [[] for _ in preprocessors]

        def load(i: int, rows: np.ndarray) -> UserError | None:
            try:
                pixels, fault = self.imageset.array(i, unless=unless), None
                if pixels is not None:
                    self._view(i, pixels, rows, views, preprocessors, batches, small)
                    return None
            except UserError as error:
                fault = error
            for batch in batches:
                batch[rows] = 0
            return fault

        faults = np.array([*self.map(load, distinct.tolist(), rows)], object)[places]
        for preprocessor, batch, together in zip(preprocessors, batches, small, strict=True):
            for shape in {pixels.shape for _, pixels in together}:
                which = [row for row, pixels in together if pixels.shape == shape]
                batch[which] = preprocessor.resized(np.stack([one for _, one in together if one.shape == shape]))
            mirrored = [row for row, _ in together if views[row] == 1]
            batch[mirrored] = batch[mirrored, :, ::-1]
        return [torch.from_numpy(batch).permute(0, 3, 1, 2) for batch in batches], faults

    def _view(self, i: int, pixels: np.ndarray, rows, views, preprocessors, batches, small) -> None:
        """Fill the rows of an image in each batch, or put them into ``small``. Raises UserError."""
        height, width, _ = pixels.shape
        try:
            for preprocessor, batch, together in zip(preprocessors, batches, small, strict=True):
                later = max(width, height) <= SMALL and preprocessor.whole(width, height)
                for row in rows:
                    if later and views[row] < 2:
                        together.append((row, pixels))
                    else:
                        content = self.imageset.content(i)
                        batch[row] = preprocessor.view(pixels, views[row], content=content, seed=self.seed)
        except (ValueError, MemoryError) as error:
            reason = str(error) or "there is too little memory for it"
            raise UserError(f"{self.imageset.ids[i]} ({width} x {height} pixels) can't be resized: {reason}") from error


def scaled(config: dict, scale: float) -> dict:
    """Return the data config with ``scale`` times the input size, rounded to multiples of 32 (else 14) pixels."""
    if scale == 1:
        return config
    c, *sides = config["input_size"]
    step = 32 if sides[0] % 32 == 0 else 14
    return config | {"input_size": (c, *(max(step, round(side * scale / step) * step) for side in sides))}
