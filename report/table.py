"""The study's table, made from result rows: a line for each backbone and method, and columns for each data set.

``tidy`` reduces rows to one record for each (model, method, data set), and ``lay_out`` arranges these. Published
figures stand beside the measured ones. Accuracies are 0..1 in the tidy frame and in percent for people, with intervals.
"""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from backbench import coverage
from backbench.report import choice, formatting, names
from backbench.report.formatting import printable
from backbench.rows import own_test

if TYPE_CHECKING:
    import pandas as pd

PUBLISHED = Path(__file__).with_name("published.csv")
"""The published study's accuracy on val in percent, and the wall seconds of its five epochs on one cloud GPU."""

STUDY_DATASETS = ("caltech256", "cifar100")
"""The data sets of the published study. Their columns come first."""

KEY = ["model", "input_scale", "method", "dataset"]
"""The columns that identify a record, with names by ``report.names``. ``method`` includes the number of shots where it
was limited. Rows that differ only in their seed are averaged."""

COUNTS = ["n_train", "n_val", "n_test"]
MEANS = [
    *(f"{name}{end}" for name in ("top1", "top5", "balanced") for end in ("", "_low", "_high")),
    *("val_top1", "train_top1", "extract_seconds", "probe_seconds"),
    *coverage.KEYS,
]
BESIDE = ["published_val_top1", "published_seconds"]


def tidy(rows: list[dict], *, everything: bool = False, origins: bool = False) -> "pd.DataFrame":
    """Return one record for each (model, input scale, method, data set), from the rows that hold a test accuracy.

    Rows of one name that measured different things get different names from ``report.names`` and never share a record.

    The newest row of each seed counts. Seeds are averaged over the rows that have as many images as the newest one.
    The ends of intervals are averaged too, so that a mean never gets a narrower interval than one run. ``everything``
    adds the published study's backbones that have no rows. ``origins`` adds a column ``rows`` with the places in
    ``rows`` of the rows behind each record.
    """
    import pandas as pd

    rows = names.told_apart(rows)
    flat = [_flat(row) | {"rows": i} for i, row in enumerate(rows) if own_test(row)]
    frame = pd.DataFrame(flat, columns=[*KEY, "stage", "seed", "created", *COUNTS, *MEANS, "converged", "rows"])
    frame = frame.astype(dict.fromkeys(MEANS, float) | dict.fromkeys(COUNTS, "Int64") | {"converged": "boolean"})
    frame = frame.sort_values("created", kind="stable").drop_duplicates([*KEY, "seed"], keep="last")
    frame["images"] = frame[COUNTS].sum(axis=1)
    frame = frame[frame["images"] == frame.groupby(KEY)["images"].transform("last")]
    reductions = {"stage": "last", "created": "count"} | dict.fromkeys(COUNTS, "last") | dict.fromkeys(MEANS, "mean")
    reductions |= {"converged": "min", "rows": list}
    frame = frame.groupby(KEY, sort=False).agg(reductions).reset_index().rename(columns={"created": "seeds"})
    if not origins:
        frame = frame.drop(columns="rows")

    published = _published()
    frame["seeds"] = frame["seeds"].astype("Int64")
    if everything:
        ours = set(frame["model"])
        rest = [(called[0], dataset) for called, dataset, _ in published if not ours & set(called)]
        frame = pd.concat([frame, pd.DataFrame(rest, columns=["model", "dataset"])], ignore_index=True)
    beside = {(name, dataset): pair for called, dataset, pair in published for name in called}
    found = zip(map(_of_published_weights, frame["model"]), frame["dataset"], strict=True)
    pairs = [beside.get(key, (None, None)) for key in found]
    return frame.join(pd.DataFrame(pairs, columns=BESIDE, index=frame.index, dtype=float))


def records(frame: "pd.DataFrame") -> list[dict]:
    """Return the tidy frame as plain dicts, with None where there is no value."""
    return frame.astype(object).where(frame.notna(), None).to_dict("records")


class Dataset(NamedTuple):
    name: str
    n_test: str
    mixed: bool  # its records were measured on differing numbers of test images
    published: bool


class Cell(NamedTuple):
    top1: str = ""
    balanced: str = ""
    val: str = ""
    note: tuple[str, ...] = ()
    seconds: tuple[str, ...] = ()
    published: tuple[str, ...] = ()


