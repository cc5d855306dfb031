"""What training starts from: the backbone with a fresh head, or for lp-ft with the probe's, on the cached features.

Kumar et al. (2022), Fine-tuning can distort pretrained features: a fresh head's first gradients spoil the backbone; one
that is already right doesn't. How surely it begins is ``strategies.soften``'s.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from backbench import UserError
from backbench.cache.features import open_file
from backbench.extract.plan import Settings
from backbench.extract.preprocess import scaled
from backbench.extract.run import extract_one
from backbench.finetune import model as models
from backbench.finetune.recipe import Recipe
from backbench.probe.logistic import Logistic
from backbench.probe.run import check, part
from backbench.probe.subsets import Data

CHECKED = 8
"""Pictures on which the model's logits must be the head's."""


def fitting(backbone, recipe: Recipe) -> Recipe:
    """The recipe, without the larger pictures of its last epochs where the architecture takes one size only.

    Tried without weights, on torch's device that computes shapes alone.
    """
    import torch

    if not grows(recipe):
        return recipe
    size = scaled(backbone.config, recipe.final_scale)["input_size"]
    try:
        with torch.device("meta"), torch.inference_mode():
            model, _ = models.create(backbone.name, 2, any_size=True)
            model.eval()(torch.zeros(1, *size))
    except (AssertionError, RuntimeError):
        print(f"{backbone.name} takes pictures of one size only: the last epochs' are no larger", file=sys.stderr)
        return replace(recipe, final_scale=1.0, final_epochs=0)
    return recipe


def grows(recipe: Recipe) -> bool:
    """Whether the pictures of the last epochs are of another size."""
    return recipe.final_epochs > 0 and recipe.final_scale != 1


def checkpointing(tuned, name: str) -> None:
    """Gradient checkpointing: activations are computed again instead of kept. Raises UserError where timm has none."""
    try:
        tuned.set_grad_checkpointing(True)
    except (AssertionError, AttributeError) as error:
        raise UserError(f"timm has no gradient checkpointing for {name} ({error}).") from None


def probed(imageset, backbone, path: Path, settings: Settings):
    """The probe's head and what it says of itself; the features at ``path`` are extracted where they aren't there.

    Unlike the probe's own it is fitted on train alone: fitted on val too, it would win every choice made there.
    Raises UserError where features or images are of no use, as extract and probe do.
    """
    extract_one(imageset, backbone, path, settings)
    with open_file(path) as file:
        check(file)
        train, val = part(file, 0), part(file, 1)
        method = Logistic(
            Data(train, val, train), n_classes=len(file.class_names), seed=settings.seed, device=settings.device.type
        )
    return method.head, {"chosen": method.chosen}


def put(imageset, backbone, tuned, path: Path, settings: Settings) -> dict:
    """Put that head into ``tuned``, checked on a few pictures. Gives what is to be said of it."""
    import torch

    from backbench.training.evaluate import pictures

    models.linear(tuned)
    head, said = probed(imageset, backbone, path, settings)
    models.fold(head, tuned)
    backbone.model.float().to(settings.device)
    tuned.to(settings.device)
    rows = np.flatnonzero(imageset.split == 1)[:CHECKED]
    with torch.inference_mode():
        models.check_head(head, tuned, backbone, next(pictures(imageset, backbone, rows, settings.device))[1])
    return said
