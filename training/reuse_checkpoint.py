"""Uses of a checkpoint on a data set: its result row, or the features of its backbone for ``probe``."""

import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from backbench import SPLITS, UserError, accuracy, decisions, details, identity, rows, statistics
from backbench.cache.features import summary
from backbench.cache.schema import default_path
from backbench.data import registry
from backbench.data.decided import decided
from backbench.devices import device_name
from backbench.extract.backbones import Backbone
from backbench.extract.plan import Settings
from backbench.extract.run import extract_one
from backbench.training import checkpoint as checkpoints
from backbench.training import checkpoint_kind, evaluate, left_out
from backbench.training.job import SEEN

CARRIED = ("chosen", "epochs", "parameters", "macs", "train_flops", "train_seconds", "steps")
"""The keys that later rows take over from the row of the training."""


def row(checkpoint: Path, dataset: str, accelerator, *, results_dir: Path, data_root: Path, download: bool,
        views: str | None = None, on_error: str = "fail", exclude=(), relabel=()) -> dict:  # fmt: skip
    """Return the result row of a checkpoint on the test images of ``dataset``, and add it to the results.

    On the data set it was trained on, this is its own row again; ``views`` replaces the test-time views of cnn's
    network. On any other data set the row has ``source`` and ``target``, so that it is never taken for a head of the
    target. Its ``top1`` is among all classes of the checkpoint, ``top1_mapped_classes`` among those of the data set.
    Test images that were in the checkpoint's train or val, by content, are left out. The temperature is the
    checkpoint's. With ``on_error="skip"`` images that can't be read are left out, too. ``exclude`` and ``relabel``
    are files as ``decisions.read`` takes them, applied to the data set.

    Raises UserError for a damaged checkpoint, and for a data set with classes that it doesn't know or without test
    images that are new to it.
    """
    import torch

    started = time.monotonic()
    tuned = checkpoints.load(checkpoint)
    about = tuned.about
    imageset = decided(_imageset(tuned, dataset, data_root, download), decisions.read(exclude, relabel))
    index = {name: k for k, name in enumerate(about["classes"])}
    if unknown := [name for name in imageset.class_names if name not in index]:
        raise UserError(
            f"{tuned.folder} was trained on other classes than those of {imageset.name}. It doesn't know "
            f"{len(unknown)} of {len(imageset.class_names)}, {', '.join(unknown[:5])}. It knows: "
            f"{', '.join(about['classes'][:5])}{', ...' if len(index) > 5 else ''}."
        )
    columns = np.array([index[name] for name in imageset.class_names])
    numbers = {split: np.flatnonzero(imageset.split == code) for code, split in enumerate(SPLITS)}
    own = imageset.known_as(about["dataset_digest"])
    left = {} if own else {"n_seen": _leave_out_seen(tuned, imageset, numbers)}
    skipped = [*left_out.unreadable(imageset, numbers["test"])] if on_error == "skip" else []
    left_out.without(imageset, skipped)
    numbers["test"] = np.setdiff1d(numbers["test"], skipped)
    if not len(numbers["test"]):
        raise UserError(f"{imageset.name} has no test images{' that are new to the checkpoint' if left else ''}.")
    if any(left.values()):
        print(
            f"{left['n_seen']:,} test images of {imageset.name} are left out: the checkpoint was trained or chosen on "
            "them.",
            file=sys.stderr,
        )
    prepared = Backbone(about["model"], "", "", tuned.model, tuned.config)
    scorer = checkpoint_kind.scorer(tuned, views).to(accelerator.device, memory_format=torch.channels_last)
    scores = evaluate.logits(scorer, imageset, prepared, numbers["test"], accelerator)
    found = about["row"]
    as_trained = replace(imageset, labels=columns[imageset.labels], class_names=about["classes"])
    known = {"t": float(found.get("temperature") or 1.0), "reference": checkpoints.reference(about)}
    figures, beside = evaluate.assess(scores, None, as_trained, numbers, **known)
    figures |= {"n_skipped": len(skipped)}
    trained_on = about["row"].get("features") or {}
    if not own:
        right = accuracy.top_k(scores[:, columns], imageset.labels[numbers["test"]], k=1)
        ends = map(float, (right.mean(), *statistics.interval(right.sum(), len(right))))
        figures |= dict(
            zip(("top1_mapped_classes", "top1_mapped_classes_low", "top1_mapped_classes_high"), ends, strict=True)
        )
        figures |= {
            "source": about["dataset"],
            "target": imageset.name,
            "trained": str(tuned.folder),
            "corruption": None,
        }
        figures |= {"source_digest": trained_on.get("images_digest"), "target_digest": imageset.images_digest, **left}
        figures |= {"trained_key": identity.key(found)} if found else {}
        print(
            f"{tuned.folder} was trained on {about['dataset']}, not on {imageset.name}, so its row names both. To get "
            f"the drop with its interval, run: finetune generalize --dataset {dataset}",
            file=sys.stderr,
        )
    made = rows.make(
        tuned.stage,
        dataset=imageset.name,
        model=about["model"],
        method=tuned.method,
        seed=about["seed"],
        figures={"val_top1": found.get("val_top1"), **figures, "train_top1": found.get("train_top1")}
        | {"converged": None, "chosen": None, "epochs": None, "training_seconds": found.get("seconds")}
        | {key: found[key] for key in (*CARRIED, *(("n_train", "n_val") if own else ())) if key in found},
        protocol={**found.get("protocol", {}), "evaluated": "again, from the checkpoint"}
        | ({"views": views} if views else {}),
        settings=about["recipe"] | ({"views": views} if views else {}),
        features=about["identity"]
        | {key: trained_on[key] for key in ("images_digest", "test_digest", decisions.AUDITED) if key in trained_on}
        | {"pooling": about["pooling"], "input_scale": 1.0, "path": str(tuned.folder)},
        device=device_name(accelerator.device),
        seconds=time.monotonic() - started,
    )
    named = {key: made[key] for key in ("dataset", "model", "method", "seed", "shots")}
    details.keep(results_dir, made, named | beside)
    return made


