"""Names for the tables. Rows that measured different things never share a name.

A row is named by its data set, its backbone and its method. Where two rows of one name measured different things, the
name says in brackets which settings differ: ``logistic (class_weight balanced)``, ``resnet50 (weights random)``. Where
no setting differs, rows are numbered by age: ``folder-photos (2: 3f9a)``. A data set that ``audit.csv`` changed is
``folder-photos (12 left out, 5 relabelled)``.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable

from backbench import decisions, identity
from backbench.rows import WRITTEN

DIGITS = 4
"""Number of hexadecimal digits of a digest in a name."""

LONGEST = 60
"""Largest number of characters in the brackets. Beyond it the rows are numbered."""

WEIGHTS = "weights"
"""The word before a backbone's weights."""

AUDIT = "audit"
"""The stage whose rows are about images. They measure no head, and have no part in the names of those that do."""

NOTE = "Brackets show how rows of one name differ in what they measured. Such rows are never averaged."
"""The note below tables that have such rows."""


def told_apart(rows: list[dict]) -> list[dict]:
    """Return the rows, in the same order, with ``dataset``, ``source``, ``model`` and ``method`` as tables show them.

    Rows with equal names, ``input_scale``, ``shots`` and ``target`` then measured the same thing. Each row has two more
    keys: ``key`` (see ``backbench.identity``) and ``WRITTEN``, the original row. Rows that have these keys already are
    returned unchanged, so that a part of them keeps its names.
    """
    if all(WRITTEN in row for row in rows):
        return rows
    rows = [row.get(WRITTEN, row) for row in rows]
    measured = iter(_measured_apart([row for row in rows if row["stage"] != AUDIT]))
    return [row | {"key": row.get("id"), WRITTEN: row} if row["stage"] == AUDIT else next(measured) for row in rows]


def _measured_apart(rows: list[dict]) -> list[dict]:
    """Do ``told_apart`` for rows of heads."""
    images = identity.images(rows)
    keys = identity.keys(rows, images)
    age = {key: i for i, key in enumerate(dict.fromkeys(keys[i] for i in _by_age(rows)))}
    first = {}
    for key, row in zip(keys, rows, strict=True):
        first.setdefault((key, row["dataset"], row["model"]), row)
    things = [
        {"key": key, "row": row, "told": identity.identity(row, images)}
        for (key, *_), row in sorted(first.items(), key=lambda item: age[item[0][0]])
    ]
    _name_sets(things)
    _name_backbones(things)
    _name_methods(things)
    _number(things)
    shown = {(one["key"], one["row"]["dataset"], one["row"]["model"]): one["shown"] for one in things}
    return [
        row | shown[key, row["dataset"], row["model"]] | {"key": key, WRITTEN: row}
        for key, row in zip(keys, rows, strict=True)
    ]


def plain(name: str) -> str:
    """Return a data set's or method's name without the brackets that this module adds."""
    return name.partition(" (")[0]


def _by_age(rows: list[dict]) -> list[int]:
    return sorted(range(len(rows)), key=lambda i: str(rows[i]["created"]))


def _name_sets(things: list[dict]) -> None:
    """Add what ``audit.csv`` changed to data sets' names, number those of one name, and add a row's folds.

    Of different images of one name, the oldest keep the name.
    """
    known: dict[tuple, dict] = defaultdict(dict)
    audited = _audited(things)

    def named(name: str, images: str) -> str:
        if images == name:  # without a digest
            return name
        words = audited.get((name, images))
        place = known[name, words]
        number = place.setdefault(images, len(place) + 1)
        inner = ", ".join(filter(None, (words, f"{number}: {images[:DIGITS]}" if number > 1 else "")))
        return f"{name} ({inner})" if inner else name

    for one in things:
        row, told = one["row"], one["told"]
        folds = told["settings"].get("folds")  # predictions of all images: another test than the file's own
        one["shown"] = {"dataset": named(row["dataset"], told["data"]) + (f" ({folds} folds)" if folds else "")}
        if "other" in told and row.get("source") is not None:
            one["shown"]["source"] = named(str(row["source"]), str(told["other"]["source"]))


