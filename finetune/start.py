"""What training starts from: the backbone with a fresh head, or for lp-ft with the probe's, on the cached features.

Kumar et al. (2022), Fine-tuning can distort pretrained features: a fresh head's first gradients spoil the backbone; one
that is already right doesn't.
"""

from pathlib import Path

import numpy as np

from backbench import UserError
from cache.features import open_file
from extract import run
from finetune import model as models
from finetune.images import scaled
from finetune.recipe import Recipe
from probe.logistic import Logistic
from probe.parts import Data
from probe.run import check, part

CHECKED = 8
"""Pictures on which the model's logits must be the head's."""


def build(backbone, n_classes: int, recipe: Recipe, *, seed: int):
    """``model.build`` for the recipe: with stochastic depth, and for larger pictures in the last epochs if it has them.

    Raises UserError where the architecture takes none of that size.
    """
    import torch

    grows = recipe.final_epochs > 0 and recipe.final_scale != 1
    tuned, arguments = models.build(backbone, n_classes, seed=seed, drop_path=recipe.drop_path, any_size=grows)
    if grows:
        size = scaled(backbone.config, recipe.final_scale)["input_size"]
        try:
            with torch.inference_mode():
                tuned.eval()(torch.zeros(1, *size))
        except (AssertionError, RuntimeError) as error:
            raise UserError(
                f"{backbone.name} takes no pictures of {size[1]} x {size[2]} ({' '.join(str(error).split())[:200]}). "
                "Leave out the larger pictures of the last epochs: --set final_scale=1"
            ) from None
    return tuned, arguments


def checkpointing(tuned, name: str) -> None:
    """Gradient checkpointing: activations are computed again instead of kept. Raises UserError where timm has none."""
    try:
        tuned.set_grad_checkpointing(True)
    except (AssertionError, AttributeError) as error:
        raise UserError(f"timm has no gradient checkpointing for {name} ({error}).") from None


def probed(imageset, backbone, path: Path, settings: run.Settings):
    """The probe's head and what it says of itself; the features at ``path`` are extracted where they aren't there.

    Unlike the probe's own it is fitted on train alone: fitted on val too, it would win every choice made there.
    Raises UserError where features or images are of no use, as extract and probe do.
    """
    run.extract(imageset, backbone, path, settings)
    with open_file(path) as file:
        check(file)
        train, val = part(file, 0), part(file, 1)
        method = Logistic(
            Data(train, val, train), n_classes=len(file.class_names), seed=settings.seed, device=settings.device.type
        )
    return method.head, {"chosen": method.chosen}


def put(imageset, backbone, tuned, path: Path, settings: run.Settings) -> dict:
    """Put that head into ``tuned``, checked on a few pictures. Gives what is to be said of it."""
    import torch

    from finetune.evaluate import pictures

    models.linear(tuned)
    head, said = probed(imageset, backbone, path, settings)
    models.fold(head, tuned)
    backbone.model.float().to(settings.device)
    tuned.to(settings.device)
    rows = np.flatnonzero(imageset.split == 1)[:CHECKED]
    with torch.inference_mode():
        models.check_head(head, tuned, backbone, next(pictures(imageset, backbone, rows, settings.device))[1])
    return said
