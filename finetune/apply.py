"""A checkpoint on a data set: its figures again, or the tuned backbone's features for ``probe``."""

import time
from pathlib import Path

import numpy as np

from backbench import SPLITS, UserError
from backbench.devices import device_name
from data import registry
from extract.backbones import Backbone
from extract.lane import Settings
from extract.run import extract_one
from extract.study import default_path, summary
from finetune import evaluate, kinds, model
from report import details, rows

CARRIED = ("chosen", "epochs", "parameters", "macs", "train_flops", "train_seconds", "steps")
"""Of the row of the training, what its later rows say too."""


def row(checkpoint: Path, dataset: str, accelerator, *, results_dir: Path, data_root: Path, download: bool,
        views: str | None = None) -> dict:  # fmt: skip
    """The result row of a checkpoint on the test images of ``dataset``, added to the results.

    On the very set it was tuned on that is its own row again; ``views`` asks cnn's network for others than then. The
    temperature is always the checkpoint's. Raises UserError for a damaged checkpoint, one that has none, and a set with
    classes it doesn't know.
    """
    import torch

    started = time.monotonic()
    tuned = model.load(checkpoint)
    about = tuned.about
    imageset = _imageset(tuned, dataset, data_root, download)
    index = {name: k for k, name in enumerate(about["classes"])}
    if unknown := [name for name in imageset.class_names if name not in index]:
        raise UserError(
            f"{tuned.folder} was tuned on other classes than those of {imageset.name}: it doesn't know "
            f"{len(unknown)} of {len(imageset.class_names)}, {', '.join(unknown[:5])}. It knows: "
            f"{', '.join(about['classes'][:5])}{', ...' if len(index) > 5 else ''}."
        )
    numbers = {split: np.flatnonzero(imageset.split == code) for code, split in enumerate(SPLITS)}
    if not len(numbers["test"]):
        raise UserError(f"{imageset.name} has no test images.")
    prepared = Backbone(about["model"], "", "", tuned.model, tuned.config)
    scorer = kinds.scorer(tuned, views).to(accelerator.device, memory_format=torch.channels_last)
    scores = evaluate.logits(scorer, imageset, prepared, numbers["test"], accelerator)
    scores = scores[:, [index[name] for name in imageset.class_names]]
    found, own = about["row"], imageset.name == about["dataset"]
    figures, beside = evaluate.assess(scores, None, imageset, numbers, t=float(found.get("temperature") or 1.0))
    made = rows.make(
        tuned.stage,
        dataset=imageset.name,
        model=about["model"],
        method=tuned.method,
        seed=about["seed"],
        figures={"val_top1": found.get("val_top1"), **figures, "train_top1": found.get("train_top1")}
        | {"converged": None, "chosen": None, "epochs": None, "run_seconds": found.get("seconds")}
        | {key: found[key] for key in (*CARRIED, *(("n_train", "n_val") if own else ())) if key in found},
        protocol={**found.get("protocol", {}), "evaluated": "again, from the checkpoint"}
        | ({"views": views} if views else {}),
        features=about["identity"] | {"input_scale": 1.0, "path": str(tuned.folder)},
        device=device_name(accelerator.device),
        seconds=time.monotonic() - started,
    )
    named = {key: made[key] for key in ("dataset", "model", "method", "seed", "shots")}
    made["details"] = details.write(results_dir, named | beside)
    rows.append(results_dir, made)
    return made


def features(checkpoint: Path, dataset: str, *, device, cache_dir: Path, data_root: Path, download: bool, out=None,
             overwrite: bool = False) -> dict:  # fmt: skip
    """Write the features of the tuned backbone to a feature file, as extract does; gives extract's figures of it."""
    tuned = model.load(checkpoint)
    imageset = _imageset(tuned, dataset, data_root, download)
    backbone = model.as_backbone(tuned)
    path = Path(out) if out else default_path(cache_dir, imageset.name, backbone.name)
    settings = Settings(device=device, seed=tuned.about["seed"], overwrite=overwrite)
    fresh = extract_one(imageset, backbone, path, settings)
    return summary(path) | {"already": not fresh}


def _imageset(tuned, dataset: str, data_root: Path, download: bool):
    """The set as the checkpoint would have split and turned it."""
    about = tuned.about
    return registry.load(
        dataset, data_root=data_root, seed=about["seed"], download=download, exif=about["transform"]["exif"]
    )
