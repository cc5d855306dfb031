"""Accuracy on other data sets and on corrupted images: each head's drop, and its effective robustness.

The source is the data set on which a head or checkpoint was trained, and the target the one on which it is tested.
"""

from pathlib import Path
from statistics import NormalDist
from typing import TextIO

from backbench import UserError, columns, coverage, details
from backbench.report import choice, formatting, names
from backbench.report.formatting import printable
from backbench.rows import own_test

FIELDS = (
    "source", "target", "corruption", "level", "model", "input_scale", "method", "seed", "created", "n", "n_source",
    "val_top1",    "source_top1", "source_top1_low", "source_top1_high", "top1", "top1_low", "top1_high",
    "source_top1_mapped_classes", "top1_mapped_classes", "top1_mapped_classes_low", "top1_mapped_classes_high",
    "balanced", "balanced_low", "balanced_high",
    "drop", "drop_low", "drop_high", "relative_drop", "relative_drop_low", "relative_drop_high",
    "effective_robustness", "paired_drop_difference", "paired_drop_difference_low", "paired_drop_difference_high",
    "ece", "ece_scaled", "nll", "nll_scaled", "temperature", "source_ece_scaled",
    "unknown", "n_unknown", "auroc_msp", "auroc_msp_low", "auroc_msp_high", "auroc_energy", "auroc_energy_low",
    "auroc_energy_high",
    *coverage.KEYS, *(f"source_{key}" for key in coverage.KEYS), *coverage.UNKNOWN_KEYS,
)  # fmt: skip
"""A record's keys. Shares are 0..1. ``effective_robustness`` is top-1 above the line through all heads (see ``line``).
``paired_drop_difference`` is the drop less that of the head chosen on the source's val, with its 95 % interval; the
chosen head has none. ``val_top1`` is accuracy on the source's val."""

FEWEST = 3
"""Smallest number of heads for fitting a line, since a line always passes through two points."""

NORMAL = NormalDist()


def newest(rows: list[dict], *, corruptions: bool = False) -> list[dict]:
    """Return the newest row of every head and target: other data sets or, with ``corruptions``, corrupted images.

    Names show which rows measured different things (``report.names``), and with several seeds the method names the
    seed. Where a row lacks the ``val_top1`` of its source, that of the training's row is filled in.
    """
    found, seeds, val = {}, {}, {}
    for row in sorted(names.told_apart(rows), key=lambda row: str(row["created"])):
        if own_test(row) and row.get("shots") is None:
            val[row["dataset"], row["model"], row["method"], row["seed"]] = row.get("val_top1")
        if (
            row.get("target") is not None
            and _are_shares(row, "top1", "source_top1")
            and bool(row.get("corruption")) == corruptions
        ):
            found[row["key"], row["seed"]] = row
            seeds.setdefault(row["key"], set()).add(row["seed"])
    return [
        row
        | {"val_top1": row.get("val_top1", val.get((pair(row)[0], row["model"], row["method"], seed)))}
        | ({"method": f"{row['method']}, seed {seed}"} if len(seeds[key]) > 1 else {})
        for (key, seed), row in found.items()
    ]


def pair(row: dict) -> tuple[str, str]:
    """Return the names of a row's source and target."""
    return str(row.get("source") or row["dataset"]), str(row["target"])


def _are_shares(row: dict, *names: str) -> bool:
    return all(isinstance(row.get(name), int | float) and 0 <= row[name] <= 1 for name in names)


def probit(share: float, n: int | None = None) -> float:
    """Return the normal quantile of an accuracy. Accuracies of 0 and 1 are moved inwards by half an image of ``n``."""
    least = 0.5 / (n or 1000)
    return NORMAL.inv_cdf(min(max(share, least), 1 - least))


def line(rows: list[dict]) -> tuple[float, float] | None:
    """Return slope and intercept of the least-squares line through all rows of a source and target, on probit axes.

    The line predicts accuracy on the target from accuracy on the source (J. Miller et al. 2021, Accuracy on the line).
    Heads above it have effective robustness (R. Taori et al. 2020, Measuring robustness to natural distribution
    shifts). Returns None for fewer than ``FEWEST`` rows, or where all are equally accurate on the source.
    """
    points = [(probit(row["source_top1"], row.get("n_source")), probit(row["top1"], row.get("n"))) for row in rows]
    if len(points) < FEWEST:
        return None
    mx, my = (sum(values) / len(points) for values in zip(*points, strict=True))
    spread = sum((x - mx) ** 2 for x, _ in points)
    if spread < 1e-12:
        return None
    slope = sum((x - mx) * (y - my) for x, y in points) / spread
    return slope, my - slope * mx


