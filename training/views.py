"""Test-time augmentation: the mean of the logits of an image, its mirror image, and both moved by a pixel."""

import torch

VIEWS = ("none", "flip", "all")
"""none: the image alone; flip: its mirror image as well; all: both also moved by a pixel up-left and down-right."""


class Views(torch.nn.Module):
    """The mean of ``model``'s logits over several views: (B, 3, H, W) to (B, K).

    As in airbench, the unmoved images have half of the weight, and each of the two moves a quarter. Moved images are
    padded by reflection.
    """

    def __init__(self, model, views: str):
        super().__init__()
        self.model, self.views = model, views

    def forward(self, x):
        if self.views == "none":
            return self.model(x)
        if self.views == "flip":
            return self._mirrored(x)
        room = torch.nn.functional.pad(x, (1, 1, 1, 1), "reflect")
        moved = self._mirrored(room[:, :, :-2, :-2]) + self._mirrored(room[:, :, 2:, 2:])
        return 0.5 * self._mirrored(x) + 0.25 * moved

    def _mirrored(self, x):
        return 0.5 * (self.model(x) + self.model(x.flip(3)))
