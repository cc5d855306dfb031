"""Many models on many image sets: all that a request names is checked before the first step."""

import contextlib
import os
import sys
from pathlib import Path

import numpy as np

from backbench import SPLITS, Faults, UserError
from backbench.allocator import keep_freed_memory
from backbench.devices import has_bfloat16, pick_device
from data import registry
from extract import names
from extract.study import default_path
from finetune import kinds
from finetune.job import Job, Settings
from finetune.recipe import Recipe, as_dict

LEAST_VAL = 10
"""Images of val below which nothing is chosen on it: one image more or less would be a tenth and more."""


def accelerator(device: str, precision: str, tracker: str | None = None):
    """accelerate's, on ``device`` and in ``precision``, auto or named, and the precision it came to.

    Raises UsageError for a device that isn't there or a tracker that isn't installed.
    """
    import torch
    from accelerate import Accelerator
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    faults = Faults()
    with faults.collect():
        place = None if device == "auto" else pick_device(device)
    with faults.collect():
        if tracker and tracker not in map(str, get_available_trackers()):
            raise UserError(
                f"--tracker {tracker}: not installed here, or not one of {', '.join(map(str, LOGGER_TYPE_TO_CLASS))}."
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


def default_out(runs_dir: Path, dataset: str, name: str, recipe: Recipe, seed: int) -> Path:
    """``<runs_dir>/<dataset>/<model>-<preset>-<strategy>-<seed>``, with ``-wise0.5`` where that was asked for."""
    words = [name, recipe.name, recipe.strategy, kinds.wise_of(as_dict(recipe)).replace(" ", ""), str(seed)]
    return default_path(runs_dir, dataset, "-".join(filter(None, words))).with_suffix("")


def finetune_all(
    asked, datasets, recipe: Recipe, settings: Settings, *, place, results_dir, data_root, download, exif
) -> tuple[list[dict], Faults]:
    """Tune every model on every data set; ``place(dataset, model)`` names the folder.

    Gives the rows, and the faults met on the way: one request that fails doesn't stop the others. Raises UsageError or
    UserError, before any work, with everything that is wrong in the request itself.
    """
    faults, imagesets, found = Faults(), [], []
    with faults.collect():
        asked = names.resolve(asked)
    for name in dict.fromkeys(datasets):
        with faults.collect():
            loaded = registry.load(name, data_root=data_root, seed=settings.seed, download=download, exif=exif)
            check(loaded)
            imagesets.append(loaded)
    faults.stop()
    keep_freed_memory()
    main = settings.accelerator.is_main_process
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(sys.stderr if main else nowhere):
        for name in asked:
            for imageset in imagesets:
                with faults.collect():
                    folder = Path(place(imageset.name, name))
                    found.append(Job(imageset, name, recipe, settings, folder).row(results_dir))
    return found, faults


def check(imageset, *, least_val: int = LEAST_VAL) -> None:
    """Raise UserError, with all faults at once, where no training on this set would mean anything."""
    counts = np.zeros((3, len(imageset.class_names)), int)
    np.add.at(counts, (imageset.split, imageset.labels), 1)
    n, faults = dict(zip(SPLITS, counts.sum(axis=1).tolist(), strict=True)), []
    if empty := [split for split in ("train", "test") if not n[split]]:
        faults.append(f"no images in {' and '.join(empty)}. All of train, val, test are needed.")
    if n["val"] < least_val:
        faults.append(
            f"val has {n['val']} images, too few to choose on; at least {least_val} are needed. Move some of train's "
            "there: with train/, val/ and test/ folders the split is yours."
        )
    if len(imageset.class_names) < 2:
        faults.append("one class only: at least two are needed.")
    if n["train"] and (untaught := np.flatnonzero((counts[0] == 0) & (counts[1:].sum(axis=0) > 0))).size:
        named = ", ".join(imageset.class_names[k] for k in untaught[:5])
        faults.append(f"{len(untaught)} classes have no image in train, but some in val or test: {named}.")
    if faults:
        raise UserError(*(f"{imageset.name}: {fault}" for fault in faults))