def _audited(things: list[dict]) -> dict[tuple[str, str], str]:
    """Return what ``audit.csv`` changed of data sets, by their names and the digests of what is left.

    The features of a head on another data set than its own tell it of its source.
    """
    found = {}
    for one in things:
        if words := decisions.words(one["row"]["features"] or {}):
            name, data = one["row"]["dataset"], one["told"]["data"]
            if "other" in one["told"]:
                name, data = one["row"].get("source"), one["told"]["other"]["source"]
            found.setdefault((str(name), str(data)), words)
    return found


def _name_backbones(things: list[dict]) -> None:
    """Add differing weights and settings to backbones' names. Random weights are always named."""
    by_name = defaultdict(list)
    for one in things:
        by_name[one["row"]["model"]].append(one)
    for some in by_name.values():
        trained = {one["told"]["weights"] for one in some} - {None, identity.RANDOM}
        fields = _telling(some, lambda told: {"model": told["model"], **told["features"], **_transform(told)})
        for one in some:
            weights = one["told"]["weights"]
            words = {WEIGHTS: weights} if weights == identity.RANDOM else {}
            if len(trained) > 1 and weights in trained:
                words = {WEIGHTS: _weights(one, some)}
            one["shown"]["model"] = _beside(one["row"]["model"], words | fields(one))


def _name_methods(things: list[dict]) -> None:
    by_name = defaultdict(list)
    for one in things:
        by_name[one["row"]["method"]].append(one)
    for some in by_name.values():
        fields = _telling(some, lambda told: told["settings"])
        for one in some:
            one["shown"]["method"] = _beside(one["row"]["method"], fields(one))


def _number(things: list[dict]) -> None:
    """Number the rows that share a name although they measured different things."""
    for some in _cells(things):
        for number, one in enumerate(some[1:], start=2):
            one["shown"]["method"] += f" ({number}: {one['key'][:DIGITS]})"


def _cells(things: Iterable[dict]) -> list[list[dict]]:
    """Return groups of entries that have all names in common but different keys, the oldest first."""
    cells = defaultdict(dict)
    for one in things:
        shown = one["row"] | one["shown"]
        place = tuple(shown.get(name) for name in ("dataset", "source", "model", "method", "shots", "target"))
        place += (one["told"]["features"]["input_scale"],)
        cells[place].setdefault(one["key"], one)
    return [list(some.values()) for some in cells.values() if len(some) > 1]


def _telling(some: list[dict], part: Callable[[dict], dict]) -> Callable[[dict], dict]:
    """Return a function from an entry to those fields of ``part`` of its identity that differ between equal names."""
    differing = set()
    for cell in _cells(some):
        parts = [part(one["told"]) for one in cell]
        names = {name for found in parts for name in found}
        differing |= {name for name in names if any(found.get(name) != parts[0].get(name) for found in parts)}

    def fields(one: dict) -> dict:
        found = part(one["told"])
        return {name: found[name] for name in sorted(differing) if name != "transform" and found.get(name) is not None}

    return fields


def _transform(told: dict) -> dict:
    found = told["features"]["transform"]
    return found if isinstance(found, dict) else {}


def _weights(one: dict, some: list[dict]) -> str:
    """Return the weights' name or, where different weights share it, the first digits of their digest."""
    name, own = (one["row"]["features"] or {}).get("weights"), one["told"]["weights"]
    others = {other["told"]["weights"] for other in some if (other["row"]["features"] or {}).get("weights") == name} - {
        None
    }
    return str(name) if name and len(others) == 1 else str(own)[:DIGITS]


def _beside(name: str, words: dict) -> str:
    details = ", ".join(f"{key} {_value(value)}" for key, value in words.items())
    return f"{name} ({details})" if details and len(details) <= LONGEST else name


def _value(value) -> str:
    if isinstance(value, list | tuple):
        return "x".join(map(_value, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
