"""Comparison of two results folders: which heads changed, by how much, and whether the change is significant."""

from pathlib import Path
from typing import TextIO

from backbench import UserError, columns
from backbench.report import formatting, study
from backbench.report.compare import LEVEL, paired
from backbench.report.formatting import printable

FIELDS = (
    "dataset", "model", "method", "a", "a_low", "a_high", "b", "b_low", "b_high", "difference", "low", "high", "p",
    "verdict", "changed",
)  # fmt: skip
"""A record's keys. ``a`` and ``b`` are top-1, 0..1, and null where that folder lacks the head. ``difference`` is b less
a. It has an interval and McNemar's p where both kept their predictions of the same images. ``changed`` names the
settings that differ."""

SAME, TOLD, NOT_TOLD, UNPAIRED = "same predictions", "different", "not distinguishable", "no paired test"

SETTINGS = ("weights_sha256", "dataset_digest", "transform", "precision", "compiled", "input_scale", "seed", "versions")
"""The keys of the features' identity that may explain a difference."""


def diff(a: Path, b: Path) -> list[dict]:
    """Return a record for each (data set, backbone, method) of either folder, the largest change first.

    Heads that only one folder has come last. Raises UserError where a folder holds no accuracy.
    """
    one, other = (_heads(folder) for folder in (a, b))
    # Rows of equal identity are compared, whatever their names in the two folders; the others are matched by name.
    same = {row["key"]: name for name, (_, row) in one.items()}
    there = {
        same.get(row["key"], name): name
        for name, (_, row) in sorted(other.items(), key=lambda h: h[1][1]["key"] in same)
    }
    alone = {name: name for name in other if name not in there.values()}
    found = [_record(key, (a, one.get(key)), (b, other.get(there.get(key)))) for key in sorted({*one, *there})]
    found += [_record(key, (a, None), (b, other[key])) for key in alone]
    return sorted(found, key=lambda r: (r["difference"] is None, -abs(r["difference"] or 0)))


def _heads(folder: Path) -> dict[tuple, tuple[dict, dict]]:
    """Return (record, newest row) by data set, backbone as shown and method."""
    read = study.load(folder)
    if not read.records:
        raise UserError(f"{folder} holds no accuracies. Name two results folders: report diff results-old results")
    return {study.key(record): (record, read.rows[record["rows"][-1]]) for record in read.records}


def _record(key, a, b) -> dict:
    record = dict.fromkeys(FIELDS) | dict(zip(("dataset", "model", "method"), key, strict=True))
    for name, (_, found) in (("a", a), ("b", b)):
        if found:
            record |= {f"{name}{end}": found[0][f"top1{end}"] for end in ("", "_low", "_high")}
    if not (a[1] and b[1]):
        return record | {"verdict": "only in A" if a[1] else "only in B"}
    record["difference"] = record["b"] - record["a"]
    record["changed"] = _changed(a[1][1], b[1][1])
    try:
        test = paired((b[0], b[1][1]), (a[0], a[1][1]))
    except UserError as error:
        return record | {"verdict": f"{UNPAIRED}: {error}"}
    if test is None or max(found[0]["seeds"] for _, found in (a, b)) > 1:
        return record | {"verdict": UNPAIRED}
    record |= {"difference": test.difference, "low": test.low, "high": test.high, "p": test.p}
    same = test.n10 == test.n01 == 0
    return record | {"verdict": SAME if same else TOLD if test.p < LEVEL else NOT_TOLD}


def _changed(a: dict, b: dict) -> list[str]:
    """Return the names of settings that differ, in the features' identity and among the protocol's plain values."""
    names = [name for name in SETTINGS if (a["features"] or {}).get(name) != (b["features"] or {}).get(name)]
    one, other = ({**(row["protocol"] or {}), **(row.get("settings") or {})} for row in (a, b))
    plain = [key for key in one.keys() | other.keys() if isinstance(one.get(key, other.get(key)), str | int | bool)]
    return names + sorted(key for key in plain if one.get(key) != other.get(key) and key not in ("evaluations",))


def write(records: list[dict], form: str, file: TextIO) -> None:
    """Write the records as ``terminal`` or ``md`` for people, or in full precision as ``csv`` or ``json``."""
    if form == "json":
        formatting.write(records, FIELDS, form, file)
    elif form == "csv":
        formatting.write(
            [{**record, "changed": " ".join(record["changed"] or [])} for record in records], FIELDS, form, file
        )
    else:
        lines = [("data set", "backbone", "method", "A top-1 %", "B top-1 %", "B less A, points", "p", "", "changed")]
        lines += map(_line, records)
        if form == "md":
            shown = ["| " + " | ".join(map(formatting.escaped, line)) + " |" for line in lines]
            shown.insert(1, "| --- | --- | --- | ---: | ---: | ---: | ---: | --- | --- |")
            file.write("\n".join([*shown, "", ""]))
        else:
            file.write(columns(lines) + "\n\n")
        note = "p is from McNemar's exact test on the same test images. It is not corrected for the number of heads."
        file.write(f"- {note}\n" if form == "md" else f"{note}\n")


def _line(record) -> tuple[str, ...]:
    tops = (
        "" if record[name] is None else formatting.accuracy({f"x{end}": record[f"{name}{end}"] for end in _ENDS}, "x")
        for name in "ab"
    )
    points = "" if record["difference"] is None else f"{100 * record['difference']:+.1f}"
    if record["low"] is not None:
        points += f" [{100 * record['low']:+.1f}, {100 * record['high']:+.1f}]"
    p = "" if record["p"] is None else "<0.001" if record["p"] < 0.001 else f"{record['p']:.3f}"
    names = (printable(record[name]) for name in ("dataset", "model", "method"))
    return *names, *tops, points, p, printable(record["verdict"]), ", ".join(record["changed"] or [])


_ENDS = ("", "_low", "_high")
