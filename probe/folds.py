"""Cross-validation, for sets too small for a val: each image is predicted by a head that was fitted without it.

The images of one group, and equal images, are in one fold. The split that the file holds has no part in it.
"""

import hashlib
import json
import time

import numpy as np

from backbench import UserError, accuracy, calibration, details, duplicates, grouped, rows
from backbench.accuracy import Scored
from backbench.cache import schema
from backbench.probe.run import INTERVALS, Settings, Task, fit, groups_of, refuse_broken, scores_of, settings_of
from backbench.probe.subsets import Splits, Subset

VAL_SHARE = 0.125
"""Share of the other folds on which a fold's settings are chosen, as where a data set has no val of its own."""

DRAWN = "scikit-learn's StratifiedGroupKFold; StratifiedKFold where no images belong together"


def check(file, k: int) -> None:
    """Raise UserError, with all faults at once, where ``k`` folds of this file would mean nothing."""
    done = np.flatnonzero(file.done == schema.DONE)
    faults = []
    if str(file.identity.get("views") or "").startswith("rows"):
        faults.append("it holds several views of an image as rows: extract it without --views-as rows.")
    counts = grouped.per_class(file.labels[done], units(file, done)) if len(done) else np.zeros(0, int)
    there = np.flatnonzero(counts)
    if len(there) < 2:
        found = f"one class, {file.class_names[there[0]]!r}" if len(there) else "no class"
        faults.append(f"{found}: at least two are needed.")
    elif few := [f"{file.class_names[i]} ({counts[i]})" for i in there if counts[i] < k]:
        what = "different images" if groups_of(file, done) is None else "groups of different images"
        most = int(counts[there].min())
        way = f"--folds {most} is possible" if most > 1 and _has_val(counts, most) else "add images or leave these out"
        named = ", ".join(few[:10]) + (f" and {len(few) - 10:,} more" if len(few) > 10 else "")
        have = "1 class has" if len(few) == 1 else f"{len(few):,} classes have"
        faults.append(f"{have} fewer than {k} {what}: {named}. {way[0].upper()}{way[1:]}.")
    elif not _has_val(counts, k):
        faults.append(f"of {k} folds the others hold one image or group of each class, too few to choose settings on.")
    refuse_broken(file, [f"{file.path}: {fault}" for fault in faults])


def units(file, which: np.ndarray) -> np.ndarray:
    """Return what each of the rows ``which`` (n,) must stay together with, as a number, (n,) int64.

    That is its group, where there are groups, and the rows of equal features; also by way of others.
    """
    of = groups_of(file, which)
    return grouped.united([file.equal[which], *([] if of is None else [grouped.numbered(of, len(which))])])


