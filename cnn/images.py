"""Pictures as they are trained on: all in memory, normalised and varied a batch at a time on the device."""

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from backbench import UserError
from backbench.devices import memory
from backbench.extract.preprocess import Pixels, Reader
from backbench.progress import progress

AT_A_TIME = 1000
"""Pictures read at a time."""

SHRUNK = 4
"""Times larger than the network's side from which a user is told what is lost."""

MOST_MEMORY = 0.5
"""Share of the memory that the pictures may take."""


def read(imageset, backbone) -> torch.Tensor:
    """(N, H, W, 3) uint8 of all pictures, as extract sees them at the backbone's input size.

    Raises UserError naming those that can't be read, or where all of them don't fit into memory.
    """
    way, n = Pixels(backbone), len(imageset)
    need, there = n * 3 * way.size[0] * way.size[1], memory(torch.device("cpu"))
    if need > MOST_MEMORY * there:
        raise UserError(
            f"{imageset.name}: {n:,} pictures of {way.size[0]} x {way.size[1]} pixels take {need >> 20:,} MB, more "
            f"than half of the {there >> 20:,} MB here. This network trains from memory: a smaller --pixels, or "
            "finetune, which reads them from disk."
        )
    _warn(imageset, way.size)
    found = torch.empty((n, *way.size, 3), dtype=torch.uint8)
    with ThreadPoolExecutor(8) as pool, progress(n, f"reading {imageset.name}") as advance:
        reader = Reader(imageset, pool)
        for start in range(0, n, AT_A_TIME):
            rows = np.arange(start, min(start + AT_A_TIME, n))
            (batch,), faults = reader.read(rows, np.zeros(len(rows), int), [way])
            if unreadable := [str(fault) for fault in faults if fault]:
                raise UserError(*(f"{one} Mend it or take it out, then run the same command." for one in unreadable))
            found[start : start + len(rows)] = batch.permute(0, 2, 3, 1)
            advance(len(rows))
    return found


def _warn(imageset, size: tuple[int, int]) -> None:
    """Say so where pictures are far larger than the network sees them: of a sample, the middle one."""
    sides = sorted(max(imageset.read(i).size) for i in range(0, len(imageset), max(1, len(imageset) // 15)))
    if sides and (middle := sides[len(sides) // 2]) > SHRUNK * max(size):
        print(
            f"Warning: pictures of {imageset.name} are about {middle} pixels a side; this network sees them at "
            f"{size[0]} x {size[1]}. --pixels takes more of them; finetune and probe suit such pictures better.",
            file=sys.stderr,
        )


def statistics(pictures: torch.Tensor) -> tuple[tuple, tuple]:
    """Mean and standard deviation of each channel on the 0..1 scale, of (N, H, W, 3) uint8, to four digits.

    Exact: from the counts of all 256 levels.
    """
    levels = torch.arange(256, dtype=torch.float64) / 255
    counts = torch.stack([torch.bincount(pictures[..., c].flatten(), minlength=256) for c in range(3)]).double()
    share = counts / counts.sum(1, keepdim=True)
    mean = share @ levels
    std = (share @ levels**2 - mean**2).clamp(min=1e-8).sqrt()
    return tuple(round(m, 4) for m in mean.tolist()), tuple(max(round(s, 4), 1e-4) for s in std.tolist())


def resized(pictures: torch.Tensor, side: int) -> torch.Tensor:
    """(N, H, W, 3) uint8 at ``side`` pixels, by the mean over the area of each.

    On the CPU, so that they are the same to the bit everywhere; Apple's GPUs can do it only since torch 2.7.
    """
    if pictures.shape[1] == side:
        return pictures
    made = torch.empty((len(pictures), side, side, 3), dtype=torch.uint8, device=pictures.device)
    for rows in torch.arange(len(pictures)).split(AT_A_TIME):
        batch = pictures[rows].cpu().permute(0, 3, 1, 2).float()
        batch = torch.nn.functional.interpolate(batch, (side, side), mode="bilinear", antialias=True)
        made[rows] = batch.round_().clamp_(0, 255).byte().permute(0, 2, 3, 1).to(pictures.device)
    return made


def reflected(at: torch.Tensor, side: int) -> torch.Tensor:
    """Places outside 0..side-1 mirrored at the edge pixels, -1 to 1, as reflection padding does."""
    return side - 1 - (side - 1 - at.abs()).abs()


class Varied:
    """A batch of pictures, each varied anew: ``draw`` decides how, on the CPU, and calling it makes them.

    Flips alternate (Jordan 2024, section 3.6): a random half of the pictures is mirrored in even epochs, the other half
    in odd ones, so that in any two epochs each is seen both ways. Every picture is moved by up to ``translate`` pixels
    each way, reflected at the edges, and a square of ``cutout`` pixels a side is set to the mean.
    """

    def __init__(self, pictures, mean, std, *, seed: int, translate: int, cutout: int, flip: bool = True, dtype=None):
        device = pictures.device
        self.pictures, self.translate, self.cutout = pictures, translate, cutout
        self.side, self.dtype = pictures.shape[1], dtype or torch.float32
        self.scale = (1 / (255 * torch.tensor(std))).to(device)
        self.shift = (torch.tensor(mean) / torch.tensor(std)).to(device)
        self.bits = np.random.default_rng((seed, 1)).integers(0, 2, len(pictures)) if flip else None

    def draw(self, rows: np.ndarray, epoch: int, rng: np.random.Generator) -> torch.Tensor:
        """(6, B) int64 for pictures ``rows`` (B,): which; whether mirrored; moved down, across; cut from row, column.

        In memory from which a GPU fetches it without being waited for.
        """
        n = len(rows)
        mirrored = np.zeros(n, int) if self.bits is None else (self.bits[rows] + epoch) % 2
        moves = rng.integers(-self.translate, self.translate + 1, (2, n))
        corner = rng.integers(1 - self.cutout, self.side, (2, n)) if self.cutout else np.zeros((2, n), int)
        drawn = torch.from_numpy(np.stack([rows, mirrored, *moves, *corner]))
        return drawn.pin_memory() if self.pictures.is_cuda else drawn

    def __call__(self, drawn: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W), normalised, as ``drawn``, on the pictures' device, says."""
        side, grid = self.side, torch.arange(self.side, device=self.pictures.device)
        rows, mirrored, down, across, above, left = drawn[:, :, None]
        across = grid + across
        across = torch.where(mirrored == 1, side - 1 - across, across)
        down, across = reflected(grid + down, side), reflected(across, side)
        x = self.pictures[rows[:, :, None], down[:, :, None], across[:, None, :]]  # (B, H, W, 3)
        x = (x * self.scale - self.shift).to(self.dtype)
        if self.cutout:
            high, wide = ((grid >= at) & (grid < at + self.cutout) for at in (above, left))
            x = x.masked_fill((high[:, :, None] & wide[:, None, :])[..., None], 0)
        return x.permute(0, 3, 1, 2)  # channels last already
