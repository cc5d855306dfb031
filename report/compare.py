"""Paired tests between heads on the same test images, each against the head chosen on val."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from backbench import UsageError, UserError, columns, details, suggest
from backbench.report import choice, formatting, names
from backbench.report.formatting import printable
from backbench.rows import own_test

if TYPE_CHECKING:
    import numpy as np

LEVEL = 0.05
"""Significance level for corrected p-values: below it two heads are called different."""

UNCHOSEN = "first by name, since none has a val"
CHOSEN, NOT_TOLD = "chosen on val", "not distinguishable from the chosen"
WORSE, BETTER = "worse than the chosen", "better than the chosen"

FIELDS = (
    "dataset", "model", "input_scale", "method", "seed", "created", "n_test", "converged", "val_top1",
    "top1", "top1_low", "top1_high", "difference", "difference_low", "difference_high",
    "only_this_right", "only_chosen_right", "p", "p_holm", "verdict", "group",
)  # fmt: skip
"""A record's keys. Accuracies are 0..1. Differences are this head less the chosen one, which itself has none. ``group``
holds letters: two heads share a letter if and only if no significant difference between them was found."""


def newest(rows: list[dict]) -> dict[tuple[str, str, str], dict]:
    """Return the newest row with details by data set, backbone and method as shown. Few-shot heads are left out."""
    told = {}
    for row in sorted(names.told_apart(rows), key=lambda row: str(row["created"])):
        if row.get("details") and own_test(row) and row.get("shots") is None:
            scale = (row["features"] or {}).get("input_scale")
            told[row["dataset"], formatting.backbone(row["model"], scale), row["method"]] = row
    return told


def compare(rows: list[dict], results_dir: Path, *, datasets: Sequence[str] = ()) -> list[dict]:
    """Compare every head with the one chosen on val, and return records with the keys of ``FIELDS``.

    Records are in the order of ``report.choice``, whose rule also makes the choice. The tests are McNemar's exact
    tests, Holm-corrected over all pairs of heads on the data set, since the groups' letters are about all pairs. Heads
    are named on stderr and left out if they were measured on other images than most heads, or if their predictions
    weren't kept or can't be read. ``datasets`` limits the comparison to these. Raises UsageError for a data set without
    rows, and UserError where there are no two heads to compare.
    """
    rows = names.told_apart(rows)
    if unknown := [name for name in datasets if name not in {row["dataset"] for row in rows}]:
        known = sorted({row["dataset"] for row in rows})
        raise UsageError(*(f"{name!r} has no rows in {results_dir}.{suggest(name, known)}" for name in unknown))
    rows = [row for row in rows if own_test(row) and row.get("shots") is None]
    rows = [row for row in rows if not datasets or row["dataset"] in datasets]
    told, groups, vals = newest(rows), {}, _vals(rows)
    measured, kept = ({(r["dataset"], r["model"], r["method"]) for r in some} for some in (rows, told.values()))
    for head in sorted(measured - kept):
        _leave_out(head, "its predictions were not kept. Run probe again")
    contents = {}
    for head, row in told.items():
        try:
            contents[head] = details.of(results_dir, row)
        except UserError as error:
            _leave_out(head, str(error))
    tests = {c["dataset_digest"]: c["test_digest"] for c in contents.values() if c.get("test_digest")}
    for head, content in contents.items():
        # Heads are comparable if their test images are equal. New train images change the data set's digest, but not
        # that of its test images. Older details hold the data set's digest only.
        test = content.get("test_digest") or tests.get(content["dataset_digest"], content["dataset_digest"])
        images = test, content["ids_digest"], tuple(content["labels"])
        groups.setdefault(head[0], {}).setdefault(images, {})[head] = told[head], content["predicted"]
    found = []
    for name, by_images in sorted(groups.items()):
        # The images that most heads were measured on; of equal numbers, those of the newest row.
        (*_, labels), heads = max(
            by_images.items(), key=lambda group: (len(group[1]), max(row["created"] for row, _ in group[1].values()))
        )
        for head in sorted(head for others in by_images.values() for head in others if head not in heads):
            _leave_out(head, "it was measured on other test images than most heads. Extract and probe it again")
        if len(heads) > 1:
            found += _against_chosen(heads, labels, vals)
            if any(row.get("n_groups") for row, _ in heads.values()):
                said = "images of one group are alike, which the paired tests don't know: their p may be too small."
                print(f"{printable(name)}: {said}", file=sys.stderr)
        else:
            print(f"{printable(name)} has only one head, so there is nothing to compare it with.", file=sys.stderr)
    if not found:
        raise UserError(f"{results_dir} holds no two heads to compare. Probe at least two backbones on one data set.")
    return found


def _vals(rows: list[dict]) -> dict[str, float | None]:
    """Return top-1 on val by key, 0..1: the mean over seeds as in the table, with the newest row of each seed."""
    by_key: dict[str, dict] = {}
    for row in sorted(rows, key=lambda row: str(row["created"])):
        by_key.setdefault(row["key"], {})[row["seed"]] = row.get("val_top1")
    known = {key: [val for val in by_seed.values() if val is not None] for key, by_seed in by_key.items()}
    return {key: sum(vals) / len(vals) if vals else None for key, vals in known.items()}


def _against_chosen(heads: dict, labels: tuple[int, ...], vals: dict[str, float | None]) -> list[dict]:
    """Return the records of one data set, from (row, predicted) by head on the same images, and top-1 on val by key."""
    import numpy as np

    from backbench import statistics

    right = {head: np.array(predicted) == np.array(labels) for head, (_, predicted) in heads.items()}
    by_test = sorted(heads, key=lambda head: (-right[head].sum(), head))
    corrected = _all_pairs(np.stack([right[head] for head in by_test]))
    letters = groups(corrected >= LEVEL)
    rows = {head: row | {"val_top1": vals[row["key"]]} for head, (row, _) in heads.items()}
    order = sorted(heads, key=lambda head: choice.order(rows[head]))
    picked = choice.chosen(list(rows.values()))
    reference = next((head for head in order if rows[head] is picked), order[0])
    chosen = by_test.index(reference)
    records = []
    for head in order:
        i = by_test.index(head)
        row, record = rows[head], dict.fromkeys(FIELDS)
        low, high = statistics.interval(right[head].sum(), len(labels))
        if row.get("n_groups"):  # images of a group are alike, which the predictions don't tell
            low, high = row["top1_low"], row["top1_high"]
        record |= {key: row[key] for key in ("dataset", "model", "method", "seed", "created")}
        record |= {"input_scale": (row["features"] or {}).get("input_scale") or 1.0, "n_test": len(labels)}
        record |= {"top1": float(right[head].mean()), "top1_low": float(low), "top1_high": float(high)}
        record |= {"converged": row.get("converged"), "val_top1": row["val_top1"], "group": letters[i]}
        record["verdict"] = CHOSEN if picked else UNCHOSEN
        if i != chosen:
            pair, p = statistics.mcnemar(right[head], right[reference]), float(corrected[chosen, i])
            record |= {"difference": pair.difference, "difference_low": pair.low, "difference_high": pair.high}
            record |= {"only_this_right": pair.n10, "only_chosen_right": pair.n01, "p": pair.p, "p_holm": p}
            record["verdict"] = NOT_TOLD if p >= LEVEL else WORSE if pair.difference < 0 else BETTER
        records.append(record)
    return records


def _all_pairs(right: "np.ndarray") -> "np.ndarray":
    """Return McNemar's exact p between any two of H heads, Holm-corrected over all pairs: (H, N) bool to (H, H).

    This equals ``statistics.mcnemar`` and is fast for a thousand heads. A head compared with itself has p = 1.
    """
    import numpy as np
    from scipy.special import bdtr

    from backbench import statistics

    hits = right.astype(np.float32)
    alone = np.rint(hits @ (1 - hits.T)).astype(np.int64)
    upper = np.triu_indices(len(right), 1)
    n10, n01 = alone[upper], alone.T[upper]
    ps = np.minimum(1.0, 2 * bdtr(np.minimum(n10, n01).astype(float), n10 + n01, 0.5))
    corrected = np.ones(alone.shape)
    corrected[upper] = statistics.holm(ps)
    return np.minimum(corrected, corrected.T)


def groups(alike: "np.ndarray") -> list[str]:
    """Return the letters of H heads, best first. Two heads share a letter if and only if they are ``alike``.

    ``alike`` (H, H) bool says which pairs show no significant difference. Each letter stands for a group in which all
    pairs are alike and to which no further head can be added. Groups are added until every such pair is in one. A head
    that is alone in its group has a letter too.
    """
    import numpy as np

    shared, found = np.zeros(alike.shape, bool), set()
    for pair in np.argwhere(np.triu(alike))[::-1]:
        if not shared[tuple(pair)]:
            members, further = list(pair), alike[pair].all(axis=0)
            further[pair] = False
            while further.any():
                members.append(further.argmax())  # the best head that is alike to all members
                further &= alike[members[-1]]
                further[members[-1]] = False
            shared[np.ix_(members, members)] = True
            found.add(tuple(sorted({int(i) for i in members})))
    letters = [""] * len(alike)
    for count, members in enumerate(sorted(found)):
        for i in members:
            letters[i] += _letter(count)
    return letters


def _letter(number: int) -> str:
    """Return a to z, then a1 to z1, then a2, and so on."""
    turn, letter = divmod(number, 26)
    return chr(ord("a") + letter) + (str(turn) if turn else "")


def paired(a: tuple[Path, dict], b: tuple[Path, dict]):
    """Return ``statistics.mcnemar`` of two rows, each given with its results folder.

    Returns None where they lack details or were measured on different images. Raises UserError where details can't be
    read.
    """
    import numpy as np

    from backbench import statistics

    if not (a[1].get("details") and b[1].get("details")):
        return None
    one, other = details.of(*a), details.of(*b)
    if any(one[key] != other[key] for key in ("ids_digest", "labels", "class_names")):
        return None
    labels = np.array(one["labels"])
    return statistics.mcnemar(np.array(one["predicted"]) == labels, np.array(other["predicted"]) == labels)


def write(records: list[dict], form: str, file: TextIO) -> None:
    """Write the records as ``terminal`` or ``md`` for people, or in full precision as ``csv`` or ``json``."""
    if form in ("json", "csv"):
        formatting.write(records, FIELDS, form, file)
    else:
        _tables(records, file, markdown=form == "md")


def _tables(records, file, *, markdown: bool) -> None:
    for name in dict.fromkeys(record["dataset"] for record in records):
        here = [record for record in records if record["dataset"] == name]
        title = f"{printable(name)}, {here[0]['n_test']:,} test images"
        head = ("backbone", "method", "val %", "top-1 %", "group", "difference, points", "p", "")
        lines = [head, *map(_line, here)]
        if markdown:
            shown = ["| " + " | ".join(map(formatting.escaped, line)) + " |" for line in lines]
            shown.insert(1, "| --- | --- | ---: | ---: | --- | ---: | ---: | --- |")
            file.write("\n".join([f"**{formatting.escaped(title)}**", "", *shown, "", ""]))
        else:
            file.write(f"{title}\n\n{columns(lines)}\n\n")
    file.writelines(f"- {note}\n" if markdown else f"{note}\n" for note in _footnotes(records))


def _line(record) -> tuple[str, ...]:
    behind = p = ""
    if record["difference"] is not None:
        points = (100 * record[f"difference{end}"] for end in ("", "_low", "_high"))
        behind = "{:+.1f} [{:+.1f}, {:+.1f}]".format(*points)
        p = "<0.001" if record["p_holm"] < 0.001 else f"{record['p_holm']:.3f}"
    model = formatting.backbone(record["model"], record["input_scale"])
    return (
        printable(model),
        printable(record["method"]),
        "" if record["val_top1"] is None else f"{100 * record['val_top1']:.1f}",
        formatting.accuracy(record, "top1"),
        record["group"],
        behind,
        p,
        record["verdict"],
    )


def _footnotes(records) -> list[str]:
    notes = [
        choice.RULE,
        "Differences are top-1 less that of the chosen head on the same images. Each has its own 95 % interval for "
        "paired proportions (Newcombe 1998).",
        "p is from McNemar's exact test, Holm-corrected over all pairs of heads on the data set. "
        f"From {LEVEL} on the head is {NOT_TOLD} one.",
        "Two heads share a letter of a group if and only if they are not distinguishable.",
    ]
    if any(formatting.FOLDED.search(record["dataset"]) for record in records):
        notes.append(formatting.FOLDS_NOTE)
    if any(record["converged"] is False for record in records):
        notes.append(formatting.UNCONVERGED_NOTE)
    return notes


def _leave_out(head, reason: str) -> None:
    print(f"Left out: {', '.join(map(printable, head))}: {reason.rstrip('.')}.", file=sys.stderr)
