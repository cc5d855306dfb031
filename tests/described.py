"""Folders of a model as timm writes them for the hub: a config.json and weights."""

import json

import timm
import torch
from safetensors.torch import save_file

PREPROCESSING = {
    "input_size": [3, 64, 64], "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bilinear",
    "crop_pct": 1.0, "num_classes": 5,
}  # fmt: skip


def folder(place, architecture="test_resnet", *, seed=0, weights=None, model_args=None, **preprocessing):
    """Write the folder ``place`` and return its model, with a classifier of five classes.

    ``weights`` is the state dict, by default the model's own; ``preprocessing`` changes ``PREPROCESSING``.
    """
    torch.manual_seed(seed)
    model = timm.create_model(architecture, **{"num_classes": 5, **(model_args or {})})
    place.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict() if weights is None else weights, place / "model.safetensors")
    config = {"architecture": architecture, "num_classes": 5, "pretrained_cfg": PREPROCESSING | preprocessing}
    config |= {"model_args": model_args} if model_args else {}
    (place / "config.json").write_text(json.dumps(config))
    return model


def on_hub(home, name, **how):
    """The same in the layout of huggingface_hub's cache in ``home``, its HF_HOME, as if downloaded."""
    repository = home / "hub" / f"models--{name.replace('/', '--')}"
    commit = "0" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    return folder(repository / "snapshots" / commit, **how)
