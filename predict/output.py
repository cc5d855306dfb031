"""Predictions as a table for people, CSV and JSON."""

import csv
import io
import json

import numpy as np

from backbench import columns, printable
from backbench.predict.predictions import Predictions
from backbench.statistics import interval

LINES = 200
"""Largest number of images in the table for people."""

NONE = "none of these"
"""What an image of an unknown class is called."""

SHOWN = 3
"""Largest number of classes, and of classes in a set, that the table shows of an image."""


def table(found: Predictions) -> str:
    """Return a line for each image, with probabilities in percent."""
    names = list(map(printable, found.classes))
    head = ["image", "class", "%", *(["next", "%"] if found.top.shape[1] > 1 else [])]
    head += ["set"] if found.sets is not None else []
    head += ["known %"] if found.p_known is not None else []
    head += ["votes"] if found.votes is not None else []
    lines = [head]
    for i, id in enumerate(found.ids[:LINES]):
        said = NONE if found.unknown is not None and found.unknown[i] else names[found.top[i, 0]]
        line = [printable(id), said, f"{100 * found.probability[i, 0]:.1f}"]
        if found.top.shape[1] > 1:
            line += [names[found.top[i, 1]], f"{100 * found.probability[i, 1]:.1f}"]
        if found.sets is not None:
            within = found.sets[i]
            more = f" and {len(within) - SHOWN} more" if len(within) > SHOWN else ""
            line.append(", ".join(names[k] for k in within[:SHOWN]) + more)
        line += [f"{100 * found.p_known[i]:.1f}"] if found.p_known is not None else []
        line += [str(found.votes[i])] if found.votes is not None else []
        lines.append(line)
    return columns(lines)


def as_csv(found: Predictions) -> str:
    """Return ``Predictions.records`` as CSV, with the classes of a set joined by ``|``."""
    records = found.records()
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]) if records else ["id"], lineterminator="\n")
    writer.writeheader()
    for record in records:
        told = {key: f"{value:.6f}" if isinstance(value, float) else value for key, value in record.items()}
        writer.writerow(told | ({"set": "|".join(record["set"])} if "set" in record else {}))
    return text.getvalue().rstrip("\n")


def as_json(found: Predictions) -> str:
    """Return the predictions, the images that couldn't be read, and the accuracy where folders tell it, as JSON."""
    whole = {"predictions": found.records(), "unreadable": found.unreadable, "accuracy": accuracy(found)}
    return json.dumps(whole, indent=2, allow_nan=False)


def accuracy(found: Predictions) -> dict | None:
    """Return ``n``, ``top1`` with ``top1_low`` and ``top1_high`` on the images whose class is known; None without any.

    An image that is called unknown counts as wrong, and ``coverage`` is the share of sets that hold the true class.
    """
    if found.truth is None:
        return None
    known = np.flatnonzero(found.truth >= 0)
    right = found.top[known, 0] == found.truth[known]
    if found.unknown is not None:
        right &= ~found.unknown[known]
    low, high = interval(right.sum(), len(right))
    told = {"n": len(known), "top1": float(right.mean()), "top1_low": float(low), "top1_high": float(high)}
    if found.sets is not None:
        told["coverage"] = float(np.mean([found.truth[i] in found.sets[i] for i in known]))
    return told


def summary(found: Predictions) -> list[str]:
    """Return sentences for people: what couldn't be read, how many are unknown, and the accuracy."""
    lines = []
    if found.unreadable:
        named = [f"{printable(id)} ({printable(reason)})" for id, reason in list(found.unreadable.items())[:20]]
        more = f" and {len(found.unreadable) - 20:,} more" if len(found.unreadable) > 20 else ""
        n = len(found.unreadable)
        some = "1 image can't be read and is" if n == 1 else f"{n:,} images can't be read and are"
        lines.append(f"{some} passed over: {', '.join(named)}{more}.")
    if found.unknown is not None:
        lines.append(f"{int(found.unknown.sum()):,} of {len(found.ids):,} images are called {NONE}.")
    if told := accuracy(found):
        top1 = " [".join((f"{100 * told['top1']:.1f}", f"{100 * told['top1_low']:.1f}, {100 * told['top1_high']:.1f}]"))
        covered = f", and {100 * told['coverage']:.1f} % of their sets hold the class" if "coverage" in told else ""
        lines.append(
            f"{told['n']:,} of {len(found.ids):,} images lie in folders named as a class: top-1 {top1} %{covered}."
        )
    return lines
