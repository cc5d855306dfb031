"""One probe: one feature file, one method, one result row. And many of them, side by side."""

import time
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np

from backbench import SPLITS, UserError, accuracy, coverage, details, duplicates, rows, statistics
from backbench.accuracy import Scored
from backbench.cache import features, schema
from backbench.decisions import Decisions
from backbench.probe import METHODS
from backbench.probe.head import Saved
from backbench.probe.outliers import Outliers
from backbench.probe.subsets import MEMORY_LIMIT, Splits, Subset
from backbench.progress import tell
from backbench.reference import Reference

"""A method is a class in the module of its name: ``Method(data, n_classes=K, seed=S)`` chooses on ``data.val`` what it
fitted on ``data.train``, fits ``data.final`` for good, and then has ``scores(features)`` (N, D) to (N, K), ``head``, a
LinearHead or KnnHead, ``val_scores`` of the head fitted on train alone, and what it says of itself: ``val_top1``,
``train_top1``, ``converged``, ``chosen`` for people, ``protocol`` with every setting."""

BLOCK = 4096
"""Rows scored at a time."""

INTERVALS = {
    "beta": (statistics.interval, statistics.INTERVALS),
    "wilson": (statistics.wilson, "95 %, Wilson; balanced: at the effective n"),
    "bootstrap": (statistics.interval, f"{statistics.INTERVALS}: the Bayesian bootstrap, in closed form"),
}
"""What ``Settings.intervals`` may be: the limits, and what a row says of them."""


@dataclass(frozen=True)
class Settings:
    """How to probe. ``options`` are a method's own, by its name; ``curve`` the shares of train to fit beside all.

    ``keep`` asks for the head, with what it needs for new images. ``decisions`` are those of ``audit.csv``, which
    leave images out and correct labels; they are applied where a file is opened.
    """

    seed: int = 42
    options: dict | None = None
    curve: tuple[float, ...] = ()
    intervals: str = "beta"
    memory_limit: int = MEMORY_LIMIT
    keep: bool = False
    decisions: Decisions | None = None


@dataclass(frozen=True)
class Task:
    """One probe to run: of ``shots`` images a class, None for all.

    ``state`` is ``cache.features.state`` of the file when it was compared with its checksum, None where it wasn't.
    ``folds`` is the number of folds where the file's split isn't used, see ``probe.folds``.
    """

    path: Path
    method: str
    seed: int
    shots: int | None = None
    state: tuple | None = None
    folds: int | None = None


def part(file, code: int, **limits) -> Subset:
    """The rows of one split that hold features, in the file's order, mapped."""
    which = np.flatnonzero((file.split == code) & (file.done == schema.DONE))
    return Subset(file.features, file.labels[which], which, **limits)


def check(file) -> None:
    """Raise UserError, with all faults at once, where a probe of this file would mean nothing.

    Where val is too small for prediction sets, that is told.
    """
    done = file.done == schema.DONE
    counts = np.zeros((3, len(file.class_names)), int)
    np.add.at(counts, (file.split[done], file.labels[done]), 1)
    faults = []
    if empty := [name for name, n in zip(SPLITS, counts.sum(axis=1), strict=True) if not n]:
        test_only = empty == ["train", "val"]
        faults.append(
            f"no images in {' and '.join(empty)}. "
            + (
                "This set is for testing heads trained on another."
                if test_only
                else "All of train, val, test are needed."
            )
        )
    if not empty and (counts.sum(axis=0) > 0).sum() < 2:
        faults.append(
            f"one class only, {file.class_names[int(counts.sum(axis=0).argmax())]!r}: at least two are needed."
        )
    untaught = np.flatnonzero((counts[0] == 0) & (counts[1:].sum(axis=0) > 0))
    if counts[0].any() and len(untaught):
        named = ", ".join(file.class_names[k] for k in untaught[:5])
        faults.append(f"{len(untaught)} classes have no image in train, but some in val or test: {named}.")
    refuse_broken(file, [f"{file.path}: {fault}" for fault in faults])
    coverage.say(file.path, int(counts[1].sum()))


def refuse_broken(file, faults: list[str]) -> None:
    """Raise UserError with ``faults`` and what is wrong with the features; tell of images that were left out."""
    if len(broken := file.not_finite()):
        faults = [*faults, features.broken_rows(file, broken)]
    if faults:
        raise UserError(*faults)
    if skipped := int((file.done == schema.SKIPPED).sum()):
        tell(f"{file.path}: {skipped:,} images could not be read when it was made and are left out")


