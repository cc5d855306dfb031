"""Images as timm's evaluation transform would hand them on: the backbone's input size, 8 bits, in half the time.

timm resizes a whole picture and then keeps its centre. Here only the centre is computed, by the same filter from the
same places (to a rounding: at most 3 of 255 levels, 0.0003 on average), small pictures and sets in memory a batch at a
time. A picture is decoded once for all backbones.
"""

import math

import numpy as np

from backbench import UserError
from backbench.extract.views import random_crop

FILTERS = ("bilinear", "bicubic")
"""Interpolations that are computed here; with others, timm's own transform is used."""

SMALL = 64
"""Longest side of pictures that are resized together by torch, not one by one by PIL: CIFAR's 32 to 224, 18 times as
fast, the same to 2 of 255 levels. Depends on the picture alone, so that its pixels don't depend on its company."""


class Pixels:
    """What becomes of a picture for backbones of one input size, crop and interpolation."""

    def __init__(self, backbone):
        config = backbone.config
        self.size = tuple(config["input_size"][1:])
        self.filter = config["interpolation"]
        plain = self.size[0] == self.size[1] and config.get("crop_mode", "center") == "center"
        self.shorter = math.floor(self.size[0] / config["crop_pct"]) if plain and self.filter in FILTERS else None
        self.transform = backbone.transform()

    def together(self, width: int, height: int, *, in_memory: bool) -> bool:
        """Whether pictures of this size are resized by ``resized`` rather than ``crop``."""
        return (in_memory or max(width, height) <= SMALL) and self._plan(width, height) is not None

    def crop(self, image) -> np.ndarray:
        """(H, W, 3) uint8, the centre of a PIL image."""
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

    def view(self, image, number: int, *, id: str, seed: int) -> np.ndarray:
        """(H, W, 3) uint8 of a PIL image: 0 its centre, 1 that mirrored, others as ``random_crop``."""
        from PIL import Image

        if number < 2:
            return self.crop(image)[:, :: 1 - 2 * number]
        box, mirror = random_crop(id, number, seed=seed, width=image.width, height=image.height)
        filter = getattr(Image.Resampling, self.filter.upper(), Image.Resampling.BICUBIC)
        return np.asarray(image.resize(self.size[::-1], filter, box))[:, :: -1 if mirror else 1]

    def resized(self, pictures: np.ndarray) -> np.ndarray:
        """(B, H, W, 3) uint8, the centres of pictures of one size, (B, h, w, 3) uint8."""
        import torch

        (width, height), left, top = self._plan(*pictures.shape[2:0:-1])
        batch = torch.from_numpy(pictures).permute(0, 3, 1, 2)
        batch = torch.nn.functional.interpolate(batch, (height, width), mode=self.filter, antialias=True)
        batch = batch[:, :, top : top + self.size[0], left : left + self.size[1]]
        return batch.permute(0, 2, 3, 1).numpy()

    def _plan(self, width: int, height: int):
        """Size of the whole picture after resizing, and where its centre begins. None: leave it to timm."""
        if self.shorter is None or height > 2 * width:  # such tall pictures some versions of PIL resize columns first
            return None
        short = min(width, height)
        resized = [int(self.shorter * side / short) for side in (width, height)]  # as torchvision rounds
        left, top = (round((side - kept) / 2) for side, kept in zip(resized, self.size[::-1], strict=True))
        return (resized, left, top) if left >= 0 and top >= 0 else None


class Reader:
    """Reads views of an image set's pictures, each once, for any number of ``Pixels``. ``pool`` does the work."""

    def __init__(self, imageset, pool, *, seed: int = 42):
        self.imageset, self.pool, self.seed = imageset, pool, seed
        self.in_memory = imageset.pixels is not None

    def read(self, images: np.ndarray, views: np.ndarray, ways: list[Pixels]):
        """View ``views[r]`` of picture ``images[r]``: a batch (R, 3, H, W) uint8, channels last, for each of ``ways``.

        Beside them, (R,) None or the UserError that says why the picture could not be read. Those are black, so that
        the others keep their company.
        """
        import torch

        rooms = [np.zeros((len(images), *way.size, 3), np.uint8) for way in ways]
        pictures, places = np.unique(images, return_inverse=True)
        rows = [np.flatnonzero(places == k) for k in range(len(pictures))]
        left: list[list] = [[] for _ in ways]

        def load(i: int, rows: np.ndarray) -> UserError | None:
            try:
                image = self.imageset.read(i)
                for way, room, together in zip(ways, rooms, left, strict=True):
                    small = way.together(*image.size, in_memory=self.in_memory)
                    for row in rows:
                        if small and views[row] < 2:
                            together.append((row, image))
                        else:
                            room[row] = way.view(image, views[row], id=self.imageset.ids[i], seed=self.seed)
            except UserError as error:
                return error
            except (ValueError, MemoryError) as error:  # a line of pixels, resized to hundreds of megapixels
                return UserError(f"{self.imageset.ids[i]}: can't be resized: {error}")
            return None

        each = map if self.in_memory else self.pool.map  # of what is in memory, handing over would be most of the work
        faults = np.array([*each(load, pictures.tolist(), rows)], object)[places]
        for way, room, together in zip(ways, rooms, left, strict=True):
            for size in {image.size for _, image in together}:
                which = [row for row, image in together if image.size == size]
                room[which] = way.resized(np.stack([np.asarray(image) for _, image in together if image.size == size]))
            mirrored = [row for row, _ in together if views[row] == 1]
            room[mirrored] = room[mirrored, :, ::-1]
        return [torch.from_numpy(room).permute(0, 3, 1, 2) for room in rooms], faults


def scaled(config: dict, scale: float) -> dict:
    """The data config at ``scale`` times the input size, to whole multiples of 32 pixels (14 where those it had)."""
    if scale == 1:
        return config
    c, *sides = config["input_size"]
    step = 32 if sides[0] % 32 == 0 else 14
    return config | {"input_size": (c, *(max(step, round(side * scale / step) * step) for side in sides))}
