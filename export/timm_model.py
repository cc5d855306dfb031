"""Backbone and head as one model that timm loads: ``model.safetensors`` and the hub's ``config.json``.

The standardisation and the temperature are folded into the classifier, so that softmax of the model's logits gives the
calibrated probabilities.
"""

from pathlib import Path

import numpy as np

from backbench import UserError
from backbench.export.network import Trained
from backbench.predict.predictors import Head
from backbench.probe.head import LinearHead
from backbench.training import checkpoint, classifier

TENSORS, CONFIG = "model.safetensors", "config.json"

KEPT = ("architecture", "classifier", "first_conv", "fixed_input_size", "pool_size")
"""What is kept of timm's own description of a model; the rest is about weights that these are not."""


class NoForm(UserError):
    """The model has no such form."""


def create(given: Trained):
    """Return the timm model, with our classes' classifier, and the arguments that make it.

    Raises NoForm where timm has no such model.
    """
    try:
        return _of_head(given) if isinstance(given.predictor, Head) else _of_checkpoint(given)
    except classifier.Misfit as error:
        raise NoForm(error.reason) from error


def _of_head(given: Trained):
    import torch

    head, backbone, t = given.head, given.backbone, given.predictor.temperature
    reasons = [
        (not isinstance(head, LinearHead), f"a head of {given.predictor.method} is no linear layer"),
        (
            (backbone.layer, backbone.pool) != ("last", "default"),
            f"the features are of --layer {backbone.layer} --pool {backbone.pool}, and a timm model classifies its own",
        ),
        (backbone.scale != 1, f"the input was multiplied by {backbone.scale:g}"),
        (given.mirrored, "the features are the mean over two views of an image"),
    ]
    if found := [reason for applies, reason in reasons if applies]:
        raise NoForm(*found)
    assert isinstance(head, LinearHead)
    model, arguments = classifier.create(backbone, len(head.weights))
    _, unexpected = model.load_state_dict(backbone.model.state_dict(), strict=False)
    if unexpected:
        raise NoForm(f"with a classifier it has no place for its weights {', '.join(unexpected[:5])}")
    scaled = LinearHead(head.mean, head.scale, head.weights / t, head.intercept / t)
    classifier.fold(scaled, model)
    classifier.check_head(scaled, model, backbone, torch.zeros(1, *backbone.config["input_size"]))
    return model.eval(), arguments


def _of_checkpoint(given: Trained):
    import torch

    tuned = checkpoint.load(given.predictor.folder)
    if tuned.stage == "cnn":
        raise NoForm(f"{tuned.about['timm_name']} is a network of backbench's own, which timm doesn't know")
    layer = classifier.linear(tuned.model)
    with torch.no_grad():
        layer.weight.div_(given.predictor.temperature)
        layer.bias.div_(given.predictor.temperature)
    return tuned.model, tuned.about["arguments"]


def write(given: Trained, folder: Path) -> None:
    """Write the two files into ``folder``. Raises NoForm where there is no such model, and OSError."""
    import timm

    model, arguments = create(given)
    config = {key: list(v) if isinstance(v, tuple) else v for key, v in given.backbone.config.items()}
    model.pretrained_cfg = {key: v for key, v in model.pretrained_cfg.items() if key in KEPT} | config
    timm.models.save_for_hf(
        model,
        str(folder),
        model_config={"label_names": given.predictor.classes, "pretrained_cfg": config},
        model_args={key: value for key, value in arguments.items() if key != "num_classes"},
        safe_serialization=True,
    )


def difference(given: Trained, folder: Path, pixels: np.ndarray, ours: np.ndarray) -> float:
    """Return the largest difference of a probability, 0..1, between the files as timm loads them and ``ours`` (N, K).

    ``pixels`` are (N, H, W, 3) uint8. Raises UserError where timm takes another preprocessing from the files.
    """
    import timm
    import torch

    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    found, wanted = timm.data.resolve_data_config(pretrained_cfg=model.pretrained_cfg), given.backbone.config
    if unlike := [key for key in wanted if _listed(found.get(key)) != _listed(wanted[key])]:
        raise UserError(f"timm reads another preprocessing from {CONFIG} than was written, in {', '.join(unlike)}.")
    theirs = []
    for one in np.array_split(pixels, -(-len(pixels) // 16)):
        with torch.inference_mode():
            normalised = given.backbone.normalise(torch.from_numpy(one).permute(0, 3, 1, 2))
            theirs.append(model(normalised).double().softmax(1).numpy())
    return float(np.abs(np.concatenate(theirs) - ours).max())


def _listed(value):
    return list(value) if isinstance(value, tuple) else value