def probe(file, task: Task, settings: Settings) -> tuple[dict, dict | None, Saved | None]:
    """Fit on train, choose on val, refit on train+val, and only then read test, once.

    Gives the row, what goes beside it (None for few shots) and, where the settings ask for it, the head. ``file`` must
    have passed ``check``. Accuracies are 0..1, intervals as in ``backbench.accuracy``.
    """
    from backbench import calibration

    started = time.monotonic()
    memory = {"memory_limit": settings.memory_limit}
    train, val = part(file, 0, **memory), part(file, 1, **memory)
    if task.shots:
        train, val = (few(of, task.shots, seed=task.seed) for of in (train, val))
        data = Splits(train, val, train)
    else:
        data = Splits(train, val, Subset(file.features, *_joined(train, val), **memory))
    head = fit(task, data, file, settings)
    test = part(file, 2)
    scored = Scored(scores_of(head, test), test.labels)
    limits, told = INTERVALS[settings.intervals]
    groups = groups_of(file, test.rows)
    told += "" if groups is None else f"; {accuracy.BY_GROUPS}"
    figures = accuracy.figures(scored, limits=limits, groups=groups)
    fitted = np.concatenate([train.rows, val.rows])
    logits, val_logits = scored, head.val_scores
    if task.method == "knn":
        logits = Scored(calibration.log_shares(scored.scores, k=head.k), test.labels)
        val_logits = calibration.log_shares(val_logits, k=head.k)
    calibrated, kept = calibration.assess(logits, val=Scored(val_logits, val.labels))
    t = calibrated["temperature"]
    reference = Reference.of_val(calibration.probabilities(val_logits, t), val_logits / t, val.labels)
    covered, by_class = {}, {}
    if not task.shots:
        covered, by_class = coverage.assess(logits, reference, t=t, limits=limits, groups=groups)
    shares = () if task.shots else settings.curve
    curve = [_curve_point(share, task, data, test, file, settings) for share in shares]
    row = rows.make(
        "probe",
        dataset=file.identity["dataset"],
        model=schema.label(file.identity),
        method=task.method,
        seed=task.seed,
        figures={
            "shots": task.shots,
            "n_train": len(train),
            "n_val": len(val),
            "n_test": len(test),
            "n_classes": len(file.class_names),
            **({} if groups is None else {"n_groups": len(np.unique(groups))}),
            "val_top1": head.val_top1,
            **figures,
            **duplicates.figures(file.equal, file.labels, fitted, test.rows, scored.right, limits=limits),
            "train_top1": head.train_top1,
            **calibrated,
            **covered,
            "converged": head.converged,
            "chosen": head.chosen,
        },
        protocol={
            **head.protocol,
            "intervals": told,
            "calibration": calibration.PROTOCOL,
            **({"prediction_sets": coverage.PROTOCOL} if covered else {}),
            "test": "read once" + (", and for each point of the curve" if curve else ""),
            **({"shots": "of train and of val, each class; not refitted on val"} if task.shots else {}),
        },
        settings=settings_of(task, settings),
        features={**file.identity, **file.measured, "path": str(file.path)},
        device=getattr(head, "device", "cpu"),
        seconds=time.monotonic() - started,
    )
    beside = {key: row[key] for key in ("dataset", "model", "method", "seed", "shots")} | {
        "dataset_digest": file.identity["dataset_digest"],
        "test_digest": file.identity.get("test_digest"),
        "class_names": file.class_names,
        "ids_digest": details.ids_digest(file.ids[i] for i in test.rows),
        "curve": curve or None,
        **kept,
        **by_class,
    }
    kept_head = None
    if settings.keep:
        outliers = Outliers.of_train(train)
        reference = Reference(reference.scores | {"distance": outliers.over(val)})
        kept_head = Saved(head.head, file.class_names, file.identity, task.method, row, reference, outliers)
    return row, None if task.shots else beside, kept_head


def groups_of(file, which: np.ndarray) -> np.ndarray | None:
    """The groups of the rows ``which`` (n,) of a file, (n,); None where it holds none."""
    return None if file.groups is None else file.groups[which]


def fit(task: Task, data: Splits, file, settings: Settings):
    """The head that ``task`` asks for, fitted."""
    module, name = METHODS[task.method].split(".")
    method = getattr(import_module(f"backbench.probe.{module}"), name)
    options = _options(task, settings)
    if task.method == "published" and file.identity["dataset"] == "cifar100":
        options["batch_size"] = 128  # as published
    return method(data, n_classes=len(file.class_names), seed=task.seed, **options)


def settings_of(task: Task, settings: Settings) -> dict:
    """What a row says that was set of the method."""
    return {name: value for name, value in _options(task, settings).items() if name != "device"}


def _options(task: Task, settings: Settings) -> dict:
    return dict((settings.options or {}).get(task.method, {}))


def few(of: Subset, shots, *, seed: int) -> Subset:
    """``shots`` images of each class, one number or one a class (K,), or all where there are fewer.

    More shots of the same seed hold the fewer.
    """
    order = np.random.default_rng(seed).permutation(len(of))
    order = order[np.argsort(of.labels[order], kind="stable")]
    labels = of.labels[order]
    place = np.arange(len(order)) - np.searchsorted(labels, labels)
    return of[np.sort(order[place < np.broadcast_to(shots, labels.max() + 1)[labels]])]


def _curve_point(share: float, task: Task, data: Splits, test: Subset, file, settings: Settings) -> dict:
    """One point of the learning curve: the head from a ``share`` of each class's train images, chosen on all of val."""
    counts = np.maximum(1, np.round(share * np.bincount(data.train.labels)).astype(int))
    train = few(data.train, counts, seed=task.seed)
    head = fit(task, Splits(train, data.val, train), file, settings)
    figures = accuracy.figures(
        Scored(scores_of(head, test), test.labels),
        limits=INTERVALS[settings.intervals][0],
        groups=groups_of(file, test.rows),
    )
    return {"n_train": len(train)} | {name: figures[name] for name in ("top1", "top1_low", "top1_high")}


def scores_of(head, of: Subset) -> np.ndarray:
    """A head's scores of a subset, (N, K)."""
    return np.concatenate([head.scores(x) for _, x in of.blocks(BLOCK)])


def _joined(train: Subset, val: Subset) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([train.labels, val.labels]), np.concatenate([train.rows, val.rows])
