"""The input guard: a backbone fed images on another scale than it was trained on must not go unnoticed.

The published study fed 0..255 where 0..1 was expected. Backbones with a normalisation after the stem survive that with
damage, those without collapse, and nothing in the run says so.
"""

import math

from backbench import UserError

IMAGENET_MEAN, IMAGENET_STD = 0.449, 0.226
"""Mean and spread of ImageNet's pixels on the 0..1 scale, averaged over channels (0.485, 0.456, 0.406 / 0.229, 0.224,
0.225): what pretrained backbones have seen, whatever they then normalise by."""

OUTSIDE = 0.5
"""How far beyond what black and white become a value may lie, in units of that range. Pixels can't lie beyond it at
all; interpolation on floats overshoots by less than this."""

FLAT = 0.02
"""Least spread, as a share of the expected one. Dividing by 255 twice gives 0.004."""


class InputRangeError(UserError):
    """Normalised input far from what the backbone was trained on."""


class InputGuard:
    """Running mean and spread of normalised batches, checked against what ``mean`` and ``std`` imply for images."""

    def __init__(self, mean, std, *, name: str):
        self.name = name
        self.lowest = min((0 - m) / s for m, s in zip(mean, std, strict=True))
        self.highest = max((1 - m) / s for m, s in zip(mean, std, strict=True))
        self.expected_mean = (IMAGENET_MEAN - sum(mean) / len(mean)) / (sum(std) / len(std))
        self.expected_std = IMAGENET_STD / (sum(std) / len(std))
        self.count, self.sum, self.squares, self.within = 0, 0.0, 0.0, 0.0

    @property
    def mean(self) -> float:
        """Mean of all values seen, in units of the normalised input."""
        return self.sum / self.count

    @property
    def std(self) -> float:
        """Their standard deviation."""
        return math.sqrt(max(self.squares / self.count - self.mean**2, 0.0))

    def see(self, batch, *, check: bool = True) -> tuple[int, float, float]:
        """Take in a normalised batch (B, 3, H, W); give its count, sum and sum of squares.

        Raises InputRangeError where values lie outside of what any image becomes, or all seen so far are nearly equal.
        """
        count = batch.numel()
        mean = batch.mean().item()
        sums = count, count * mean, count * (batch.var(correction=0).item() + mean**2)
        self.within += count * batch.var(dim=(0, 2, 3), correction=0).mean().item()
        self.count += sums[0]
        self.sum += sums[1]
        self.squares += sums[2]
        if check:
            slack = OUTSIDE * (self.highest - self.lowest)
            low, high = batch.amin().item(), batch.amax().item()
            if not (low >= self.lowest - slack and high <= self.highest + slack):
                self._stop(low, high, f"about {self.std / self.expected_std:,.0f} times the expected spread")
            if math.sqrt(self.within / self.count) < FLAT * self.expected_std:  # within channels: colour is no contrast
                self._stop(low, high, "nearly constant: images divided by 255 twice, or blank")
        return sums

    def _stop(self, low: float, high: float, verdict: str):
        raise InputRangeError(
            f"the input of {self.name} is off, {verdict}. Measured after normalising: mean {self.mean:.3g}, spread "
            f"{self.std:.3g}, range {low:.3g} to {high:.3g}. Expected, as in training: mean near "
            f"{self.expected_mean:.2g}, spread near {self.expected_std:.2g}, range within {self.lowest:.3g} to "
            f"{self.highest:.3g}. Mend the images' scale (pixels must be 0..255 in 8 bits), or insist with "
            "--no-input-guard."
        )
