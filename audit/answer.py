"""Whether the ranking of heads and checkpoints holds without the suspects among the test images. Nothing is fitted.

The ranking is by top-1 on test, since it is about what the table shows. Which head to use is chosen on val.
"""

import numpy as np

from backbench import UserError, columns, details, identity, printable, rows, statistics
from backbench.progress import tell

LEVEL = 0.05
"""Significance level of the paired test between the first two heads."""

WAYS = ("", "_without_leaks", "_without_mislabelled", "_without_both")
"""Ends of the keys for all test images, and for those that are left without suspects."""


def answers(
    results_dir, *, test_ids: list[str], dataset_digest: str, leaks: set[str], mislabelled: set[str]
) -> list[dict]:
    """Score every head and checkpoint with predictions of these test images again without the suspects.

    Records are in the order of ``top1``. Each has the ``id``, ``model``, ``method``, ``stage`` and ``n_groups`` of its
    row and, with each end of ``WAYS``, ``top1`` (0..1), its 95 % interval ``top1_low`` and ``top1_high`` and the number
    of images ``n``, as ``n_without_leaks``. Without an image they are None. ``rank`` and ``rank_without_both`` count
    from 1, and equal heads share a rank. ``difference``, ``difference_low``, ``difference_high`` and ``p`` are of
    ``statistics.mcnemar`` without the suspects, less the head that is then the first. That head has none.

    Of one thing measured several times the newest row counts, and few-shot heads are left out. Rows whose predictions
    are damaged or were not kept are named and passed over. Raises UserError for broken rows.
    """
    heads = _heads(results_dir, test_ids, dataset_digest)
    leaked, wrong = (np.array([id in some for id in test_ids], bool) for some in (leaks, mislabelled))
    kept = dict(zip(WAYS, (np.ones_like(leaked), ~leaked, ~wrong, ~(leaked | wrong)), strict=True))
    records = [_scored(row, right, kept) for row, right in heads]
    order = sorted(range(len(heads)), key=lambda i: _place(records[i], ""))
    heads, records = [heads[i] for i in order], [records[i] for i in order]
    for end in ("", WAYS[-1]):
        tops = [record[f"top1{end}"] for record in records]
        for record, top in zip(records, tops, strict=True):
            record[f"rank{end}"] = None if top is None else 1 + sum(other > top for other in tops)
    _name_apart(records, [row for row, _ in heads])
    left = kept[WAYS[-1]]
    if records and left.any():
        first = min(range(len(records)), key=lambda i: _place(records[i], WAYS[-1]))
        for i, (_, right) in enumerate(heads):
            if i != first:
                pair = statistics.mcnemar(right[left], heads[first][1][left])
                ends = {"difference": pair.difference, "difference_low": pair.low, "difference_high": pair.high}
                records[i] |= ends | {"p": pair.p}
    return records


def _heads(results_dir, test_ids: list[str], dataset_digest: str) -> list[tuple[dict, np.ndarray]]:
    """Return the newest row of each thing measured on these test images, and where it is right, (N,) bool."""
    digest, found, faults = details.ids_digest(test_ids), {}, {}
    mine = [row for row in rows.read(results_dir) if _may_be_of(row, dataset_digest)]
    keyed = zip(identity.keys(mine), mine, strict=True)
    for key, row in sorted(keyed, key=lambda one: str(one[1]["created"]), reverse=True):
        if key in found:
            continue
        if not row.get("details"):
            faults.setdefault(key, (row, "its predictions were not kept. Run its command again."))
            continue
        try:
            content = details.of(results_dir, row)
        except UserError as error:
            faults.setdefault(key, (row, str(error)))
            continue
        same = (content["dataset_digest"], content["ids_digest"], len(content["labels"]))
        if same == (dataset_digest, digest, len(test_ids)):
            found[key] = row, np.equal(content["predicted"], content["labels"])
    for key, (row, why) in faults.items():
        if key not in found:
            tell(f"passed over: {printable(row['model'])}, {printable(row['method'])}: {why}")
    return list(found.values())


def _may_be_of(row: dict, dataset_digest: str) -> bool:
    """Whether a row, maybe a stranger's, is of a head on its own test images of this data set, or doesn't say."""
    features = {} if row["features"] is None else row["features"]
    plain = all(isinstance(part, dict) for part in (features, row["protocol"] or {}, row.get("settings") or {}))
    if not plain or not all(isinstance(row[name], str) for name in ("stage", "model", "method")):
        return False
    mine = features.get("dataset_digest") in (None, dataset_digest)
    return mine and rows.own_test(row) and row.get("shots") is None


