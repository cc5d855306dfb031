"""A model's logits, and the figures that come of them: the probe's, with the same intervals."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from backbench import UserError, accuracy, calibration, columns, details
from backbench.extract.preprocess import Pixels, Reader

BATCH = 64


def pictures(imageset, backbone, rows: np.ndarray, device):
    """Row numbers and their normalised pictures (B, 3, H, W) on the device, as extract sees them, in order.

    Raises UserError naming images that can't be read.
    """
    import torch

    way = Pixels(backbone)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        reader = Reader(imageset, pool)
        for start in range(0, len(rows), BATCH):
            group = rows[start : start + BATCH]
            (batch,), faults = reader.read(group, np.zeros(len(group), int), [way])
            if unreadable := [str(fault) for fault in faults if fault]:
                raise UserError(*unreadable)
            yield group, backbone.normalise(batch.to(device, memory_format=torch.channels_last))


def logits(model, imageset, backbone, rows: np.ndarray, accelerator, *, check=lambda: None) -> np.ndarray:
    """(N, K) float32 of the images ``rows`` (N,), in eval mode; several processes share the work.

    ``backbone`` says how pictures are prepared; ``check()`` is called between batches and may raise.
    """
    import torch
    from accelerate.utils import gather_object

    model.eval()
    found = [np.empty((0, 0), np.float32)]
    with accelerator.split_between_processes(rows.tolist()) as share, torch.inference_mode(), accelerator.autocast():
        for _, batch in pictures(imageset, backbone, np.array(share, int), accelerator.device):
            found.append(model(batch).float().cpu().numpy())
            check()
    if accelerator.num_processes > 1:
        found = gather_object(found)
    return np.concatenate([one for one in found if one.size] or [np.empty((0, 1), np.float32)])


def of_main(accelerator, ask):
    """What ``ask()`` gives in the main process, in all of them: the others may not share its folders."""
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([ask() if accelerator.is_main_process else None])[0]


def assess(scores: np.ndarray, val_scores: np.ndarray | None, imageset, rows: dict, *, t: float | None = None):
    """Figures for the row, and what goes beside it, from logits of test (N, K) and val (M, K), or a temperature ``t``.

    ``rows`` are the images' numbers by split.
    """
    scored = accuracy.Scored(scores, imageset.labels[rows["test"]])
    val = None if t is not None else accuracy.Scored(val_scores, imageset.labels[rows["val"]])
    calibrated, kept = calibration.assess(scored, val=val, t=t)
    figures = {
        "shots": None,
        **{f"n_{split}": len(rows[split]) for split in ("train", "val", "test")},
        "n_classes": len(imageset.class_names),
        **accuracy.figures(scored),
        **calibrated,
    }
    beside = {
        "dataset_digest": imageset.digest,
        "test_digest": imageset.test_digest,
        "class_names": imageset.class_names,
        "ids_digest": details.ids_digest(imageset.ids[i] for i in rows["test"]),
        "curve": None,
        **kept,
    }
    return figures, beside


def top1(scores: np.ndarray, labels: np.ndarray) -> float:
    """Accuracy, 0..1."""
    return float(accuracy.top_k(scores, labels, k=1).mean())


def table(rows: list[dict]) -> str:
    """The rows for people, in percent."""
    lines = [["dataset", "model", "method", "top-1 %", "top-5 %", "balanced %", "val %", "train %", "chosen", "s"]]
    for row in rows:
        lines.append(
            [
                row["dataset"],
                row["model"],
                row["method"],
                *(f"{100 * row[k]:.1f} [{100 * row[f'{k}_low']:.1f}, {100 * row[f'{k}_high']:.1f}]"
                  for k in ("top1", "top5", "balanced")),
                *("" if row[k] is None else f"{100 * row[k]:.1f}" for k in ("val_top1", "train_top1")),
                row["chosen"] or "",
                f"{row['seconds']:.1f}",
            ]
        )  # fmt: skip
    return columns(lines)
