"""The start of fine-tuning: the backbone with a blank head or, for lp-ft, with the probe's head on the cached features.

Kumar et al. (2022), Fine-tuning can distort pretrained features: the first gradients of a random head distort the
backbone, and those of a fitted head don't. ``strategies.soften`` decides how confident the head is at the start.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from backbench import UserError
from backbench.cache import schema
from backbench.cache.decided import decided
from backbench.cache.features import FeatureFileError, open_file
from backbench.extract.plan import Settings
from backbench.extract.preprocess import scaled
from backbench.extract.run import extract_one
from backbench.finetune import model as models
from backbench.finetune.recipe import Recipe
from backbench.probe.logistic import Logistic
from backbench.probe.run import check, part
from backbench.probe.subsets import Splits
from backbench.progress import step, tell
from backbench.training import classifier

CHECKED = 8
"""Number of images on which the model's logits are checked against the head's."""


def fitting(backbone, recipe: Recipe) -> Recipe:
    """Return the recipe, without the larger images of its last epochs where the architecture takes one size only.

    A model without weights is tried on torch's meta device, which computes shapes alone.
    """
    import torch

    if not grows(recipe):
        return recipe
    size = scaled(backbone.config, recipe.final_scale)["input_size"]
    try:
        with torch.device("meta"), torch.inference_mode():
            model, _ = classifier.create(backbone, 2, any_size=True)
            model.eval()(torch.zeros(1, *size))
    except (AssertionError, RuntimeError):
        tell(f"{backbone.name} takes images of one size only, so the last epochs use no larger ones.")
        return replace(recipe, final_scale=1.0, final_epochs=0)
    return recipe


def grows(recipe: Recipe) -> bool:
    """Whether the images of the last epochs are of another size."""
    return recipe.final_epochs > 0 and recipe.final_scale != 1


def check_classifier(backbone) -> None:
    """Raise UserError unless the backbone pools and takes a linear classifier, which a probe's head could become."""
    classifier.linear(models.build(backbone, 2, seed=0)[0])


def checkpointing(tuned, name: str) -> None:
    """Turn on gradient checkpointing, which computes activations again instead of keeping them.

    Raises UserError where timm has none for the architecture.
    """
    try:
        tuned.set_grad_checkpointing(True)
    except (AssertionError, AttributeError) as error:
        raise UserError(f"timm has no gradient checkpointing for {name} ({error}).") from None


def extracted(imageset, backbone, path: Path, settings: Settings, *, command: str = "extract") -> None:
    """Extract the features to ``path`` where they aren't there. ``command`` is the extract command that makes them.

    Raises UserError as extract does, where ``--overwrite`` is that command's, not finetune's.
    """
    try:
        extract_one(imageset, backbone, path, settings)
    except FeatureFileError as error:
        faults = [fault.replace("--overwrite", f"{command} --overwrite") for fault in error.faults]
        raise FeatureFileError(*faults) from error


def skipped(imageset, path: Path) -> list[int] | None:
    """Return the rows of the images that the features at ``path`` leave out; None where there are no such features."""
    if not path.exists():
        return None
    try:
        with open_file(path) as file:
            if not imageset.undecided.known_as(file.identity["dataset_digest"]):
                return None
            ids = file.ids
            left = {ids[row] for row in np.flatnonzero(file.done == schema.SKIPPED)}
    except FeatureFileError:
        return None
    return [i for i, id in enumerate(imageset.ids) if id in left]


def probed(imageset, backbone, path: Path, settings: Settings):
    """Return the probe's head and how it was chosen. Missing features are extracted to ``path`` first.

    They are those of the data set with the images that ``audit.csv`` leaves out, on which no head is fitted.

    Unlike in ``probe``, the head is fitted on train alone: fitted on val too, it would win every choice made there.
    Raises UserError for unusable features or images, as extract and probe do.
    """
    extracted(imageset.undecided, backbone, path, settings)
    with open_file(path) as whole:
        file = decided(whole, imageset.audited and imageset.audited.decisions)
        check(file)
        train, val = part(file, 0), part(file, 1)
        how = {"n_classes": len(file.class_names), "seed": settings.seed, "device": settings.device.type}
        with step("fitting the head to start from"):
            method = Logistic(Splits(train, val, train), **how)
    return method.head, {"chosen": method.chosen}


def put(imageset, backbone, tuned, path: Path, settings: Settings, *, checked=None) -> dict:
    """Put the probe's head into ``tuned`` and check it on the first images of ``checked``, by default those of val.

    Returns how the head was chosen.
    """
    import torch

    from backbench.training.evaluate import image_batches

    classifier.linear(tuned)
    head, details = probed(imageset, backbone, path, settings)
    classifier.fold(head, tuned)
    backbone.model.float().to(settings.device)
    tuned.to(settings.device)
    rows = (np.flatnonzero(imageset.split == 1) if checked is None else checked)[:CHECKED]
    with torch.inference_mode():
        classifier.check_head(head, tuned, backbone, next(image_batches(imageset, backbone, rows, settings.device))[1])
    return details
