"""One head in detail: its worst classes, its confusions, its calibration and its learning curve."""

import json
from pathlib import Path
from typing import TextIO

from backbench import UsageError, UserError, columns, details, suggest
from backbench.report import choice, formatting, generalization, names
from backbench.report.compare import newest
from backbench.report.formatting import printable

MOST = 10
"""Largest number of classes and of confused pairs in the text output. The JSON holds all of them."""

DUPLICATES = (
    "n_test_duplicates", "n_contradicting", "top1_without_duplicates", "top1_without_duplicates_low",
    "top1_without_duplicates_high",
)  # fmt: skip
"""The row's keys for duplicates: test images that equal a train or val image, images that equal one of another class,
and the accuracy without the former. Rows of earlier versions have none."""

CALIBRATION = ("nll", "ece", "nll_scaled", "ece_scaled", "temperature")
"""The row's keys for calibration: NLL in nats, ECE 0..1, both after temperature scaling, and the temperature."""


def choose(rows: list[dict], model: str, *, dataset: str | None = None, method: str | None = None) -> dict:
    """Return the newest row with details of that model, data set and method, or of the method chosen on val.

    Where ``dataset`` is given, heads that were trained on another data set and tested on it count too, with methods
    such as ``logistic, from caltech256``. A model with wrongly scaled input is named as in the tables. Raises
    UsageError that lists the possible names.
    """
    rows = names.told_apart(rows)
    told = newest(rows) | ({} if dataset is None else generalization.heads(rows))
    if not told:
        raise UserError("No row has details. Run, for example:\n  probe --features cache")
    asked = {"data set": dataset, "backbone": model, "method": method}
    for i, (what, name) in enumerate(asked.items()):
        known = sorted({key[i] for key in told})
        if name not in (None, *known):
            raise UsageError(
                f"There are no details for {what} {name!r}.{suggest(name, known)} Known: {', '.join(known)}."
            )
    fit = {
        key: row for key, row in told.items() if all(a in (None, b) for a, b in zip(asked.values(), key, strict=True))
    }
    if not fit:
        there = "; ".join(", ".join(key) for key in sorted(told) if key[1] == model)
        raise UsageError(f"There are no details for this combination. For {model} there are: {there}.")
    if len(sets := sorted({key[0] for key in fit})) > 1:
        raise UsageError(f"{model} has details on {', '.join(sets)}. Name one with --dataset.")
    return min(fit.values(), key=choice.order)


def look(row: dict, results_dir: Path, content: dict | None = None) -> dict:
    """Return what ``report details`` shows of a row: names, figures, and its details without the single predictions.

    ``classes`` holds name, accuracy with its interval and n of each class with test images, the worst first.
    ``confusions`` holds label, predicted and n, the most frequent first. ``content`` passes in the row's details where
    they were read already.
    """
    from backbench.statistics import interval

    content = content or details.of(results_dir, row)
    names, kept = content["class_names"], content["per_class"]
    classes = []
    for name, accuracy, n in zip(names, kept["accuracy"], kept["n"], strict=True):
        if n and accuracy is not None:
            low, high = interval(accuracy * n, n)
            ends = {"accuracy_low": float(low), "accuracy_high": float(high)}
            classes.append({"name": name, "accuracy": accuracy, **ends, "n": n})
    scale = (row["features"] or {}).get("input_scale") or 1.0
    return {
        **{key: row[key] for key in ("dataset", "model")},
        "input_scale": scale,
        **{key: row[key] for key in ("method", "seed", "created")},
        **({"source": row.get("source")} if row.get("target") else {}),
        "n_test": len(content["labels"]),
        **{key: row.get(key) for key in ("top1", "top1_low", "top1_high", "converged")},
        "duplicates": {key: row.get(key) for key in DUPLICATES},
        "calibration": {key: row.get(key) for key in CALIBRATION} | {"bins": content["calibration"]},
        "classes": sorted(classes, key=lambda one: (one["accuracy"], -one["n"], one["name"])),
        "confusions": [
            {"label": names[label], "predicted": names[predicted], "n": n}
            for label, predicted, n in content["confusions"]
        ],
        "curve": content["curve"],
    }


def write(found: dict, file: TextIO, *, as_json: bool) -> None:
    """Write the result of ``look``, as text for people or as JSON with all of it."""
    if as_json:
        file.write(json.dumps(found, indent=2, allow_nan=False) + "\n")
        return
    named = found["dataset"], formatting.backbone(found["model"], found["input_scale"]), found["method"]
    top1 = formatting.accuracy(found, "top1")
    parts = [[f"{', '.join(map(printable, named))}: top-1 {top1} %, {found['n_test']:,} test images"]]
    parts[0] += _duplicates(found["duplicates"])
    worst = [one for one in found["classes"] if one["accuracy"] < 1]
    parts.append(
        _titled(
            f"Worst classes, {min(MOST, len(worst))} of {len(found['classes'])}",
            [
                ("class", "accuracy %", "images"),
                *(
                    (printable(one["name"]), formatting.accuracy(one, "accuracy"), str(one["n"]))
                    for one in worst[:MOST]
                ),
            ],
            "No class has an error.",
        )
    )
    pairs = [(printable(one["label"]), printable(one["predicted"]), str(one["n"])) for one in found["confusions"]]
    parts.append(
        _titled("Most confused", [("class", "predicted", "images"), *pairs[:MOST]], "No classes are confused.")
    )
    calibration = found["calibration"]
    figures = [("", "unscaled", f"temperature {_figure(calibration['temperature'])}")]
    figures += [
        (name.upper() + unit, *(_figure(calibration[f"{name}{end}"], times) for end in ("", "_scaled")))
        for name, unit, times in (("ece", " %", 100), ("nll", " nats", 1))
    ]
    if any(calibration[key] is not None for key in CALIBRATION):
        parts.append(_titled("Calibration", figures))
    if found["curve"]:
        points = [(f"{point['n_train']:,}", formatting.accuracy(point, "top1")) for point in found["curve"]]
        parts.append(_titled("Learning curve", [("training images", "top-1 %"), *points]))
    file.write("\n\n".join("\n".join(part) for part in parts) + "\n")


def _duplicates(found: dict) -> list[str]:
    """Return a line for each kind of duplicates that the row counts."""
    lines = []
    if found["n_test_duplicates"]:
        without = "these are all test images"
        if found["top1_without_duplicates"] is not None:
            without = f"top-1 without them is {formatting.accuracy(found, 'top1_without_duplicates')} %"
        lines.append(f"{found['n_test_duplicates']:,} test images equal an image of train or val: {without}")
    if found["n_contradicting"]:
        lines.append(f"{found['n_contradicting']:,} images equal an image of another class")
    return lines


def _titled(title: str, lines: list[tuple[str, ...]], nothing: str = "") -> list[str]:
    return [title, columns(lines)] if len(lines) > 1 else [nothing]


def _figure(value, times: float = 1) -> str:
    return f"{times * value:.3g}" if isinstance(value, int | float) else "?"
