"""What the newest audit of each data set found, in sentences and as the page's table.

Rows may come from strangers: a figure that is of another type than ``backbench audit`` writes is left out.
"""

from backbench.report import formatting, names
from backbench.report.formatting import printable
from backbench.rows import own_test

MOST = 1 << 53
"""No count is believed that is larger."""

HEAD = (
    "data set", "audited", "images", "equal pairs", "near pairs", "test images copied", "pairs in one class",
    "pairs of two classes", "labels suspected", "of them in test", "wrong labels expected", "outliers",
    "ranking without suspects",
)  # fmt: skip


def newest(rows: list[dict]) -> dict[str, dict]:
    """Return the newest audit's row by data set as shown, with ``n_test``, the number of test images, or None.

    A data set has the audits of its own digest, which stands for its images, labels and split. One whose images were
    predicted in folds has none, since all of them are test images there.
    """
    audits: dict[str, dict] = {}
    for row in sorted((row for row in rows if row["stage"] == names.AUDIT), key=lambda row: str(row["created"])):
        if digest := _digest(row):
            audits[digest] = row
    if not audits:
        return {}
    found: dict[str, dict] = {}
    for row in names.told_apart(rows):
        audit = audits.get(_digest(row)) if own_test(row) and not formatting.FOLDED.search(row["dataset"]) else None
        there = found.get(row["dataset"])
        if audit and not (there and str(there["created"]) > str(audit["created"])):
            found[row["dataset"]] = audit | {"n_test": _count(row, "n_test")}
    return dict(sorted(found.items()))


def sentences(found: dict[str, dict]) -> list[str]:
    """Return what ``newest`` found in one or two sentences for each data set, whose audit says enough for them."""
    return [f"On {printable(name)}, {told}" for name, row in found.items() if (told := _sentence(row))]


def _sentence(row: dict) -> str:
    leaks, labels = _leaks(row), _labels(row)
    if not (leaks or labels):
        return ""
    told = ", and ".join(filter(None, (leaks, labels)))
    if _count(row, "n_leaks") == _count(row, "n_label_suspects_test") == 0:
        return f"{told}."
    return " ".join(filter(None, (f"{told}.", _ranking(row))))


def _leaks(row: dict) -> str:
    n, of = _count(row, "n_leaks"), _count(row, "n_test")
    if n is None:
        return ""
    if not n:
        return "no test image has a copy in train or val"
    by = " by features alone" if row.get("by_pixels") is False else ""
    images = f"of {of:,} test images" if of is not None and n <= of else "test images" if n > 1 else "test image"
    return f"{n:,} {images} {'have' if n > 1 else 'has'} a copy in train or val{by}"


def _labels(row: dict) -> str:
    n, tested = _count(row, "n_label_suspects"), _count(row, "n_label_suspects_test")
    if n is None:
        return ""
    if not n:
        # Without a number of expected wrong labels no label was judged.
        return "no label was judged" if row.get("expected_wrong") is None else "no label is suspected to be wrong"
    part = f", {tested:,} of them in test" if tested is not None and tested <= n else ""
    return f"{n:,} labels are suspected to be wrong{part}" if n > 1 else f"1 label is suspected to be wrong{part}"


def _ranking(row: dict) -> str:
    holds, changes, n = row.get("rank_holds"), row.get("winner_changes"), _count(row, "n_heads")
    of = f" of {n:,} heads" if n else ""
    if holds is True:
        return f"Without these test images the ranking{of} holds."
    if holds is False and changes is True:
        return f"Without these test images another head is the first{of}."
    if holds is False and changes is False:
        return f"Without these test images the ranking{of} changes, but the first head stays first."
    return ""


def cells(name: str, row: dict) -> list[str]:
    """Return the page's cells of one audit, in the order of ``HEAD``. What a row lacks is empty."""
    keys = "n_images", "n_exact", "n_near", "n_leaks", "n_redundant", "n_contradictions", "n_label_suspects"
    counts = [_count(row, key) for key in (*keys, "n_label_suspects_test")]
    expected, holds = row.get("expected_wrong"), {True: "holds", False: "changes"}
    number = type(expected) in (int, float) and 0 <= expected < MOST
    return [
        printable(name),
        printable(str(row["created"])[:10]),
        *("" if n is None else f"{n:,}" for n in counts),
        f"{expected:,.0f}" if number else "",
        "" if (n := _count(row, "n_outliers")) is None else f"{n:,}",
        holds[row["rank_holds"]] if isinstance(row.get("rank_holds"), bool) else "",
    ]


def _count(row: dict, name: str) -> int | None:
    value = row.get(name)
    return value if type(value) is int and 0 <= value < MOST else None


def _digest(row: dict) -> str | None:
    found = row["features"].get("dataset_digest") if isinstance(row["features"], dict) else None
    return found if isinstance(found, str) else None