def _scored(row: dict, right: np.ndarray, kept: dict[str, np.ndarray]) -> dict:
    record = {"id": rows.identified(row)["id"]}
    record |= {key: row.get(key) for key in ("model", "method", "stage", "n_groups")}
    for end, which in kept.items():
        n, hits = int(which.sum()), int(right[which].sum())
        low, high = statistics.interval(hits, n) if n else (None, None)
        record |= {f"n{end}": n, f"top1{end}": hits / n if n else None}
        record |= {f"top1{end}_low": None if low is None else float(low)}
        record |= {f"top1{end}_high": None if high is None else float(high)}
    return record | dict.fromkeys(("difference", "difference_low", "difference_high", "p"))


def _place(record: dict, end: str) -> tuple:
    """Return a sort key, the best first. Of equals the better with the suspects comes first, then the name decides."""
    return -(record[f"top1{end}"] or 0), -record["top1"], record["model"], record["method"], record["id"]


def _name_apart(records: list[dict], found: list[dict]) -> None:
    """Add the first digits of a row's key to the method where heads that differ have both names in common."""
    names = [(record["model"], record["method"]) for record in records]
    for record, row, name in zip(records, found, names, strict=True):
        if names.count(name) > 1:
            record["method"] += f" ({identity.key(row)[:4]})"


def verdict(records: list[dict]) -> dict:
    """Return the figures of an audit's row: ``n_heads``, ``rank_holds`` and ``winner_changes``.

    The ranking holds where no two heads change places: none that was ahead of another is then behind it. The winner
    changes where none of the first heads stays first. Both are None where there are no two heads, or no image is left.
    """
    told = {"n_heads": len(records), "rank_holds": None, "winner_changes": None}
    if len(records) < 2 or not records[0]["n_without_both"]:
        return told
    stays = any(record["rank"] == record["rank_without_both"] == 1 for record in records)
    return told | {"rank_holds": not _moved(records), "winner_changes": not stays}


def _moved(records: list[dict]) -> int:
    """Return how many heads change places with another."""
    before, after = (np.array([record[f"rank{end}"] for record in records]) for end in ("", WAYS[-1]))
    swapped = (before[:, None] < before) & (after[:, None] > after)
    return int((swapped | swapped.T).any(axis=0).sum())


def table(records: list[dict]) -> str:
    """Return the records for people, in percent, and in words whether the ranking holds."""
    if not records:
        return (
            "No head with predictions of these test images is in the results folder, so that there is no ranking to "
            "judge. Run: probe --features FILE"
        )
    first = records[0]
    shown = (("", "top-1 %"), ("_without_leaks", "without leaks"), ("_without_both", "without suspects"))
    titles = [f"{title} (n {first[f'n{end}']:,})" for end, title in shown]
    lines = [("backbone", "method", *titles, "rank")]
    for record in records:
        tops = [_percent(record, end) for end, _ in shown]
        rank = [record["rank"], record["rank_without_both"] or record["rank"]]
        told = f"{rank[0]}" if rank[0] == rank[1] else f"{rank[0]} to {rank[1]}"
        lines.append((printable(record["model"]), printable(record["method"]), *tops, told))
    notes = [sentence(records)]
    if any(len({record[f"rank{end}"] for record in records}) < len(records) for end in ("", WAYS[-1])):
        notes.append("Equal heads share a rank. One that draws level with another doesn't change places with it.")
    if any(record["n_groups"] for record in records):
        notes.append("Images of one group are alike, which these intervals and p don't know: they are too sure.")
    return "\n\n".join([columns(lines, left=2), "\n".join(notes)])


def _percent(record: dict, end: str) -> str:
    if record[f"top1{end}"] is None:
        return "no image"
    return "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * record[f"top1{end}{at}"] for at in ("", "_low", "_high")))


def sentence(records: list[dict]) -> str:
    """Say whether the ranking holds and the winner changes, with the paired test of the first two heads."""
    found, first = verdict(records), records[0]
    if len(records) < 2:
        return "There is only one head, so that there is no ranking."
    if found["rank_holds"] is None:
        return "Every test image is suspected, so that nothing can be said of the ranking."
    ahead, behind = sorted(records, key=lambda record: _place(record, WAYS[-1]))[:2]
    names = [f"{printable(record['model'])} ({printable(record['method'])})" for record in (ahead, behind)]
    suspects = first["n"] - first["n_without_both"]
    if not suspects:
        told = "No test image is suspected: the ranking holds."
    else:
        told = f"Without the {suspects:,} suspected test image{'s' if suspects > 1 else ''} "
        places = f"{_moved(records)} of {len(records)} heads change places"
        if found["rank_holds"]:
            told += f"the ranking holds, and {names[0]} stays first."
        elif found["winner_changes"]:
            told += f"{places}, and the winner changes: {names[0]} is first."
        else:
            told += f"{places}, but the winner stays: {names[0]} is first."
    p = "p < 0.001" if behind["p"] < 0.001 else f"p = {behind['p']:.3f}"
    apart = "" if behind["p"] < LEVEL else "not "
    return f"{told} The next, {names[1]}, is {apart}distinguishable from it on these images (McNemar's {p})."
