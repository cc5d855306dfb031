"""What survives on images from elsewhere: what each trained thing loses on each target, and whether that is more than
its accuracy at home foretells."""

from pathlib import Path
from statistics import NormalDist
from typing import TextIO

from backbench import UserError, columns, details
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
)  # fmt: skip
"""A record's keys. Shares are 0..1. ``effective_robustness``: top-1 above the line of all (see ``line``).
``paired_drop_difference``: how much more is dropped than by the head that the source's val chose, with its 95 %
interval; the chosen one has none. ``val_top1`` is that of the source's val."""

FEWEST = 3
"""Things on which a line is laid: through two it goes by itself."""

NORMAL = NormalDist()


def newest(rows: list[dict], *, corruptions: bool = False) -> list[dict]:
    """The newest row of every trained thing and target: of targets, or with ``corruptions`` of pictures made worse.

    Names tell apart what was measured (``report.names``), and where there are several seeds the method says which.
    Each row has the ``val_top1`` of its source's val, if only from the row of the training.
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
    """Source and target."""
    return str(row.get("source") or row["dataset"]), str(row["target"])


def _are_shares(row: dict, *names: str) -> bool:
    return all(isinstance(row.get(name), int | float) and 0 <= row[name] <= 1 for name in names)


def probit(share: float, n: int | None = None) -> float:
    """The normal quantile of an accuracy; of 0 and 1 that of half an image of ``n``."""
    least = 0.5 / (n or 1000)
    return NORMAL.inv_cdf(min(max(share, least), 1 - least))


def line(rows: list[dict]) -> tuple[float, float] | None:
    """Slope and intercept of the least-squares line through all rows of a source and target, on probit axes; None for
    fewer than ``FEWEST`` or where all are equally good at home.

    J. Miller et al. (2021), Accuracy on the line: what a better head gains elsewhere as it gains at home. What lies
    above it is effectively robust (R. Taori et al. 2020, Measuring robustness to natural distribution shifts).
    """
    points = [(probit(row["source_top1"], row.get("n_source")), probit(row["top1"], row.get("n"))) for row in rows]
    if len(points) < FEWEST:
        return None
    mx, my = (sum(of) / len(points) for of in zip(*points, strict=True))
    spread = sum((x - mx) ** 2 for x, _ in points)
    if spread < 1e-12:
        return None
    slope = sum((x - mx) * (y - my) for x, y in points) / spread
    return slope, my - slope * mx


def foretold(share: float, of: tuple[float, float], n: int | None = None) -> float:
    """The accuracy on the target that the line gives one at home."""
    return NORMAL.cdf(of[0] * probit(share, n) + of[1])


def records(rows: list[dict], results_dir: Path, *, corruptions: bool = False) -> list[dict]:
    """By source and target, in the order of ``report.choice``: records with the keys of ``FIELDS``, and ``row``."""
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
                record["effective_robustness"] = row["top1"] - foretold(row["source_top1"], laid, row.get("n_source"))
            if row is not some[0]:
                record |= _apart(row, some[0], results_dir)
            found.append(record)
    return found


def _apart(row: dict, chosen: dict, results_dir: Path) -> dict:
    """The difference of the two drops, where both were measured on the same images of either set."""
    import numpy as np

    from backbench import statistics

    sides, same = [], []
    try:
        for one in (row, chosen):
            content = details.of(results_dir, one)
            right, ids = content["source"]["right"], content["source"]["ids_digest"]
            sides.append((np.array(right) == 1, np.equal(content["predicted"], content["labels"])))
            same.append((ids, len(right), content["ids_digest"], len(content["labels"])))
    except (UserError, KeyError, TypeError):  # rows of others, or without their details
        return {}
    if same[0] != same[1] or sides[0][0].ndim != 1 or not len(sides[0][0]):
        return {}
    ends = statistics.drops_apart(*sides)
    return dict(
        zip(("paired_drop_difference", "paired_drop_difference_low", "paired_drop_difference_high"), ends, strict=True)
    )


def heads(rows: list[dict]) -> dict[tuple[str, str, str], dict]:
    """As ``report.compare.newest``, of rows on other sets' images: the method says where it was trained."""
    return {
        (row["dataset"], formatting.backbone(row["model"], (row["features"] or {}).get("input_scale")), named(row)): row
        for row in newest(rows)
        if row.get("details")
    }


def named(row: dict) -> str:
    return f"{row['method']}, from {pair(row)[0]}"


def points(value, low=None, high=None) -> str:
    """A share in points, with its interval where it has one."""
    if value is None:
        return ""
    ends = "" if low is None or high is None else f" [{100 * low:.1f}, {100 * high:.1f}]"
    return f"{100 * value:.1f}{ends}"


def with_ends(record: dict, name: str) -> str:
    return points(*(record.get(f"{name}{end}") for end in ("", "_low", "_high")))


HEAD = (
    "trained", "method", "at home %", "top-1 %", "mapped %", "drop, points", "to the chosen's", "of it %", "above line",
    "ECE %", "scaled", "AUROC %",
)  # fmt: skip


def cells(record: dict) -> tuple[str, ...]:
    """A record as ``HEAD`` titles it."""
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
    )


NOTES = (
    "At home: top-1 on the source's test images of the same classes. Mapped: among the classes that correspond alone.",
    "Drop: with its 95 % interval, from the intervals of the two accuracies (Newcombe 1998; its share: Donner & Zou "
    "2012). To the chosen's: the difference of two drops, both measured on the same images.",
    "The chosen is what has the highest top-1 on the source's val, heads and checkpoints alike; it stands first.",
    "Of it: the drop's share of the accuracy at home. Above line: effective robustness, points above the least-squares "
    "line of all on probit axes.",
    "ECE: before and after the temperature found on the source's val. AUROC: known classes told from unknown ones by "
    "the greatest probability.",
)

OLD_NOTE = (
    "Some drops were measured by an earlier version: their intervals are percentile bootstraps, which are too narrow. "
    "Run finetune generalize again to replace them."
)


def notes(found: list[dict]) -> tuple[str, ...]:
    """What stands below the records."""
    old = any("bootstrap" in str((record["row"].get("protocol") or {}).get("intervals")) for record in found)
    return (*NOTES, OLD_NOTE) if old else NOTES


def write(found: list[dict], form: str, file: TextIO) -> None:
    """Write records as ``terminal`` or ``md`` to be read, or in full precision as ``csv``, ``json``."""
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
    """Without the columns that have a title only."""
    kept = [i for i in range(len(HEAD)) if any(line[i] for line in lines[1:])]
    return [[line[i] for i in kept] for line in lines]


def nothing(results_dir: Path, *, corruptions: bool, other: bool) -> UserError:
    """What to say where there are no records; ``other``: there are some of the other kind."""
    what, run = (
        ("pictures made worse", "--corruption all")
        if corruptions
        else ("images from elsewhere", "--dataset openimages")
    )
    there = (
        f" What was measured is shown by: report generalization{'' if corruptions else ' --corruptions'}"
        if other
        else ""
    )
    return UserError(f"{results_dir} holds nothing measured on {what}. Run: finetune generalize {run}.{there}")
