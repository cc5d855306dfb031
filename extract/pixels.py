"""Images as timm's evaluation transform would hand them on: the backbone's input size, 8 bits, in half the time.

timm resizes a whole picture and then keeps its centre. Here only the centre is computed, by the same filter from the
same places (to a rounding: at most 3 of 255 levels, 0.0003 on average), and a set in memory a batch at a time.
"""

import math

import numpy as np

from backbench import UserError

FILTERS = ("bilinear", "bicubic")
"""Interpolations that are computed here; with others, timm's own transform is used."""


class Pixels:
    """Batches (B, 3, H, W) uint8, channels last, of an image set for the data config of a backbone."""

    def __init__(self, imageset, backbone):
        self.imageset = imageset
        config = backbone.config
        self.size = tuple(config["input_size"][1:])
        self.filter = config["interpolation"]
        plain = self.size[0] == self.size[1] and config.get("crop_mode", "center") == "center"
        self.shorter = math.floor(self.size[0] / config["crop_pct"]) if plain and self.filter in FILTERS else None
        self.transform = backbone.transform()

    def batch(self, group: np.ndarray, pool):
        """The images ``group`` of the set, and for each None or the UserError that says why it could not be read.

        Those are black, so that the others keep their company. ``pool`` does the reading.
        """
        import torch

        if self.imageset.pixels is not None and self._plan(*self.imageset.pixels.shape[2:0:-1]):
            return self._resized(self.imageset.pixels[group]), [None] * len(group)
        room = np.zeros((len(group), *self.size, 3), np.uint8)
        faults = list(pool.map(self._load, group, room))
        return torch.from_numpy(room).permute(0, 3, 1, 2), faults

    def _load(self, i: int, room: np.ndarray) -> UserError | None:
        try:
            room[:] = self.crop(self.imageset.read(i))
        except UserError as error:
            return error
        except (ValueError, MemoryError) as error:  # a line of pixels, resized to hundreds of megapixels
            return UserError(f"{self.imageset.ids[i]}: can't be resized: {error}")
        return None

    def crop(self, image) -> np.ndarray:
        """(H, W, 3) uint8 of a PIL image."""
        from PIL import Image

        plan = self._plan(*image.size)
        if plan is None:
            return np.asarray(self.transform(image)).transpose(1, 2, 0)
        (width, height), left, top = plan
        filter = getattr(Image.Resampling, self.filter.upper())
        across, down = image.width / width, image.height / height
        # Along rows, then along columns, as PIL does it for a whole picture; of a part it may take the other order.
        reach = 2 * max(1, down) + 1
        first = max(0, math.floor(top * down - reach))
        last = min(image.height, math.ceil((top + self.size[0]) * down + reach))
        box = (left * across, first, (left + self.size[1]) * across, last)
        image = image.resize((self.size[1], last - first), filter, box)
        box = (0, top * down - first, self.size[1], (top + self.size[0]) * down - first)
        return np.asarray(image.resize(self.size[::-1], filter, box))

    def _plan(self, width: int, height: int):
        """Size of the whole picture after resizing, and where its centre begins. None: leave it to timm."""
        if self.shorter is None or height > 2 * width:  # such tall pictures some versions of PIL resize columns first
            return None
        short = min(width, height)
        resized = [int(self.shorter * side / short) for side in (width, height)]  # as torchvision rounds
        left, top = (round((side - kept) / 2) for side, kept in zip(resized, self.size[::-1], strict=True))
        return (resized, left, top) if left >= 0 and top >= 0 else None

    def _resized(self, pixels: np.ndarray):
        import torch

        (width, height), left, top = self._plan(*pixels.shape[2:0:-1])
        batch = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        batch = torch.nn.functional.interpolate(batch, (height, width), mode=self.filter, antialias=True)
        batch = batch[:, :, top : top + self.size[0], left : left + self.size[1]]
        return batch.contiguous(memory_format=torch.channels_last)
