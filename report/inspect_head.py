"""One head in detail: worst classes, confusions, calibration, prediction sets and learning curve."""

import json
from pathlib import Path
from typing import TextIO

from backbench import UsageError, UserError, columns, coverage, details, suggest
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


LEAST = "lac_95"
"""The sets by which the least covered classes are named: those of the smallest size. At 90 % they often hold one class,
and say what the accuracies say."""


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

    ``classes`` holds name, accuracy with its interval and n of each class with test images, the worst first, and its
    coverage and mean size by each kind of prediction sets where these were measured. ``confusions`` holds label,
    predicted and n, the most frequent first. ``content`` passes in the row's details where they were read already.
    """
    from backbench.statistics import interval

    content = content or details.of(results_dir, row)
    names, kept = content["class_names"], content["per_class"]
    sets = {name: one for name, one in content.get("prediction_sets", {}).items() if name in coverage.SETS}
    sets_of_all = {key: _number(row[key]) for key in ("n_val", *coverage.KEYS) if key in row}
    classes = []
    for k, (name, accuracy, n) in enumerate(zip(names, kept["accuracy"], kept["n"], strict=True)):
        if n and accuracy is not None:
            low, high = interval(accuracy * n, n)
            ends = {"accuracy_low": float(low), "accuracy_high": float(high)}
            of_sets = {f"coverage_{kind}": one["coverage"][k] for kind, one in sets.items()}
            of_sets |= {f"set_size_{kind}": one["size"][k] for kind, one in sets.items()}
            classes.append({"name": name, "accuracy": accuracy, **ends, "n": n, **of_sets})
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
        "prediction_sets": sets_of_all if sets_of_all.keys() & {*coverage.KEYS} else None,
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
    parts += _sets(found)
    if found["curve"]:
        points = [(f"{point['n_train']:,}", formatting.accuracy(point, "top1")) for point in found["curve"]]
        parts.append(_titled("Learning curve", [("training images", "top-1 %"), *points]))
    file.write("\n\n".join("\n".join(part) for part in parts) + "\n")


def set_lines(found: dict) -> list[tuple[str, str, str]]:
    """Return the name, coverage in percent and mean size of each kind of prediction sets, for a result of ``look``."""
    sets = found["prediction_sets"] or {}
    return [
        (formatting.set_name(name), formatting.accuracy(sets, f"coverage_{name}"), f"{sets[f'set_size_{name}']:.2f}")
        for name in coverage.SETS
        if None not in (sets.get(f"coverage_{name}"), sets.get(f"set_size_{name}"))
    ]


def least_covered(found: dict) -> list[dict]:
    """Return the classes of a result of ``look`` that sets made for ``LEAST`` cover more rarely, the rarest first."""
    key, (_, level) = f"coverage_{LEAST}", coverage.SETS[LEAST]
    below = [one for one in found["classes"] if one.get(key) is not None and one[key] < level / 100]
    return sorted(below, key=lambda one: (one[key], -one["n"], one["name"]))


def _sets(found: dict) -> list[list[str]]:
    """Return the parts of the text on prediction sets, with the reason where some could not be measured."""
    if found["prediction_sets"] is None:
        return []
    parts = [_titled("Prediction sets", [("", "coverage %", "mean size"), *set_lines(found)])]
    if why := coverage.too_small(found["prediction_sets"].get("n_val")):
        parts[0] = [line for line in (*parts[0], why) if line]
    if least := least_covered(found):
        from backbench.statistics import interval

        lines = [("class", "coverage %", "mean size", "images")]
        for one in least[:MOST]:
            share, n = one[f"coverage_{LEAST}"], one["n"]
            ends = dict(zip(("low", "high"), map(float, interval(share * n, n)), strict=True))
            shown = generalization.points(share, **ends)
            lines.append((printable(one["name"]), shown, f"{one[f'set_size_{LEAST}']:.2f}", str(n)))
        told = f"{formatting.set_name(LEAST)}, {min(MOST, len(least))} of {len(found['classes'])}"
        parts.append(_titled(f"Classes least covered by {told}", lines))
    return parts


def _number(value):
    return value if type(value) in (int, float) else None


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
