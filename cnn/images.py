"""Training images: all are kept in memory, and each batch is normalised and augmented on the device."""

import contextlib
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from backbench import UserError
from backbench.devices import memory
from backbench.extract.preprocess import Preprocessor, Reader
from backbench.progress import progress

AT_A_TIME = 1000
"""Number of images that are read at a time."""

SHRUNK = 4
"""Ratio of an image's side to the network's from which the user is warned of the loss of detail."""

MOST_MEMORY = 0.5
"""Largest share of the memory that the images may take."""


def read(imageset, backbone) -> tuple[torch.Tensor, dict[int, UserError]]:
    """Read all images as (N, H, W, 3) uint8, resized to the backbone's input size as by extract.

    Images that can't be read are black, and also returned by row with the reason. Raises UserError where the images
    don't fit into memory or can't be reached.
    """
    preprocessor, n = Preprocessor(backbone), len(imageset)
    height, width = preprocessor.size
    need, there = n * 3 * height * width, memory(torch.device("cpu"))
    if need > MOST_MEMORY * there:
        raise UserError(
            f"{imageset.name}: {n:,} images of {height} x {width} pixels take {need >> 20:,} MB, more than half of the "
            f"{there >> 20:,} MB of memory here. Use a smaller --pixels, or finetune, which reads images from disk."
        )
    _warn(imageset, (height, width))
    found, unreadable = torch.empty((n, height, width, 3), dtype=torch.uint8), {}
    with ThreadPoolExecutor(8) as pool, progress(n, f"reading {imageset.name}") as advance:
        reader = Reader(imageset, pool)
        for start in range(0, n, AT_A_TIME):
            rows = np.arange(start, min(start + AT_A_TIME, n))
            (batch,), faults = reader.read(rows, np.zeros(len(rows), int), [preprocessor])
            unreadable |= {i: fault for i, fault in zip(rows.tolist(), faults, strict=True) if fault}
            found[start : start + len(rows)] = batch.permute(0, 2, 3, 1)
            advance(len(rows))
    imageset.check_reachable(unreadable.values())
    return found, unreadable


def _warn(imageset, size: tuple[int, int]) -> None:
    """Warn where the median image of a sample is far larger than the network's input."""
    sides = []
    for i in range(0, len(imageset), max(1, len(imageset) // 15)):
        with contextlib.suppress(UserError):  # ``read`` tells
            sides.append(max(imageset.read(i).size))
    sides.sort()
    if sides and (middle := sides[len(sides) // 2]) > SHRUNK * max(size):
        print(
            f"Warning: images of {imageset.name} have sides of about {middle} pixels, and this network resizes them to "
            f"{size[0]} x {size[1]}. A larger --pixels keeps more detail; finetune and probe suit such images better.",
            file=sys.stderr,
        )


def statistics(images: torch.Tensor) -> tuple[tuple, tuple]:
    """Return mean and standard deviation of each channel of (N, H, W, 3) uint8, on the 0..1 scale, to four digits.

    They are exact, since they are computed from the counts of all 256 levels.
    """
    levels = torch.arange(256, dtype=torch.float64) / 255
    counts = torch.stack([torch.bincount(images[..., c].flatten(), minlength=256) for c in range(3)]).double()
    share = counts / counts.sum(1, keepdim=True)
    mean = share @ levels
    std = (share @ levels**2 - mean**2).clamp(min=1e-8).sqrt()
    return tuple(round(m, 4) for m in mean.tolist()), tuple(max(round(s, 4), 1e-4) for s in std.tolist())


def resized(images: torch.Tensor, side: int) -> torch.Tensor:
    """Resize (N, H, W, 3) uint8 to ``side`` pixels by antialiased bilinear interpolation.

    This runs on the CPU, so that the result is the same to the bit on all devices. Apple's GPUs can do it only since
    torch 2.7.
    """
    if images.shape[1] == side:
        return images
    made = torch.empty((len(images), side, side, 3), dtype=torch.uint8, device=images.device)
    for rows in torch.arange(len(images)).split(AT_A_TIME):
        batch = images[rows].cpu().permute(0, 3, 1, 2).float()
        batch = torch.nn.functional.interpolate(batch, (side, side), mode="bilinear", antialias=True)
        made[rows] = batch.round_().clamp_(0, 255).byte().permute(0, 2, 3, 1).to(images.device)
    return made


def reflected(at: torch.Tensor, side: int) -> torch.Tensor:
    """Map coordinates outside 0..side-1 back inside by reflection at the edge pixels, so that -1 becomes 1."""
    return side - 1 - (side - 1 - at.abs()).abs()


class Varied:
    """Augments batches: ``draw`` picks the random parameters on the CPU, and a call makes the images on the device.

    Flips alternate (Jordan 2024, section 3.6): a random half of the images is mirrored in even epochs, and the other
    half in odd ones. Any two epochs therefore show each image both ways. Every image is moved by up to ``translate``
    pixels in each direction, with reflection at the edges. A square of ``cutout`` pixels a side is set to the mean.
    """

    def __init__(self, images, mean, std, *, seed: int, translate: int, cutout: int, flip: bool = True, dtype=None):
        device = images.device
        self.images, self.translate, self.cutout = images, translate, cutout
        self.side, self.dtype = images.shape[1], dtype or torch.float32
        self.scale = (1 / (255 * torch.tensor(std))).to(device)
        self.shift = (torch.tensor(mean) / torch.tensor(std)).to(device)
        self.bits = np.random.default_rng((seed, 1)).integers(0, 2, len(images)) if flip else None

    def draw(self, rows: np.ndarray, epoch: int, rng: np.random.Generator) -> torch.Tensor:
        """Draw the parameters for the images ``rows`` (B,), as (6, B) int64.

        Its rows are the image's number, whether it is mirrored, its moves down and across, and the cutout's top row and
        left column. For a GPU they lie in pinned memory, so that copying them is asynchronous.
        """
        n = len(rows)
        mirrored = np.zeros(n, int) if self.bits is None else (self.bits[rows] + epoch) % 2
        moves = rng.integers(-self.translate, self.translate + 1, (2, n))
        corner = rng.integers(1 - self.cutout, self.side, (2, n)) if self.cutout else np.zeros((2, n), int)
        drawn = torch.from_numpy(np.stack([rows, mirrored, *moves, *corner]))
        return drawn.pin_memory() if self.images.is_cuda else drawn

    def __call__(self, drawn: torch.Tensor) -> torch.Tensor:
        """Return the images (B, 3, H, W), augmented by ``drawn`` on their device, and normalised."""
        side, grid = self.side, torch.arange(self.side, device=self.images.device)
        rows, mirrored, down, across, above, left = drawn[:, :, None]
        across = grid + across
        across = torch.where(mirrored == 1, side - 1 - across, across)
        down, across = reflected(grid + down, side), reflected(across, side)
        x = self.images[rows[:, :, None], down[:, :, None], across[:, None, :]]  # (B, H, W, 3)
        x = (x * self.scale - self.shift).to(self.dtype)
        if self.cutout:
            high, wide = ((grid >= at) & (grid < at + self.cutout) for at in (above, left))
            x = x.masked_fill((high[:, :, None] & wide[:, None, :])[..., None], 0)
        return x.permute(0, 3, 1, 2)  # in memory the channels are last already
