"""One probe: one feature file, one method, one result row."""

import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from backbench import SPLITS, Faults, UserError
from cache import features, layout
from probe import knn, logistic, metrics
from report import rows

METHODS = {"logistic": logistic.Logistic, "knn": knn.Knn}
"""A method is a class: ``Method(train, val, n_classes=K, seed=S)`` chooses on val, refits on train+val, and then has
``scores(features)`` (N, D) to (N, K), and what it says of itself: ``val_top1``, ``train_top1``, ``converged``,
``chosen`` for people, ``protocol`` with every setting."""


class Part(NamedTuple):
    """One split of a feature file."""

    features: np.ndarray  # (N, D) float32
    labels: np.ndarray  # (N,) int64


def read_split(file, code: int) -> Part:
    """The rows of one split that hold features, in the file's order."""
    rows_ = np.flatnonzero((file.split == code) & (file.done == layout.DONE))
    return Part(np.asarray(file.features[rows_], np.float32), file.labels[rows_])


def check(file) -> None:
    """Raise UserError, with all faults at once, where no probe of this file would mean anything."""
    done = file.done == layout.DONE
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
    if len(broken := _not_finite(file, done)):
        named = ", ".join(file.ids[i] for i in broken[:5])
        faults.append(
            f"NaN or infinite features in {len(broken):,} of {int(done.sum()):,} rows: {named}. "
            "Extract again with --precision float32 --feature-dtype float32 --overwrite."
        )
    if faults:
        raise UserError(*(f"{file.path}: {fault}" for fault in faults))
    if skipped := int((file.done == layout.SKIPPED).sum()):
        print(f"{file.path}: {skipped:,} images could not be read when it was made and are left out", file=sys.stderr)


def _not_finite(file, done) -> np.ndarray:
    blocks = np.array_split(np.arange(len(done)), max(1, file.features.nbytes >> 26))
    finite = [np.isfinite(np.asarray(file.features[b[0] : b[-1] + 1])).all(axis=1) for b in blocks if len(b)]
    return np.flatnonzero(~np.concatenate(finite) & done)


def probe(file, method: str, *, seed: int) -> dict:
    """Fit ``method`` on train, choose on val, refit on train+val, and only then read test, once. Gives the row.

    ``file`` must have passed ``check``. Accuracies are 0..1, intervals as in ``probe.metrics``.
    """
    started = time.monotonic()
    train, val = read_split(file, 0), read_split(file, 1)
    head = METHODS[method](train, val, n_classes=len(file.class_names), seed=seed)
    test = read_split(file, 2)
    figures = metrics.figures(head.scores(test.features), test.labels)
    return rows.make(
        "probe",
        dataset=file.identity["dataset"],
        model=file.identity["model"],
        method=method,
        seed=seed,
        figures={
            "n_train": len(train.labels),
            "n_val": len(val.labels),
            "n_test": len(test.labels),
            "n_classes": len(file.class_names),
            "val_top1": head.val_top1,
            **figures,
            "train_top1": head.train_top1,
            "converged": head.converged,
            "chosen": head.chosen,
        },
        protocol={**head.protocol, "intervals": "95 %, Wilson; balanced: at the effective n", "test": "read once"},
        features={**file.identity, **file.measured, "path": str(file.path)},
        device="cpu",
        seconds=time.monotonic() - started,
    )


def probe_all(patterns, methods, *, seed: int, results_dir: Path) -> tuple[list[dict], Faults]:
    """Probe every file with every method. A file that can't be used doesn't stop the others: its faults come back.

    Raises UserError where a pattern matches nothing.
    """
    found, faults = [], Faults()
    for path in features.find(patterns):
        with faults.collect(), features.open_file(path) as file:
            check(file)
            for method in dict.fromkeys(methods):
                row = probe(file, method, seed=seed)
                found.append(row)
                print(
                    f"{row['dataset']} {row['model']} {method}: top-1 {row['top1']:.1%} in {row['seconds']:.1f} s",
                    file=sys.stderr,
                )
                rows.append(results_dir, row)
    return found, faults
