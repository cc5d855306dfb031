"""Beside a result row: what its head said of every test image, one JSON file in ``results/details/``.

A row names its file by the key ``details``, as a path in the results folder. Files are written whole or not at all.
Like ``rows`` this needs nothing but the standard library.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import TypeGuard

from backbench import UserError
from backbench.files import write_whole
from backbench.rows import WRITTEN, append, digest, find, identified, plain, refuse

FOLDER = "details"

FORMAT = "backbench details"

SCHEMA = 1
"""Version of the file's shape. A reader refuses files of another."""

MOST_BYTES = 256 << 20
"""No file is read that is larger: a million test images take 12 MB."""

MOST_CLASSES = 1_000_000
"""No prediction set holds more."""

REQUIRED = (
    "dataset", "dataset_digest", "model", "method", "seed", "shots", "class_names", "ids_digest",
    "predicted", "labels", "per_class", "confusions", "curve", "calibration",
)  # fmt: skip
"""Keys that every file holds, besides ``format``, ``schema`` and ``created``.

``predicted`` and ``labels``, of the test images in the order of ``ids_digest``, and ``confusions``, triples of label,
predicted, images, number the ``class_names``; ``per_class`` holds for each class ``accuracy`` (0..1, null without
images) and ``n``. ``shots`` is null where the head saw all images. ``curve``, null or a list of points, holds in each
``n_train``, images, and ``top1``, 0..1, with ``top1_low`` and ``top1_high`` or without. ``calibration``, null or the
reliability ``before`` and ``after`` temperature scaling, holds for each equal-width bin of confidence ``n``, and the
mean ``confidence`` and ``accuracy``, null in an empty one. There may also be ``confidence``, for each test image the
temperature-scaled probability of ``predicted``, 0..1, and ``prediction_sets``: by the name of the sets (``lac_90``) for
each class ``coverage``, 0..1, and ``size``, the mean number of classes in a set, null without images."""


def ids_digest(ids: Iterable[str]) -> str:
    """SHA-256 of the images' names in their order: the same for the same images only."""
    return hashlib.sha256(json.dumps([str(name) for name in ids]).encode()).hexdigest()


def write(results_dir: Path | str, content: dict) -> str:
    """Write ``content``, with the keys of ``REQUIRED``, and give back its path in ``results_dir``, for the row.

    numpy's arrays and numbers become lists and numbers, NaN null. Raises UserError where it can't be written.
    """
    if missing := [key for key in REQUIRED if key not in content]:
        raise ValueError(f"details need {', '.join(missing)}")
    created = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    whole = plain({"format": FORMAT, "schema": SCHEMA, "created": created, **content})
    body = json.dumps(whole, allow_nan=False, separators=(",", ":")).encode()
    named = [re.sub(r"\D", "", str(whole["created"]))[:14]]
    named += [re.sub(r"[^A-Za-z0-9_]+", "-", str(content[key]))[:40] for key in ("dataset", "model", "method")]
    # The same content gets the same name: what is replaced, if anything, is equal.
    relative = f"{FOLDER}/{'_'.join([*named, hashlib.sha256(body).hexdigest()[:12]])}.json"
    path = Path(results_dir) / relative
    try:
        write_whole(path, body)
    except OSError as error:
        raise UserError(
            f"{path}: the predictions were not written: {error.strerror}. "
            "Make room there, or choose another folder with --results-dir, and run the command again."
        ) from error
    return relative


def keep(results_dir: Path | str, row: dict, beside: dict | None) -> None:
    """Write ``row`` and what goes ``beside`` it, whose path the row then holds, unless both are there already.

    Raises UserError where either can't be written; without its details the row is still written. Measured again, it
    gets them, by a row of its own.
    """
    row |= identified(row)
    if there := find(results_dir, row["id"]):
        row["details"] = there.get("details")
        if not beside or (row["details"] and (Path(results_dir) / str(row["details"])).is_file()):
            return
        row["id"] = digest(row["id"], "again", row["created"])
    row["details"] = None
    try:
        row["details"] = write(results_dir, beside) if beside else None
    finally:
        append(results_dir, row)


def read(results_dir: Path | str, relative: str) -> dict:
    """The content that a row's ``details`` names, checked: it may come from a stranger.

    Raises UserError for a path that leaves ``results_dir``, and for a file that isn't what ``write`` makes.
    """
    root = Path(results_dir).resolve()
    try:
        path = (root / relative).resolve()
    except (TypeError, ValueError, OSError, RuntimeError):  # no text, a NUL, a loop of links
        path = root
    if root not in path.parents:
        raise UserError(f"{str(relative)!r} is not a path in {results_dir}: this row's details are not read.")
    try:
        if not path.is_file():
            raise UserError(f"{path} is not there: copy {FOLDER}/ along with rows.jsonl, or run probe again.")
        if path.stat().st_size > MOST_BYTES:
            raise UserError(f"{path} is larger than {MOST_BYTES >> 20} MB: not read.")
        content = json.loads(path.read_bytes(), parse_constant=refuse)
        _check(content)
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a details file: {error}. Delete it and run probe again.") from error
    return content


