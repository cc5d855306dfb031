"""The input guard notices when a backbone is given images on another scale than it was trained on.

The published study fed 0..255 where 0..1 was expected. Backbones with a normalisation after the stem lose accuracy from
that, those without it collapse, and nothing in the run says so.
"""

import math
from collections.abc import Callable

import numpy as np

from backbench import UserError
from backbench.extract.preprocess import Preprocessor, Reader

IMAGENET_MEAN, IMAGENET_STD = 0.449, 0.226
"""Mean and standard deviation of ImageNet's pixels on the 0..1 scale, averaged over channels (0.485, 0.456, 0.406 /
0.229, 0.224, 0.225). Pretrained backbones have seen such pixels, whatever they then normalise by."""

OUTSIDE = 0.5
"""How far a value may lie outside the range from normalised black to white, in units of that range. Pixels can't lie
outside it at all, and interpolation on floats overshoots by less than this."""

FLAT = 0.02
"""Least standard deviation, as a share of the expected one. Dividing by 255 twice gives 0.004."""

SPREAD = 64
"""Number of images, spread over the data set, that are looked at before its input counts as nearly constant. A run sees
one class after another, and a class may be of blank images."""

EVERY = 16
"""The levels of every sixteenth row of pixels are counted. That takes a fiftieth of the time of reading a photo."""

CLOSE = 1e-4
"""How much float32 may differ, as a share of the largest value."""


class InputRangeError(UserError):
    """The normalised input is far from what the backbone was trained on."""


class InputGuard:
    """Checks the running mean and spread of normalised batches against what ``mean`` and ``std`` imply for images.

    It counts the 8-bit levels of each channel and computes exactly what they become, (x / 255 * scale - mean) / std.
    This takes a sixth of the time of looking at the normalised values, which ``confirm`` does once.

    ``others()`` returns the levels, as ``levels_of`` counts them, of images from all over the data set, or None where
    there are none to judge by. They are asked for once, where all that was seen is nearly constant, and decide.
    """

    def __init__(self, mean, std, *, name: str, scale: float = 1.0, others: Callable | None = None):
        self.name, self.others = name, others
        mean_of, std_of = (np.array(values, np.float64)[:, None] for values in (mean, std))
        self.become = (np.arange(256) / 255 * scale - mean_of) / std_of  # (3, 256)
        ends = (np.array([[0.0, 1.0]]) - mean_of) / std_of
        self.lowest, self.highest = ends.min(), ends.max()
        self.expected_mean = (IMAGENET_MEAN - sum(mean) / len(mean)) / (sum(std) / len(std))
        self.expected_std = IMAGENET_STD / (sum(std) / len(std))
        self.count, self.sum, self.squares, self.within = 0, 0.0, 0.0, 0.0
        self.contrast = False  # whether the data set is known to have some

    @property
    def mean(self) -> float:
        """Mean of all values seen so far, in units of the normalised input."""
        return self.sum / self.count

    @property
    def std(self) -> float:
        """Standard deviation of all values seen so far, in units of the normalised input."""
        return math.sqrt(max(self.squares / self.count - self.mean**2, 0.0))

    def see(self, levels: np.ndarray, *, check: bool = True) -> tuple[int, float, float]:
        """Add the counts of levels (3, 256) of images. Return number, sum and sum of squares of their normalised
        values.

        Raises InputRangeError where values lie outside the range of any image, or all values so far are nearly equal.
        """
        sums, within = self._measure(levels)
        self.within += within
        self.count += sums[0]
        self.sum += sums[1]
        self.squares += sums[2]
        if check:
            slack = OUTSIDE * (self.highest - self.lowest)
            low, high = self.become[levels > 0].min(), self.become[levels > 0].max()
            if not (low >= self.lowest - slack and high <= self.highest + slack):
                self._stop(low, high, f"its spread is about {self.std / self.expected_std:,.0f} times the expected")
            if not self.contrast and self._flat(self.within, self.count):
                others = self.others() if self.others else levels
                if others is not None and self._flat(self._measure(others)[1], others.sum()):
                    self._stop(low, high, "it is nearly constant, since images were divided by 255 twice or are blank")
                self.contrast = True
        return sums

    def _measure(self, levels: np.ndarray):
        """Return the number, sum and sum of squares of the values; and their scatter within channels, since colour is
        no contrast."""
        weighted = levels * self.become
        each = weighted.sum(1) / levels.sum(1)
        sums = int(levels.sum()), float(weighted.sum()), float((weighted * self.become).sum())
        return sums, float((levels * (self.become - each[:, None]) ** 2).sum())

    def _flat(self, within: float, count: int) -> bool:
        return math.sqrt(within / count) < FLAT * self.expected_std

    def confirm(self, pixels: np.ndarray, batch) -> None:
        """Raise RuntimeError where ``batch`` (B, 3, H, W), the model's input, isn't what ``pixels`` normalise to."""
        expected = self.become[np.arange(len(self.become)), pixels]
        error = np.abs(batch.permute(0, 2, 3, 1).cpu().numpy() - expected).max()
        if not error < CLOSE * max(1.0, np.abs(self.become).max()):
            raise RuntimeError(f"{self.name} is given values that are off by {error:.3g} from normalised pixels")

    def _stop(self, low: float, high: float, verdict: str):
        raise InputRangeError(
            f"the input of {self.name} is on the wrong scale: {verdict}. After normalising its mean is "
            f"{self.mean:.3g}, its spread {self.std:.3g} and its range {low:.3g} to {high:.3g}. In training the mean "
            f"was near {self.expected_mean:.2g}, the spread near {self.expected_std:.2g} and the range within "
            f"{self.lowest:.3g} to {self.highest:.3g}. Correct the images' scale (pixels must be 0..255 in 8 bits), or "
            "go on with --no-input-guard."
        )


def levels_of(pixels: np.ndarray) -> np.ndarray:
    """Count how often each level occurs in images (..., H, W, 3) uint8, on every ``EVERY``-th row: (..., 3, 256)."""
    rows = pixels[..., ::EVERY, :, :]
    one = rows.reshape(-1, *rows.shape[-3:])
    counts = [np.bincount(image[..., c].ravel(), minlength=256) for image in one for c in range(3)]
    return np.array(counts).reshape(*pixels.shape[:-3], 3, 256)


def spread(imageset, preprocessor: Preprocessor) -> np.ndarray | None:
    """Return the levels (3, 256) of up to ``SPREAD`` images, as far apart in the data set as can be.

    None where none of them can be read, and for a part of a data set that lies in one class.
    """
    if imageset.span and len(np.unique(imageset.labels)) == 1:
        return None
    rows = np.unique(np.linspace(0, len(imageset) - 1, SPREAD).round().astype(int))
    (batch,), faults = Reader(imageset).read(rows, np.zeros(len(rows), int), [preprocessor])
    readable = np.array([fault is None for fault in faults])
    return levels_of(batch.permute(0, 2, 3, 1).numpy()[readable]).sum(0) if readable.any() else None
