"""The whole classifier as one ONNX graph, ``model.onnx``, with all that a program needs to use it in its metadata."""

import json
import math
from pathlib import Path

import numpy as np
import torch

from backbench import conformal, version
from backbench.export.network import AT_A_TIME, Network, Trained
from backbench.export.origin import Origin
from backbench.training import onnx

LEVELS = (0.9, 0.95)
"""Levels of the thresholds that the metadata hold."""


def write(given: Trained, path: Path, origin: Origin):
    """Write the graph, and return its session. Raises ``training.onnx.NoGraph`` where there is none, and OSError.

    ``pixels`` (B, H, W, 3) uint8, for any B, give ``probabilities`` and ``logits`` (B, K) float32, and where the head
    has one ``distance`` (B,).
    """
    c, *size = given.backbone.config["input_size"]
    example = torch.zeros(2, *size, c, dtype=torch.uint8)
    # JSON of ASCII alone: ONNX's metadata are UTF-8, and names may hold halves of a pair.
    texts = {key: json.dumps(value, allow_nan=False) for key, value in metadata(given, origin).items()}
    network = Network(given)
    return onnx.write(network, example, path, name="pixels", outputs=network.outputs, metadata=texts)


def metadata(given: Trained, origin: Origin) -> dict:
    """What the graph says of itself, as plain JSON by key."""
    predictor = given.predictor
    return {
        "classes": predictor.classes,
        "preprocessing": preprocessing(given.backbone.config, exif=predictor.exif),
        "temperature": predictor.temperature,
        "source": {
            "dataset": predictor.source,
            "backbone": predictor.model,
            "weights": origin.weights,
            "weights_sha256": origin.sha256,
            "head": predictor.method,
            "seed": predictor.seed,
            "backbench": version(),
        },
        "licence": origin.licence,
        "raps": {"penalty": conformal.PENALTY, "free": conformal.FREE},
        "thresholds": thresholds(predictor),
    }


def preprocessing(config: dict, *, exif: str) -> dict:
    """Return timm's data config as plain JSON, with ``resized``: height and width in pixels before the crop.

    With the crop mode ``center`` the shorter side of an image becomes that long.
    """
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in config.items()}
    resized = [math.floor(side / config["crop_pct"]) for side in config["input_size"][1:]]
    return plain | {"resized": resized, "exif": exif}


def thresholds(predictor) -> dict | None:
    """By score and level the threshold up to which that share of new images like val's score; None without a reference.

    By those of ``lac`` and ``raps`` a class is in the prediction set, see ``backbench.conformal``. An image above that
    of ``energy``, or of ``distance``, is none of these classes. A threshold is null where val is too small: no score is
    above it.
    """
    if (reference := predictor.reference) is None:
        return None
    found = {}
    for kind, scores in reference.scores.items():
        of = {str(level): conformal.threshold(scores, level) for level in LEVELS}
        found[kind] = {level: value if math.isfinite(value) else None for level, value in of.items()}
    return found


def difference(session, pixels: np.ndarray, ours: np.ndarray) -> float:
    """Return the largest difference of a probability, 0..1, between the graph and ``ours`` (N, K).

    Images (N, H, W, 3) come several at a time, and one alone.
    """
    batches = [pixels[:1], *np.array_split(pixels[1:], -(-max(len(pixels) - 1, 1) // AT_A_TIME))]
    theirs = [session.run(["probabilities"], {"pixels": batch})[0] for batch in batches if len(batch)]
    return float(np.abs(np.concatenate(theirs) - ours).max())


def no_script(config: dict) -> str | None:
    """Return why ``classify.py`` can't prepare images as this data config says; None where it can."""
    _, height, width = config["input_size"]
    if config["crop_mode"] == "border" or (config["crop_mode"] == "center" and height != width):
        return f"its preprocessing ({config['crop_mode']} to {height} x {width} pixels) takes more than Pillow"
    return None