def predicted_top1(share: float, line: tuple[float, float], n: int | None = None) -> float:
    """Return the accuracy on the target that the line predicts for the accuracy ``share`` on ``n`` source images."""
    slope, intercept = line
    return NORMAL.cdf(slope * probit(share, n) + intercept)


def records(rows: list[dict], results_dir: Path, *, corruptions: bool = False) -> list[dict]:
    """Return records with the keys of ``FIELDS`` and ``row``, by source and target in ``report.choice``'s order."""
    by_pair: dict[tuple, list[dict]] = {}
    for row in newest(rows, corruptions=corruptions):
        by_pair.setdefault(pair(row), []).append(row)
    found = []
    for (source, target), some in sorted(by_pair.items()):
        some = sorted(some, key=choice.order)
        laid = line(some)
        for row in some:
            record = {key: row.get(key) for key in FIELDS} | {"source": source, "target": target, "row": row}
            record["input_scale"] = (row["features"] or {}).get("input_scale") or 1.0
            if laid:
                record["effective_robustness"] = row["top1"] - predicted_top1(
                    row["source_top1"], laid, row.get("n_source")
                )
            if row is not some[0]:
                record |= _paired_difference(row, some[0], results_dir)
            found.append(record)
    return found


def _paired_difference(row: dict, chosen: dict, results_dir: Path) -> dict:
    """Return the difference of two drops with its interval, if both were measured on the same images of both sets."""
    import numpy as np

    from backbench import statistics

    sides, same = [], []
    try:
        for one in (row, chosen):
            content = details.of(results_dir, one)
            right, ids = content["source"]["right"], content["source"]["ids_digest"]
            sides.append((np.array(right) == 1, np.equal(content["predicted"], content["labels"])))
            same.append((ids, len(right), content["ids_digest"], len(content["labels"])))
    except (UserError, KeyError, TypeError):  # another version's rows, or rows without details
        return {}
    if same[0] != same[1] or sides[0][0].ndim != 1 or not len(sides[0][0]):
        return {}
    ends = statistics.drops_apart(*sides)
    return dict(
        zip(("paired_drop_difference", "paired_drop_difference_low", "paired_drop_difference_high"), ends, strict=True)
    )


def heads(rows: list[dict]) -> dict[tuple[str, str, str], dict]:
    """As ``report.compare.newest``, for rows on other data sets. The method's name says where the head was trained."""
    return {
        (row["dataset"], formatting.backbone(row["model"], (row["features"] or {}).get("input_scale")), named(row)): row
        for row in newest(rows)
        if row.get("details")
    }


def named(row: dict) -> str:
    """Return the method's name with the source, such as ``logistic, from caltech256``."""
    return f"{row['method']}, from {pair(row)[0]}"


def points(value, low=None, high=None) -> str:
    """Return a share in percentage points, with its interval where it has one."""
    if value is None:
        return ""
    ends = "" if low is None or high is None else f" [{100 * low:.1f}, {100 * high:.1f}]"
    return f"{100 * value:.1f}{ends}"


def with_ends(record: dict, name: str) -> str:
    """Return ``record[name]`` in percentage points, with its interval where the record holds one."""
    return points(*(record.get(f"{name}{end}") for end in ("", "_low", "_high")))


HEAD = (
    "backbone", "method", "source top-1 %", "top-1 %", "mapped classes %", "drop, points", "drop difference",
    "relative drop %", "effective robustness", "ECE %", "scaled ECE %", "AUROC %", "coverage %", "unknown %",
)  # fmt: skip


def cells(record: dict) -> tuple[str, ...]:
    """Return the table's cells of a record, in the order of ``HEAD``."""
    signed = record["effective_robustness"]
    return (
        printable(formatting.backbone(record["model"], record["input_scale"])),
        printable(record["method"]),
        with_ends(record, "source_top1"),
        with_ends(record, "top1"),
        "=" if record["top1_mapped_classes"] == record["top1"] else with_ends(record, "top1_mapped_classes"),
        with_ends(record, "drop"),
        with_ends(record, "paired_drop_difference"),
        with_ends(record, "relative_drop"),
        "" if signed is None else f"{100 * signed:+.1f}",
        points(record["ece"]),
        points(record["ece_scaled"]),
        with_ends(record, "auroc_msp"),
        _beside(record, f"coverage_{SETS}", source=f"source_coverage_{SETS}"),
        _beside(record, f"unknown_found_{RATE}", known=f"unknown_false_{RATE}"),
    )


