"""Names and figures as people read them."""

import csv
import html
import json
import re
from typing import TextIO

UNCONVERGED = "†"
"""Beside the accuracy of a head whose solver stopped before it had converged."""

UNCONVERGED_NOTE = f"{UNCONVERGED} The solver stopped before it had converged: not the head's final figure."


def printable(name: str) -> str:
    """``name`` with control characters spelled out: a file's name must not steer the terminal or break a line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(name))


def escaped(name: str) -> str:
    """``name`` so that Markdown shows it as it is."""
    return re.sub(r"([\\|`*\[\]~])", r"\\\1", html.escape(name, quote=False))


def backbone(model: str, scale: float | None) -> str:
    """The model's name; features of wrongly scaled input never stand for it, and say so."""
    return model if scale in (None, 1) else f"{model} (input x{scale:g})"


def method(row: dict) -> str:
    """The row's method, with the images a class that its head saw where these were not all."""
    shots = row.get("shots")
    return row["method"] if shots is None else f"{row['method']}, {shots} shot{'' if shots == 1 else 's'}"


def accuracy(record: dict, name: str) -> str:
    """``record[name]`` with its ``_low`` and ``_high``, 0..1, in percent: ``96.9 [93.8, 98.5]``.

    A figure is never shown without its interval; one of a solver that stopped too early carries its mark.
    """
    value, low, high = (record.get(name + end) for end in ("", "_low", "_high"))
    if value is None:
        return "not a number"
    if low is None or high is None:
        return "no interval"
    mark = UNCONVERGED if record.get("converged") is False else ""
    return f"{100 * value:.1f}{mark} [{100 * low:.1f}, {100 * high:.1f}]"


def write(records: list[dict], fields: tuple[str, ...], form: str, file: TextIO) -> None:
    """Records as they are, in full precision: all of each as ``json``, its ``fields`` as ``csv``."""
    if form == "json":
        file.write(json.dumps(records, indent=2, allow_nan=False) + "\n")
        return
    lines = csv.DictWriter(file, fields, lineterminator="\n")
    lines.writeheader()
    lines.writerows(records)