def _leave_out_seen(tuned, imageset, numbers: dict) -> int:
    """Remove the images that the checkpoint was trained or chosen on from ``numbers["test"]``; returns their number.

    Images are compared by content, so that moved and renamed ones are found too. Raises UserError where the data set
    has changed since the training and an older checkpoint doesn't record which images it has seen.
    """
    seen = tuned.about.get("seen")
    if seen is None:
        if imageset.name == tuned.about["dataset"]:
            raise UserError(
                f"{tuned.folder} was trained on other images of {imageset.name} than there are in {imageset.root}, or "
                "on another split. It doesn't record which images it has seen, so none is sure to be new to it. Train "
                "it again with --overwrite; checkpoints record that now."
            )
        return 0
    seen, test = {one[:SEEN] for one in seen}, numbers["test"]
    numbers["test"] = np.array([i for i in test if imageset.content(i)[:SEEN] not in seen], int)
    return len(test) - len(numbers["test"])


def features(checkpoint: Path, dataset: str, *, device, cache_dir: Path, data_root: Path, download: bool, out=None,
             overwrite: bool = False, on_error: str = "fail") -> dict:  # fmt: skip
    """Write the features of the checkpoint's backbone to a feature file, as extract does; returns its summary.

    Raises UserError where the backbone was trained on test images of the data set, so that no probe is tested on them.
    """
    tuned = checkpoints.load(checkpoint)
    imageset = _imageset(tuned, dataset, data_root, download)
    test = {"test": np.flatnonzero(imageset.split == 2)}
    if not imageset.known_as(tuned.about["dataset_digest"]) and (left := _leave_out_seen(tuned, imageset, test)):
        raise UserError(
            f"{tuned.folder} was trained or chosen on {left:,} test images of {imageset.name}. A probe of its features "
            "would be tested on images that they were trained on. Take these images out of test, or train it again."
        )
    backbone = checkpoints.as_backbone(tuned)
    path = Path(out) if out else default_path(cache_dir, imageset.name, backbone.name)
    settings = Settings(
        device=device, seed=tuned.about["seed"], overwrite=overwrite, skip_unreadable=on_error == "skip"
    )
    fresh = extract_one(imageset, backbone, path, settings)
    return summary(path) | {"already": not fresh}


def _imageset(tuned, dataset: str, data_root: Path, download: bool):
    """Load the data set with the checkpoint's split seed and EXIF setting."""
    about = tuned.about
    return registry.load(
        dataset, data_root=data_root, seed=about["seed"], download=download, exif=about["transform"]["exif"]
    )
