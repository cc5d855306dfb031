"""Formatting of names and accuracies for people."""

import csv
import html
import json
import re
from typing import TextIO

from backbench import printable as printable

UNCONVERGED = "†"
"""The mark beside the accuracy of a head whose solver stopped before it had converged."""

UNCONVERGED_NOTE = (
    f"{UNCONVERGED} The solver stopped before it had converged, so this is not the head's final accuracy."
)


FOLDED = re.compile(r"\(\d+ folds\)$")
"""The end of a data set's name where its images were predicted in folds, as ``report.names`` writes it."""

FOLDS_NOTE = (
    "With folds, each image is predicted by a head fitted on the other folds. The val images are test images of other "
    "folds, so that the accuracy of a backbone chosen on them is a little too high: about half as much as if it had "
    "been chosen on test."
)
"""The note below tables that have such data sets."""


def escaped(name: str) -> str:
    """Return ``name`` with Markdown's special characters escaped."""
    return re.sub(r"([\\|`*\[\]~])", r"\\\1", html.escape(name, quote=False))


def backbone(model: str, scale: float | None) -> str:
    """Return the model's name, with the scale of its input where that is not the right one."""
    return model if scale in (None, 1) else f"{model} (input x{scale:g})"


def method(row: dict) -> str:
    """Return the row's method, with the number of training images for each class where that was limited."""
    shots = row.get("shots")
    return row["method"] if shots is None else f"{row['method']}, {shots} shot{'' if shots == 1 else 's'}"


def set_name(name: str) -> str:
    """Return the name of prediction sets as people read it: ``LAC 90 %`` for ``lac_90``."""
    kind, level = name.split("_")
    return f"{kind.upper()} {level} %"


def accuracy(record: dict, name: str) -> str:
    """Return ``record[name]`` with its ``_low`` and ``_high``, 0..1, in percent: ``96.9 [93.8, 98.5]``.

    An accuracy is never shown without its interval. It has a mark where the solver stopped before it had converged.
    """
    value, low, high = (record.get(name + end) for end in ("", "_low", "_high"))
    if value is None:
        return "not a number"
    if low is None or high is None:
        return "no interval"
    mark = UNCONVERGED if record.get("converged") is False else ""
    return f"{100 * value:.1f}{mark} [{100 * low:.1f}, {100 * high:.1f}]"


def write(records: list[dict], fields: tuple[str, ...], form: str, file: TextIO) -> None:
    """Write records in full precision: all keys as ``json``, or ``fields`` as ``csv``."""
    if form == "json":
        file.write(json.dumps(records, indent=2, allow_nan=False) + "\n")
        return
    lines = csv.DictWriter(file, fields, lineterminator="\n")
    lines.writeheader()
    lines.writerows(records)
