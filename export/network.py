"""A trained model as one network, from pixels to probabilities: what is exported, and what that is compared with."""

from typing import NamedTuple

import numpy as np
import torch

from backbench import UserError, calibration
from backbench.extract.backbones import Backbone
from backbench.predict.predictors import Head, Predictor
from backbench.probe.head import KnnHead, LinearHead
from backbench.probe.neighbours import TEMPERATURE
from backbench.probe.outliers import Outliers

AT_A_TIME = 16
"""Number of images in a forward pass."""


class Trained(NamedTuple):
    """A head or a checkpoint with its network, on the CPU and in float32."""

    predictor: Predictor
    backbone: Backbone
    """Its features are what the head takes; of a checkpoint they are the logits."""
    head: LinearHead | KnnHead | None
    """None for a checkpoint."""
    outliers: Outliers | None
    """Those that the head keeps."""
    mirrored: bool
    """Whether the features are the mean over an image and its mirror image."""

    def scores(self, pixels: np.ndarray) -> np.ndarray:
        """Our own scores (N, K) float32 of pixels (N, H, W, 3) uint8, as ``extract`` and the head compute them."""
        found = []
        for start in range(0, len(pixels), AT_A_TIME):
            batch = torch.from_numpy(pixels[start : start + AT_A_TIME]).permute(0, 3, 1, 2)
            with torch.inference_mode():
                features = self.backbone.from_pixels(batch)
                if self.mirrored:
                    features = (features + self.backbone.from_pixels(batch.flip(3))) / 2
            features = features.float().numpy()
            found.append(features if self.head is None else self.head.scores(features))
        return np.concatenate(found)

    def probabilities(self, pixels: np.ndarray) -> np.ndarray:
        """softmax of ``scores`` at the temperature, (N, K) float64."""
        return calibration.probabilities(self.scores(pixels), self.predictor.temperature)


def trained(predictor: Predictor) -> Trained:
    """Return the predictor with its backbone. Raises UserError where that can't be had, or sees random crops."""
    backbone, settings = predictor.backbone(torch.device("cpu"))
    if settings.views > 2:
        raise UserError(
            f"{predictor.folder} takes the mean over {settings.views} views of an image, random crops among them, and "
            "no exported file computes that. Extract without --views, and probe again."
        )
    backbone.model.float()
    saved = predictor.saved if isinstance(predictor, Head) else None
    return Trained(predictor, backbone, saved and saved.head, saved and saved.outliers, settings.views == 2)


class Network(torch.nn.Module):
    """Maps pixels (B, H, W, 3) uint8 to probabilities and logits, (B, K) float32 both, and distance (B,).

    Logits are divided by the temperature, so that their softmax gives the probabilities. There is no distance where the
    head keeps no outliers. ``outputs`` are the names of what there is.
    """

    def __init__(self, given: Trained):
        super().__init__()
        self.features, self.mirrored = given.backbone.from_pixels, given.mirrored
        self.head, self.temperature = _module(given.head), given.predictor.temperature
        self.outputs = ["probabilities", "logits"]
        if given.outliers:
            self.outputs.append("distance")
            self.register_buffer("directions", torch.from_numpy(np.array(given.outliers.directions)).float())
        self.eval()

    def forward(self, pixels):
        pixels = pixels.permute(0, 3, 1, 2)
        features = self.features(pixels)
        if self.mirrored:
            features = (features + self.features(pixels.flip(3))) / 2
        logits = self.head(features) / self.temperature
        if "distance" not in self.outputs:
            return logits.softmax(1), logits
        return logits.softmax(1), logits, 1 - (_unit(features) @ self.directions.T).amax(1)


def _module(head: LinearHead | KnnHead | None) -> torch.nn.Module:
    """Return a head as a module that maps features (B, D) to scores (B, K)."""
    if head is None:
        return torch.nn.Identity()
    return Nearest(head) if isinstance(head, KnnHead) else Linear(head)


def _unit(features):
    return features / torch.linalg.vector_norm(features, dim=1, keepdim=True).clamp(min=1e-12)


class Linear(torch.nn.Module):
    """A ``LinearHead``, in float32 as that computes."""

    def __init__(self, head: LinearHead):
        super().__init__()
        for name in ("mean", "scale", "weights", "intercept"):
            self.register_buffer(name, torch.from_numpy(np.array(getattr(head, name))).float())

    def forward(self, features):
        return (features - self.mean) * (1 / self.scale) @ self.weights.T + self.intercept


class Nearest(torch.nn.Module):
    """A ``KnnHead``: the log of each class's share of the nearest neighbours' votes, in float32."""

    def __init__(self, head: KnnHead):
        super().__init__()
        self.k, self.n_classes = head.k, head.n_classes
        self.register_buffer("bank", _unit(torch.from_numpy(np.array(head.bank)).float()))
        self.register_buffer("labels", torch.from_numpy(np.array(head.labels)).long())

    def forward(self, features):
        similarity, at = (_unit(features) @ self.bank.T).topk(min(self.k, len(self.bank)), dim=1)
        weights = ((similarity - 1) / TEMPERATURE).exp()
        votes = weights.new_zeros(len(features), self.n_classes).scatter_add(1, self.labels[at], weights)
        shares = votes / votes.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        return ((self.k * shares + 1 / self.n_classes) / (self.k + 1)).log()  # calibration.log_shares
