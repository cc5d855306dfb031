"""Heads fitted again without the copies in train and val, beside those fitted on all."""

import tempfile
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from backbench import columns, findings
from backbench.findings import Finding, is_copy
from backbench.probe import study
from backbench.probe.run import Settings

METHOD = "logistic"


def compare(patterns, lines: list[Finding], *, tested: Collection[str], results_dir: Path, seed: int) -> list[dict]:
    """Fit each file's logistic head on all images, and without those that may go as copies, unless decided otherwise.

    The row of each is written. Returns for each backbone its name and both top-1 on the same test images, 0..1. Images
    of test, whose ids are ``tested``, never go, since then the two would be of different images. Raises UserError where
    a head can't be fitted.
    """
    with tempfile.TemporaryDirectory() as folder:
        copies = Path(folder) / "copies.csv"
        findings.write(
            copies,
            [
                replace(line, decision="same")
                for line in lines
                if is_copy(line) and line.decision in ("", "same") and line.id not in tested
            ],
        )
        both = []
        for exclude in ((), (copies,)):
            found, faults = study.probe_all(
                patterns, [METHOD], results_dir=results_dir, settings=Settings(seed=seed), exclude=exclude
            )
            faults.stop()
            both.append({row["model"]: row for row in found})
    whole, fewer = both
    return [
        {
            "model": model,
            "n_train": row["n_train"] + row["n_val"],
            "n_train_without_copies": fewer[model]["n_train"] + fewer[model]["n_val"],
            "top1": row["top1"],
            "top1_without_copies": fewer[model]["top1"],
        }
        for model, row in whole.items()
        if model in fewer
    ]


def table(records: list[dict]) -> str:
    """Return the comparison for people, in percent."""
    head = ("fitted again", "train+val", "without copies", "top-1 %", "without copies %")
    lines = [
        (
            one["model"],
            f"{one['n_train']:,}",
            f"{one['n_train_without_copies']:,}",
            f"{100 * one['top1']:.2f}",
            f"{100 * one['top1_without_copies']:.2f}",
        )
        for one in records
    ]
    return columns([head, *lines], left=1)
