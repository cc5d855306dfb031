"""A small head and a small checkpoint of random weights, for what is done with trained models."""

import numpy as np
import torch

from backbench.cache.features import open_file
from backbench.extract import backbones
from backbench.extract.feature_tap import tap
from backbench.extract.plan import Settings
from backbench.extract.run import extract_one
from backbench.probe.head import LinearHead
from backbench.training import checkpoint
from tests import tuning

ROW = {
    "top1": 0.9, "top1_low": 0.8, "top1_high": 0.95, "balanced": 0.85, "balanced_low": 0.7, "balanced_high": 0.9,
    "n_train": 24, "n_val": 15, "n_test": 18, "temperature": 0.5, "chosen": "C=1",
}  # fmt: skip


def features(folder, *, model="test_resnet", layer="last", pool="default", images=None, **settings):
    """The open feature file of the images in ``folder``, of a backbone of random weights."""
    imageset = tuning.imageset(images or tuning.pictures(folder / "images"))
    backbone = tap(backbones.create(model, weights="random"), layer, pool)
    path = folder / f"{model}.{layer}.{pool}.h5"
    extract_one(imageset, backbone, path, Settings(device=torch.device("cpu"), precision="float32", **settings))
    return open_file(path)


def head(folder, *, identity=None, row=None, classes=None, **how):
    """The folder of a linear head that spreads its scores well, and the feature file of its images."""
    with features(folder, **how) as file:
        x = file.features[:]
        rng, k = np.random.default_rng(0), len(file.class_names)
        weights = rng.normal(size=(k, x.shape[1]))
        fitted = LinearHead(x.mean(0), x.std(0) + 1e-3, weights / np.sqrt(x.shape[1]), rng.normal(size=k))
        about = {"identity": file.identity | (identity or {}), "method": "logistic", "row": ROW | (row or {})}
        fitted.save(folder / "head", classes=classes or file.class_names, **about)
        return folder / "head", file.path


def run(folder, name="test_resnet", *, views=None, row=None):
    """The folder of a checkpoint whose logits are spread well. ``views`` are those of one of cnn's networks."""
    backbone = backbones.create(name, weights="random")
    from backbench.finetune import model as models

    model, arguments = models.build(backbone, 3, seed=1)
    found = model.get_classifier()
    for layer in found if isinstance(found, tuple) else [found]:
        torch.nn.init.normal_(layer.weight)
    recipe = {"name": "simple", "strategy": "full"}
    if views:
        recipe = {"name": name.removeprefix("cnn_"), "strategy": "scratch", "views": views}
    config = {key: list(value) if isinstance(value, tuple) else value for key, value in backbone.config.items()}
    about = {
        "model": name, "timm_name": name, "arguments": arguments, "classes": ["ant", "bee", "cat"],
        "transform": config | {"exif": "ignore"}, "pooling": "avg", "recipe": recipe, "seed": 42,
        "precision": "float32", "dataset": "folder-images", "dataset_digest": "d", "ended": "all epochs",
        "identity": {"weights": "random, seed 42", "weights_sha256": "0"}, "row": ROW | (row or {}),
    }  # fmt: skip
    checkpoint.save(folder / "run", model.state_dict(), about)
    return folder / "run"