def _beside(record: dict, name: str, **other: str) -> str:
    """Return two shares in percent, the second with its word: ``71.2 [65.1, 76.8], source 90.1``."""
    told = [with_ends(record, name)]
    told += [f"{word} {points(record[key])}" for word, key in other.items() if record.get(key) is not None]
    return ", ".join(filter(None, told))


NOTES = (
    "Source top-1 is accuracy on the source's test images of the same classes. Top-1 is accuracy on the target among "
    "all classes of the head. For mapped classes the head chooses only among the classes that correspond.",
    "Drops have 95 % intervals, from the intervals of the two accuracies (Newcombe 1998). Relative drops are shares of "
    "the source top-1 (interval: Donner & Zou 2012).",
    "The chosen head or checkpoint has the highest top-1 on the source's val and stands first. The drop "
    "difference is the drop less that of the chosen one, where both were measured on the same images.",
    "Effective robustness is in points above the least-squares line through all heads, on probit axes.",
    "ECE is given before and after temperature scaling on the source's val. AUROC says how well the largest "
    "probability separates images of known classes from those of unknown ones.",
)

SETS = "lac_95"
"""The prediction sets of the table. Files hold all of them."""

RATE = f"{coverage.FALSE_ALARMS:02d}"
"""The end of the keys for shares that are called unknown."""

SETS_NOTE = (
    f"Coverage says how often {formatting.set_name(SETS)} sets of the target, and of the source's test images, hold "
    "the class. Unknown says how many images of unknown classes, and of known ones, are called unknown where "
    f"{coverage.FALSE_ALARMS} % of images like the source's val would be."
)

OLD_NOTE = (
    "Some drops were measured by an earlier version. Their intervals are percentile bootstraps, which are too narrow. "
    "Run finetune generalize again to replace them."
)


def notes(found: list[dict]) -> tuple[str, ...]:
    """Return the notes below the table."""
    old = any("bootstrap" in str((record["row"].get("protocol") or {}).get("intervals")) for record in found)
    sets = any(record[f"coverage_{SETS}"] is not None for record in found)
    return (*NOTES, *([SETS_NOTE] if sets else []), *([OLD_NOTE] if old else []))


def write(found: list[dict], form: str, file: TextIO) -> None:
    """Write records as ``terminal`` or ``md`` for people, or in full precision as ``csv`` or ``json``."""
    if form in ("json", "csv"):
        formatting.write([{key: record[key] for key in FIELDS} for record in found], FIELDS, form, file)
    else:
        for key in dict.fromkeys((record["source"], record["target"]) for record in found):
            here = [record for record in found if (record["source"], record["target"]) == key]
            lines = _filled([HEAD, *map(cells, here)])
            title = f"{printable(key[0])} to {printable(key[1])}, {here[0]['n'] or 0:,} images"
            if form == "md":
                shown = ["| " + " | ".join(map(formatting.escaped, cell)) + " |" for cell in lines]
                shown.insert(1, "| --- | --- |" + " ---: |" * (len(lines[0]) - 2))
                file.write("\n".join([f"**{formatting.escaped(title)}**", "", *shown, "", ""]))
            else:
                file.write(f"{title}\n\n{columns(lines)}\n\n")
        file.writelines(f"- {note}\n" if form == "md" else f"{note}\n" for note in notes(found))


def _filled(lines: list[tuple[str, ...]]) -> list[list[str]]:
    """Return the lines without the columns that are empty but for their title."""
    kept = [i for i in range(len(HEAD)) if any(line[i] for line in lines[1:])]
    return [[line[i] for i in kept] for line in lines]


def nothing(results_dir: Path, *, corruptions: bool, other: bool) -> UserError:
    """Return the error for a missing table. ``other`` says that there are records of the other kind."""
    kinds = ("corrupted images", "--corruption all", " --corruptions"), ("other data sets", "--dataset openimages", "")
    (what, run, _), (others, _, option) = kinds if corruptions else kinds[::-1]
    there = f" Results on {others} are shown by: report generalization{option}" if other else ""
    return UserError(f"{results_dir} holds no results on {what}. Run: finetune generalize {run}.{there}")
