"""The one rule by which a backbone and its head are chosen: on val, never on test."""

import re

from backbench.report import names

PUBLISHED_HEAD = "published"
"""The published study's head: shown beside the others, never chosen."""

FEW = re.compile(r", \d+ shots?$")
"""The end of the method's name of a head of few shots, as ``report.text`` gives it."""

RULE = (
    "Order: by top-1 on val, never by test; of equals logistic comes first, then the name decides; what has no val and "
    "few shots are last. Chosen is the first head of a frozen backbone, the published study's head aside."
)
"""The rule in words, for the table's footnotes and the page."""


def order(record: dict) -> tuple:
    """A sort key for records and rows with ``val_top1``, ``model`` and ``method``.

    What has the highest accuracy on test is the luckiest of all on these images, and its accuracy there is too high an
    estimate; that of what val chose is not. Heads that saw no val (``cnn --split usual``) come last, by name, and those
    of few shots behind all others: their val is as small as their train.
    """
    val, method = record.get("val_top1"), str(record.get("method"))
    few = record.get("shots") is not None or FEW.search(method) is not None
    return few, val is None, -(val or 0.0), names.plain(method) != "logistic", str(record.get("model")), method


def chosen(heads: list[dict]) -> dict | None:
    """Of records or rows of one data set the one that val chose; None where none has a val.

    Heads of frozen backbones are asked first, since that is the question; of them alone the others are none.
    """
    known = [head for head in heads if head.get("val_top1") is not None]
    frozen = [head for head in known if head["stage"] == "probe" and names.plain(head["method"]) != PUBLISHED_HEAD]
    return min(frozen or known, key=order, default=None)