def draw(file, k: int, *, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the file's rows that hold features, the unit of each and its fold of ``k``, (n,) int64 each.

    Raises UserError where a fold would have a class that no other fold has, which few and large groups can cause.
    """
    which = np.flatnonzero(file.done == schema.DONE)
    unit, labels = units(file, which), file.labels[which]
    fold = grouped.folds(labels, unit, k, seed=seed)
    alone = np.flatnonzero(grouped.per_class(labels, fold) == 1)
    if len(alone) or len(np.unique(fold)) < k:
        named = ", ".join(file.class_names[label] for label in alone[:5])
        why = f"all images of {named} would be in one fold" if named else "a fold would be empty"
        raise UserError(f"{file.path}: {why}, since its groups are few or large. Try another --seed or fewer --folds.")
    return which, unit, fold


def probe(file, task: Task, settings: Settings) -> tuple[dict, dict, None]:
    """Predict each image by a head fitted on the other folds, whose settings were chosen on a val cut from those.

    Gives the row and what goes beside it, as ``run.probe``; there is no single head. ``file`` must have passed
    ``check``. Accuracies are of all images, 0..1, their intervals by groups where the file has groups.
    """
    started, k = time.monotonic(), task.folds or 0
    which, unit, fold = draw(file, k, seed=task.seed)
    labels, groups = file.labels[which], groups_of(file, which)
    scores, logits, scaled = (np.empty((len(which), len(file.class_names))) for _ in range(3))
    heads, temperatures, n_val = [], [], []
    for number in range(k):
        test, others = np.flatnonzero(fold == number), np.flatnonzero(fold != number)
        data = _data(file, which[others], unit[others], task, settings)
        head = fit(task, data, file, settings)
        scores[test] = scores_of(head, _subset(file, which[test], settings))
        logits[test], val = scores[test], head.val_scores
        if task.method == "knn":
            logits[test], val = (calibration.log_shares(votes, k=head.k) for votes in (scores[test], val))
        temperatures.append(calibration.temperature(val, data.val.labels))
        scaled[test] = logits[test] / temperatures[-1]
        heads.append(head)
        n_val.append(len(data.val))
    scored = Scored(scores, labels)
    limits, told = INTERVALS[settings.intervals]
    calibrated, kept = calibration.assess(Scored(scaled, labels), t=1.0, unscaled=Scored(logits, labels))
    row = rows.make(
        "probe",
        dataset=file.identity["dataset"],
        model=schema.label(file.identity),
        method=task.method,
        seed=task.seed,
        figures={
            "shots": None,
            "n_folds": k,
            "n_train": round(len(which) * (k - 1) / k),
            "n_val": None,
            "n_test": len(which),
            "n_classes": len(file.class_names),
            **({} if groups is None else {"n_groups": len(np.unique(groups))}),
            "val_top1": float(np.average([head.val_top1 for head in heads], weights=n_val)),
            **accuracy.figures(scored, limits=limits, groups=groups),
            "fold_top1": [float(scored.right[fold == number].mean()) for number in range(k)],
            **duplicates.figures(file.equal, file.labels, which[:0], which, scored.right, limits=limits),
            "train_top1": float(np.mean([head.train_top1 for head in heads])),
            **calibrated,
            "temperature": float(np.exp(np.mean(np.log(temperatures)))),
            "converged": all(head.converged for head in heads),
            "chosen": ", ".join(dict.fromkeys(head.chosen for head in heads)),
        },
        protocol={
            **_shared([head.protocol for head in heads]),
            "chosen": [head.chosen for head in heads],
            "val": "an eighth of the other folds, in whole groups",
            "split": f"folds, of all images: {DRAWN}; the file's own split is not used",
            "intervals": told + ("" if groups is None else f"; {accuracy.BY_GROUPS}"),
            "calibration": f"{calibration.PROTOCOL}; a temperature for each fold",
            "test": "each image once, by the head of the other folds",
        },
        settings={"folds": k, **settings_of(task, settings)},
        features={**file.identity, **file.measured, "path": str(file.path)},
        device=getattr(heads[0], "device", "cpu"),
        seconds=time.monotonic() - started,
    )
    beside = {key: row[key] for key in ("dataset", "model", "method", "seed", "shots")} | {
        "dataset_digest": file.identity["dataset_digest"],
        "test_digest": _digest(file, fold),
        "class_names": file.class_names,
        "ids_digest": details.ids_digest(file.ids[i] for i in which),
        "curve": None,
        **kept,
    }
    return row, beside, None


def _data(file, which: np.ndarray, unit: np.ndarray, task: Task, settings: Settings) -> Splits:
    """Cut a val from the rows ``which`` (m,) of the other folds, in whole units: what a head may see."""
    held = grouped.held_out(file.labels[which], unit, VAL_SHARE, seed=task.seed)
    if not held.any():
        raise UserError(f"{file.path}: no val can be cut from the other folds, since groups are few. Try more --folds.")
    parts = which[~held], which[held]
    return Splits(*(_subset(file, some, settings) for some in (*parts, np.concatenate(parts))))


def _subset(file, which: np.ndarray, settings: Settings) -> Subset:
    return Subset(file.features, file.labels[which], which, memory_limit=settings.memory_limit)


def _has_val(counts: np.ndarray, k: int) -> bool:
    """Whether some class has two of its ``counts`` (K,) left in the others of ``k`` folds."""
    return bool((counts - -(-counts // k)).max() > 1)


def _shared(protocols: list[dict]) -> dict:
    first, *others = protocols
    return {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}


def _digest(file, fold: np.ndarray) -> str:
    """Of the images and their folds: heads are compared as on one test only where both are the same."""
    told = [file.identity.get("images_digest") or file.identity["dataset_digest"], fold.tolist()]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()
