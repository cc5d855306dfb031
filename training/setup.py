"""The first steps of every training run: setting up accelerate, and checking the data set."""

import numpy as np

from backbench import SPLITS, Faults, UserError
from backbench.devices import has_bfloat16, pick_device
from backbench.progress import loading

LEAST_VAL = 10
"""Smallest number of val images for choosing weights. With fewer, one image would change accuracy by over a tenth."""


def accelerator(device: str, precision: str, tracker: str | None = None):
    """Return accelerate's Accelerator for ``device`` and ``precision``, and the precision that auto stands for.

    Raises UsageError for a device that isn't there or a tracker that isn't installed.
    """
    with loading("torch", "timm", "accelerate"):
        import timm  # noqa: F401
        import torch
        from accelerate import Accelerator
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    faults = Faults()
    with faults.collect():
        place = None if device == "auto" else pick_device(device)
    with faults.collect():
        if tracker and tracker not in map(str, get_available_trackers()):
            raise UserError(
                f"--tracker {tracker} is not installed, or is not one of {', '.join(map(str, LOGGER_TYPE_TO_CLASS))}."
            )
    faults.stop()
    if place is not None and place.type == "cuda" and place.index is not None:
        torch.cuda.set_device(place)
    cpu = place is not None and place.type == "cpu"
    if precision == "auto":
        gpu = torch.cuda.is_available() and not cpu
        good = torch.cuda.is_bf16_supported(including_emulation=False) if gpu else has_bfloat16()
        precision = "bfloat16" if good else "float32"
    made = Accelerator(
        cpu=cpu, mixed_precision="bf16" if precision == "bfloat16" else "no", log_with=tracker, project_dir="."
    )
    return made, precision


def check(imageset, *, least_val: int = LEAST_VAL) -> None:
    """Raise UserError, with all faults at once, where the data set is not fit for training.

    Images that are in no split don't count.
    """
    counts = np.zeros((3, len(imageset.class_names)), int)
    within = imageset.split < len(SPLITS)
    np.add.at(counts, (imageset.split[within], imageset.labels[within]), 1)
    n, faults = dict(zip(SPLITS, counts.sum(axis=1).tolist(), strict=True)), []
    if empty := [split for split in ("train", "test") if not n[split]]:
        faults.append(f"there are no images in {' and '.join(empty)}. All of train, val and test are needed.")
    if n["val"] < least_val:
        faults.append(
            f"val has {n['val']} images, too few to choose weights on; at least {least_val} are needed. Move some "
            "train images there: with train/, val/ and test/ folders you decide the split."
        )
    if len(imageset.class_names) < 2:
        faults.append("there is only one class; at least two are needed.")
    if n["train"] and (untaught := np.flatnonzero((counts[0] == 0) & (counts[1:].sum(axis=0) > 0))).size:
        named = ", ".join(imageset.class_names[k] for k in untaught[:5])
        faults.append(f"{len(untaught)} classes have no image in train, but some in val or test: {named}.")
    if faults:
        raise UserError(*(f"{imageset.name}: {fault}" for fault in faults))