def of(results_dir: Path | str, row: dict) -> dict:
    """A row's details, as ``read``. Raises UserError where they are of another row than this.

    The row may be one that ``report.names`` told apart.
    """
    row = row.get(WRITTEN, row)
    content = read(results_dir, row["details"])
    right = sum(a == b for a, b in zip(content["predicted"], content["labels"], strict=True))
    told = {key: row[key] for key in ("dataset", "model", "method", "seed")} | {"shots": row.get("shots")}
    same = all(content[key] == value for key, value in told.items())
    top1 = row.get("top1")
    if not (same and _is_share(top1) and abs(right / len(content["labels"]) - top1) < 1e-6):
        raise UserError(f"{row['details']} belongs to another row than the one that names it. Run probe again.")
    return content


def _check(content) -> None:
    """Raise ValueError where ``content`` is not as ``REQUIRED`` tells."""
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"expected a JSON object whose format is {FORMAT!r}")
    if content.get("schema") != SCHEMA:
        raise ValueError(f"of schema {content.get('schema')!r}, this backbench reads {SCHEMA}")
    if missing := [key for key in REQUIRED if key not in content]:
        raise ValueError(f"without {', '.join(missing)}")
    names, predicted, labels = content["class_names"], content["predicted"], content["labels"]
    classes, curve, bins = content["per_class"], content["curve"], content["calibration"]
    k = len(names) if isinstance(names, list) else 0
    n = len(labels) if isinstance(labels, list) else 0
    sound = {
        "class_names": k and all(isinstance(name, str) for name in names),
        "labels": n and _are_counts(labels, below=k),
        "predicted": _are_counts(predicted, below=k) and len(predicted) == n,
        "dataset_digest": isinstance(content["dataset_digest"], str),
        "ids_digest": isinstance(content["ids_digest"], str),
        "per_class": isinstance(classes, dict) and _are_counts(classes.get("n")) and len(classes["n"]) == k
        and _are_shares(classes.get("accuracy")) and len(classes["accuracy"]) == k,
        "confusions": _are(content["confusions"], lambda c: _are_counts(c) and len(c) == 3 and max(c[:2]) < k),
        "confidence": "confidence" not in content
        or (_are(content["confidence"], _is_share) and len(content["confidence"]) == n),
        "prediction_sets": _are_sets(content.get("prediction_sets", {}), k),
        "curve": curve is None or _are(curve, _is_point),
        "calibration": bins is None
        or (isinstance(bins, dict) and all(_is_reliability(bins.get(when)) for when in ("before", "after"))),
    }  # fmt: skip
    if broken := [key for key, good in sound.items() if not good]:
        raise ValueError(f"{', '.join(broken)} not of the expected shape")


def _is_count(value) -> bool:
    return type(value) is int and value >= 0


def _is_share(value) -> TypeGuard[float]:
    return type(value) in (int, float) and 0 <= value <= 1


def _are(values, sound) -> bool:
    return isinstance(values, list) and all(map(sound, values))


def _are_counts(values, *, below: float = float("inf")) -> bool:
    return _are(values, lambda value: _is_count(value) and value < below)


def _are_shares(values) -> TypeGuard[list]:
    return _are(values, lambda value: value is None or _is_share(value))


def _are_sets(sets, k: int) -> bool:
    return isinstance(sets, dict) and all(
        isinstance(one, dict)
        and _are_shares(one.get("coverage")) and len(one["coverage"]) == k
        and _are(one.get("size"), lambda size: size is None or _is_size(size)) and len(one["size"]) == k
        for one in sets.values()
    )  # fmt: skip


def _is_size(value) -> bool:
    return type(value) in (int, float) and 0 <= value <= MOST_CLASSES


def _is_reliability(bins) -> bool:
    if not isinstance(bins, dict) or not _are_counts(bins.get("n")):
        return False
    means = bins.get("confidence"), bins.get("accuracy")
    return all(_are_shares(mean) and len(mean) == len(bins["n"]) for mean in means)


def _is_point(point) -> bool:
    if not isinstance(point, dict) or not _is_count(point.get("n_train")) or not _is_share(point.get("top1")):
        return False
    return _are_shares([point.get("top1_low"), point.get("top1_high")])
