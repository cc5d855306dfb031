"""A results folder, read once for the page, the figures and the answers."""

import csv
import functools
from dataclasses import dataclass, field
from pathlib import Path

from backbench import UserError, details, rows
from backbench.report import choice, compare, formatting, generalization, names, table
from backbench.report.formatting import printable

COSTS = Path(__file__).with_name("costs.csv")
"""Parameters and multiply-adds of the backbones known by name, made by benchmarks/costs.py."""

LOW_RESOLUTION = ("cifar100", "cifar10", "digits")
"""Data sets with images of at most 32 pixels a side."""


@dataclass
class Study:
    """The rows of a study and the records made from them, with names by ``report.names``.

    ``records`` are the table's. Each also has ``rows`` (places in the study's ``rows``), ``stage``, ``shots``,
    ``named`` (the backbone as shown), and ``parameters`` and ``macs``, which are None where unknown. ``heads`` holds
    the newest row with details by (data set, named, method).
    """

    results_dir: Path
    rows: list[dict]
    frame: object  # pandas' frame of the table, with ``rows``
    records: list[dict]
    heads: dict[tuple, dict]
    faults: list[str] = field(default_factory=list)
    _read: dict[tuple, dict | None] = field(default_factory=dict)

    @property
    def datasets(self) -> list[str]:
        """The data sets with accuracies, those of the published study first."""
        names = {record["dataset"] for record in self.records}
        return [name for name in table.STUDY_DATASETS if name in names] + sorted(names - {*table.STUDY_DATASETS})

    @property
    def generalization_rows(self) -> list[dict]:
        """The rows of heads tested on other data sets or on corrupted images."""
        return [row for row in self.rows if row.get("target") is not None and "top1" in row]

    @functools.cached_property
    def tested(self) -> dict[tuple, dict]:
        """The records of ``report.compare`` by (data set, named, method). Heads it leaves out are named on stderr."""
        try:
            found = compare.compare(self.rows, self.results_dir) if self.heads else []
        except UserError:  # nothing to compare with
            found = []
        return {(r["dataset"], formatting.backbone(r["model"], r["input_scale"]), r["method"]): r for r in found}

    @functools.cached_property
    def _places(self) -> dict[int, int]:
        return {id(row[rows.WRITTEN]): i for i, row in enumerate(self.rows)}

    def where(self, row: dict) -> int:
        """Return the place of a row in ``rows``."""
        return self._places[id(row[rows.WRITTEN])]

    def best(self, dataset: str, *, stages=("probe",)) -> dict[str, dict]:
        """Return each backbone's head that is chosen on val, by the backbone's name as shown.

        The chosen backbone comes first. Both choices follow ``report.choice``, in which test has no part, and few-shot
        heads are left out.
        """
        found: dict[str, dict] = {}
        for record in self.records:
            if record["dataset"] == dataset and record["stage"] in stages and _is_choice(record):
                there = found.get(record["named"])
                if there is None or choice.order(record) < choice.order(there):
                    found[record["named"]] = record
        return dict(sorted(found.items(), key=lambda item: choice.order(item[1])))

    def compared(self, dataset: str) -> dict[str, dict]:
        """Return the records of ``report.compare`` among the heads of ``best`` alone, by backbone as shown."""
        chosen = [self.rows[i] for record in self.best(dataset).values() for i in record["rows"]]
        chosen = [row for row in chosen if row.get("details")]
        try:
            found = compare.compare(chosen, self.results_dir) if len(chosen) > 1 else []
        except UserError:
            found = []
        return {formatting.backbone(one["model"], one["input_scale"]): one for one in found}

    def details(self, key: tuple) -> dict | None:
        """Return the details of the head ``key``. Where they can't be read it adds a fault and returns None."""
        if key not in self._read:
            self._read[key] = None
            try:
                self._read[key] = details.of(self.results_dir, self.heads[key])
            except UserError as error:
                self.faults.append(f"{', '.join(map(printable, key))}: {error}")
        return self._read[key]


def load(results_dir: Path, *, everything: bool = False) -> Study:
    """Read a results folder. ``everything`` adds published backbones without rows to the table.

    Raises UserError for broken rows.
    """
    found = names.told_apart(rows.read(results_dir))
    frame = table.tidy(found, everything=everything, origins=True)
    records = [_enriched(record, found) for record in table.records(frame) if record["rows"]]
    return Study(results_dir, found, frame, records, compare.newest(found) | generalization.heads(found))


def key(record: dict) -> tuple[str, str, str]:
    """Return the key of a record in ``heads`` and ``tested``."""
    return record["dataset"], record["named"], record["method"]


def pareto(points: list[tuple[float, float]]) -> list[int]:
    """Return the places of the points (cost, accuracy) on the Pareto front, by rising cost."""
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1]))
    front, best = [], float("-inf")
    for i in order:
        if points[i][1] > best:
            front.append(i)
            best = points[i][1]
    return front


def _enriched(record: dict, found: list[dict]) -> dict:
    row = found[record["rows"][-1]]
    known = _costs().get((row[rows.WRITTEN]["model"], _side(row)), (None, None))
    costs = {name: row.get(name) or value for name, value in zip(("parameters", "macs"), known, strict=True)}
    return record | costs | {
        "named": formatting.backbone(record["model"], record["input_scale"]),
        "stage": row["stage"],
        "shots": row.get("shots"),
    }  # fmt: skip


def _side(row: dict) -> int | None:
    size = ((row["features"] or {}).get("transform") or {}).get("input_size")
    return size[-1] if isinstance(size, list) and size else None


@functools.cache
def _costs() -> dict[tuple[str, int], tuple[int, int]]:
    with COSTS.open(newline="") as file:
        return {
            (line["model"], int(line["side"])): (int(line["parameters"]), int(line["macs"]))
            for line in csv.DictReader(file)
        }


def _is_choice(record: dict) -> bool:
    return (
        record["shots"] is None
        and names.plain(record["method"]) != choice.PUBLISHED_HEAD
        and record["top1"] is not None
    )