def lay_out(frame) -> tuple[list[Dataset], list[tuple[str, str, dict]]]:
    """Return the data sets, and the lines as (model, method, record by data set) in ``report.choice``'s order."""
    lines, by_dataset = {}, {}
    for record in records(frame):
        model = formatting.backbone(record["model"], record["input_scale"])
        name = printable(record["dataset"])
        lines.setdefault((printable(model), printable(record["method"] or "")), {})[name] = record
        by_dataset.setdefault(name, []).append(record)
    across = [name for name in STUDY_DATASETS if name in by_dataset]
    across += sorted(by_dataset.keys() - set(across))
    datasets = []
    for name in across:
        counts = sorted({record["n_test"] for record in by_dataset[name]} - {None})
        n_test = " to ".join(f"{n:,}" for n in counts[:1] + counts[1:][-1:]) or "?"
        published = any(record[BESIDE[0]] is not None for record in by_dataset[name])
        datasets.append(Dataset(name, n_test, len(counts) > 1, published))

    def chosen_first(line):
        (model, method), found = line
        here = [found.get(name) or {} for name in across]
        # Lines without a measured accuracy on a data set come behind those that have one.
        missing = [record.get("top1") is None for record in here]
        places = [choice.order(record)[:4] for record in here]
        return list(zip(missing, places, strict=True)), model, method

    return datasets, [(*key, found) for key, found in sorted(lines.items(), key=chosen_first)]


def cell(record: dict | None, dataset: Dataset) -> Cell:
    """Return the table's texts for one record."""
    published = ("", "") if dataset.published else ()
    if record and record[BESIDE[0]] is not None:
        published = (f"{100 * record[BESIDE[0]]:.2f}", _seconds(record[BESIDE[1]]))
    if not record or record["seeds"] is None:  # only published figures
        return Cell(published=published)
    note = [f"n {record['n_test']:,}"] if dataset.mixed and record["n_test"] else []
    note += [f"{record['seeds']} seeds"] if record["seeds"] > 1 else []
    return Cell(
        formatting.accuracy(record, "top1"),
        formatting.accuracy(record, "balanced"),
        "" if record["val_top1"] is None else f"{100 * record['val_top1']:.1f}",
        (f"({', '.join(note)})",) if note else (),
        (_seconds(record["extract_seconds"]) if record["stage"] == "probe" else "", _seconds(record["probe_seconds"])),
        published,
    )


def _seconds(value) -> str:
    return "?" if value is None else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def footnotes(frame) -> list[str]:
    notes = [
        "Accuracies are measured on test and have 95 % intervals. Lines are in the order of the first data set.",
        choice.RULE,
    ]
    if any("(" in name for column in KEY if column != "input_scale" for name in frame[column].dropna()):
        notes.append(names.NOTE)
    if frame["dataset"].astype(str).str.contains(formatting.FOLDED).any():
        notes.append(formatting.FOLDS_NOTE)
    if (frame["converged"] == False).any():  # noqa: E712 - a nullable column
        notes.append(formatting.UNCONVERGED_NOTE)
    if (frame["seeds"] > 1).any():
        notes.append("With several seeds, figures and the ends of intervals are means over the seeds.")
    if (frame["stage"].dropna() != "probe").any():
        notes.append("For models trained end to end, the seconds are those of the whole run.")
    if frame[BESIDE[0]].notna().any():
        notes.append(
            "Published figures are accuracy on val among all 256 or 100 classes, without an interval, and the seconds "
            "of five epochs on one cloud GPU. The backbones of that study got input from 0 to 255."
        )
    return notes


def _flat(row: dict) -> dict:
    features = row["features"] or {}
    scale = features.get("input_scale") or 1.0
    measured = {
        "extract_seconds": features.get("seconds"),
        "probe_seconds": row.get("training_seconds") or row["seconds"],
    }
    return row | {"input_scale": scale, "method": formatting.method(row), **measured}


def _of_published_weights(model: str) -> str:
    """Return the backbone's name in the published study. Names that mention the weights are returned unchanged."""
    return model if f"({names.WEIGHTS} " in model else names.plain(model)


def _published() -> list[tuple]:
    """Return (names, data set, (accuracy 0..1, seconds)) of every published figure; the study's own name is first."""
    import pandas as pd

    found = []
    for row in pd.read_csv(PUBLISHED).to_dict("records"):
        called = (row["model"], row["timm_weights"], row["name"])
        for dataset in STUDY_DATASETS:
            found.append((called, dataset, (round(row[f"{dataset}_val_acc"] / 100, 6), row[f"{dataset}_seconds"])))
    return found
