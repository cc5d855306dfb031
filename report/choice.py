"""The one rule by which a backbone and its head are chosen, which uses val and never test."""

import re

from backbench.report import names

PUBLISHED_HEAD = "published"
"""The published study's head, which is shown beside the others and never chosen."""

FEW = re.compile(r", \d+ shots?$")
"""The end of a few-shot head's method name, as ``report.formatting.method`` writes it."""

RULE = (
    "Heads are in the order of top-1 on val, never on test. Of equals logistic comes first, then the name decides. "
    "Heads without val, then few-shot heads, come last. The first head of a frozen backbone, except the "
    "published study's head, is the chosen one."
)
"""The rule in words, for the notes below tables and on the page."""


def order(record: dict) -> tuple:
    """Return a sort key for records and rows with ``val_top1``, ``model`` and ``method``.

    The head with the highest accuracy on test is partly the luckiest one on these images, so that this accuracy is too
    high an estimate. The test accuracy of the head chosen on val is not. Heads without val (``cnn --split usual``) come
    behind the others, by name. Few-shot heads come last, since their val is as small as their train.
    """
    val, method = record.get("val_top1"), str(record.get("method"))
    few = record.get("shots") is not None or FEW.search(method) is not None
    return few, val is None, -(val or 0.0), names.plain(method) != "logistic", str(record.get("model")), method


def chosen(heads: list[dict]) -> dict | None:
    """Return the record or row of one data set that is chosen on val, or None where none has a val.

    The choice is among the heads of frozen backbones, or among all where there are no such heads.
    """
    known = [head for head in heads if head.get("val_top1") is not None]
    frozen = [head for head in known if head["stage"] == "probe" and names.plain(head["method"]) != PUBLISHED_HEAD]
    return min(frozen or known, key=order, default=None)
