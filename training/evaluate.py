"""A model's logits, and the figures computed from them, which are the same as for a probe."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from backbench import UserError, accuracy, calibration, columns, coverage, details
from backbench.decisions import named
from backbench.devices import cores
from backbench.extract.preprocess import Preprocessor, Reader
from backbench.progress import step
from backbench.reference import Reference
from backbench.training import left_out

BATCH = 64


def image_batches(imageset, backbone, rows: np.ndarray, device):
    """Yield row numbers and their normalised images (B, 3, H, W) on the device, prepared as by extract, in order.

    Raises UserError that names all images that can't be read, after the others.
    """
    import torch

    unreadable = {}
    preprocessor = Preprocessor(backbone)
    with ThreadPoolExecutor(min(8, cores())) as pool:
        reader = Reader(imageset, pool)
        for start in range(0, len(rows), BATCH):
            group = rows[start : start + BATCH]
            (batch,), faults = reader.read(group, np.zeros(len(group), int), [preprocessor])
            unreadable |= {i: fault for i, fault in zip(group, faults, strict=True) if fault}
            yield group, backbone.normalise(batch.to(device, memory_format=torch.channels_last))
    imageset.check_reachable(unreadable.values())
    left_out.stop(imageset, unreadable)


def logits(model, imageset, backbone, rows: np.ndarray, accelerator, *, check=lambda: None) -> np.ndarray:
    """Return the logits (N, K) float32 of the images ``rows`` (N,), in eval mode. Several processes share the work.

    ``backbone`` decides the preprocessing. ``check()`` is called between batches and may raise.
    """
    import torch
    from accelerate.utils import gather_object

    model.eval()
    found = [np.empty((0, 0), np.float32)]
    doing = step(f"scoring {len(rows):,} images of {imageset.name}")
    parts = accelerator.split_between_processes(rows.tolist())
    with doing, parts as share, torch.inference_mode(), accelerator.autocast():
        for _, batch in image_batches(imageset, backbone, np.array(share, int), accelerator.device):
            found.append(model(batch).float().cpu().numpy())
            check()
    if accelerator.num_processes > 1:
        found = gather_object(found)
    return np.concatenate([one for one in found if one.size] or [np.empty((0, 1), np.float32)])


def of_main(accelerator, ask):
    """Return in all processes what ``ask()`` returns in the main one, since the others may not see its folders.

    A UserError of the main process is raised in all.
    """
    from accelerate.utils import broadcast_object_list

    def asked():
        try:
            return ask(), None
        except UserError as error:
            return None, error

    found, error = broadcast_object_list([asked() if accelerator.is_main_process else None])[0]
    if error:
        raise error
    return found


def assess(
    scores: np.ndarray, val_scores: np.ndarray | None, imageset, rows: dict, *, t: float | None = None,
    reference: Reference | None = None,
):  # fmt: skip
    """Return the row's figures and its details, from the logits of test (N, K) and of val (M, K).

    A temperature ``t`` and a ``reference`` take the place of the logits of val. ``rows`` are the images' numbers by
    split.
    """
    scored = accuracy.Scored(scores, imageset.labels[rows["test"]])
    val = None if t is not None else accuracy.Scored(val_scores, imageset.labels[rows["val"]])
    calibrated, kept = calibration.assess(scored, val=val, t=t)
    t = calibrated["temperature"]
    if val is not None:
        reference = reference_of(val.scores, val.labels, t=t)
    covered, by_class = coverage.assess(scored, reference, t=t)
    figures = {
        "shots": None,
        **{f"n_{split}": len(rows[split]) for split in ("train", "val", "test")},
        "n_classes": len(imageset.class_names),
        **accuracy.figures(scored),
        **calibrated,
        **covered,
    }
    beside = {
        "dataset_digest": imageset.digest,
        "test_digest": imageset.test_digest,
        "class_names": imageset.class_names,
        "ids_digest": details.ids_digest(imageset.ids[i] for i in rows["test"]),
        "curve": None,
        **kept,
        **by_class,
    }
    return figures, beside


def reference_of(scores: np.ndarray, labels: np.ndarray, *, t: float) -> Reference | None:
    """Return what val's logits (M, K) and labels (M,) say of new images, or None where they say nothing.

    The weights were not fitted on val, though their epoch was chosen there.
    """
    if not len(scores) or not np.isfinite(scores).all():
        return None
    return Reference.of_val(calibration.probabilities(scores, t), scores / t, labels)


def top1(scores: np.ndarray, labels: np.ndarray) -> float:
    """Return the top-1 accuracy, 0..1."""
    return float(accuracy.top_k(scores, labels, k=1).mean())


def table(rows: list[dict]) -> str:
    """Return the rows as a table for people, in percent."""
    lines = [["dataset", "model", "method", "top-1 %", "top-5 %", "balanced %", "val %", "train %", "chosen", "s"]]
    for row in rows:
        lines.append(
            [
                named(row),
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
