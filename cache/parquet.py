"""Feature files as parquet tables, for programs that show embeddings: a row for each image.

A row group holds some 16 MB of features, so that memory stays flat. Columns are named as cleanlab's Datalab and
FiftyOne name what they hold:

====================== ==========================================================================================
id, filepath           name of the image, and the path of its file; null where the data set isn't given
label, split           name of its class; train, val or test
prediction, confidence class that the newest probe of this file said of it, and its probability; null where not tested
embedding, x, y        features, a list of float32, and their place on the two principal axes (``cache.axes``)
====================== ==========================================================================================

With the findings of an audit there are ``is_label_issue``, ``given_label``, ``predicted_label`` (the suggested class),
``mistakenness`` (the probability that the label is wrong, 0..1), ``is_near_duplicate_issue``, ``near_duplicate_sets``
(numbers of the table's other rows that show the same) and ``is_outlier_issue``. What is decided to be right is none.
"""

import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from backbench import SPLITS, Faults, UserError, details, printable, rows
from backbench.cache import axes, features, schema
from backbench.cache.decided import images
from backbench.files import writing
from backbench.findings import Finding, is_copy
from backbench.progress import step, tell

MOST_ALIKE = 100
"""Number of rows that ``near_duplicate_sets`` names at most, since thousands of equal images would make millions."""

WRONG = re.compile(r"wrong with probability ([01](?:\.\d+)?)\b")
"""How the evidence of a label says that probability."""

NAMES: Any = ["label", "split", "prediction", "given_label", "predicted_label"]
"""Columns of few different values, which are stored once in a row group. pyarrow's annotations know only a bool."""


def export(
    patterns, *, out: Path, locate: Callable[[dict, Path], dict[str, str]] | None = None, results_dir,
    findings: tuple[Path, list[Finding]] | None = None, overwrite: bool = False,
) -> tuple[list[dict], Faults]:  # fmt: skip
    """Write every feature file as a table: to ``out`` where that ends with .parquet, else into that folder.

    ``locate(identity, folder)`` gives the paths of the images' files by id. ``findings`` are those of an ``audit.csv``,
    with its path. Returns what was written, and the faults of single files, which stop no other. Raises UserError,
    before any work, where pyarrow is missing, no feature file is found, or a table would be overwritten.
    """
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise UserError("parquet needs pyarrow: pip install pyarrow (or pip install 'backbench[sources]')") from None
    places = _places(features.find(patterns), Path(out), overwrite=overwrite)
    faults, done = Faults(), []
    for path, to in places.items():
        with faults.collect(), features.open_file(path) as file, step(f"writing {to}"):
            done.append(_write(file, to, locate=locate, results_dir=results_dir, findings=findings))
    return done, faults


def _places(paths: list[Path], out: Path, *, overwrite: bool) -> dict[Path, Path]:
    """Return where each file's table goes. Raises UserError naming all that can't go there."""
    faults, found, taken = Faults(), {}, defaultdict(list)
    if out.suffix == ".parquet" and len(paths) > 1:
        raise UserError(f"--out {out} is one table, but there are {len(paths)} feature files. Name a folder.")
    for path in paths:
        with faults.collect(), features.open_file(path, check=False) as file:
            label = schema.label(file.identity)
            usual = schema.default_path(out, file.identity["dataset"], label).with_suffix(".parquet")
            found[path] = out if out.suffix == ".parquet" else usual
            taken[found[path]].append(path)
    with faults.collect():
        twice = [f"{to} would be the table of {', '.join(map(str, of))}." for to, of in taken.items() if len(of) > 1]
        there = [f"{to} is there already; --overwrite replaces it." for to in taken if to.exists() and not overwrite]
        if twice or there:
            raise UserError(*(f"{one} Give them one by one, with --out FILE." for one in twice), *there)
    faults.stop()
    return found


def _write(file, to: Path, *, locate, results_dir, findings) -> dict:
    import pyarrow as pa
    from pyarrow import parquet

    if len(broken := file.not_finite()):
        raise UserError(features.broken_rows(file, broken))
    which = np.flatnonzero(file.done == schema.DONE)
    if not len(which):
        raise UserError(f"{file.path} holds no features: none of its images could be read.")
    if left := len(file.done) - len(which):
        tell(f"{file.path}: {left:,} images could not be read when it was made and are left out")
    mean_and_axes = axes.fit(file, which)[:2]
    columns = _of_images(file, which, locate(file.identity, file.path.parent) if locate else {})
    columns |= _predictions(file, which, results_dir)
    columns |= _issues(file, which, *findings) if findings else {}
    types = {
        "id": pa.string(), "filepath": pa.string(), "label": pa.string(), "split": pa.string(),
        "prediction": pa.string(), "confidence": pa.float64(), "embedding": pa.list_(pa.float32()),
        "x": pa.float32(), "y": pa.float32(), "is_label_issue": pa.bool_(), "given_label": pa.string(),
        "predicted_label": pa.string(), "mistakenness": pa.float64(), "is_near_duplicate_issue": pa.bool_(),
        "near_duplicate_sets": pa.list_(pa.int64()), "is_outlier_issue": pa.bool_(),
    }  # fmt: skip
    kinds = pa.schema([(name, kind) for name, kind in types.items() if name in {*columns, "embedding", "x", "y"}])
    dim = file.features.shape[1]
    try:
        with writing(to) as target, parquet.ParquetWriter(target, kinds, use_dictionary=NAMES) as writer:
            for at, x in schema.parts(file.features, which):
                offsets = np.arange(0, x.size + 1, dim, dtype=np.int32)
                flat = axes.place(x, *mean_and_axes).astype(np.float32)
                made = {name: value[at] for name, value in columns.items()}
                made |= {"embedding": pa.ListArray.from_arrays(offsets, x.ravel()), "x": flat[:, 0], "y": flat[:, 1]}
                arrays = [
                    one if isinstance(one := made[kind.name], pa.Array) else pa.array(one, kind.type) for kind in kinds
                ]
                writer.write_batch(pa.record_batch(arrays, schema=kinds))
    except OSError as error:
        raise UserError(f"{to} can't be written: {error.strerror or error}. Name another place with --out.") from error
    tested = sum(one is not None for one in columns["prediction"])
    return {
        "path": str(to), "features": str(file.path), "n": len(which), "dim": dim, "n_predicted": tested,
        "n_files": sum(one is not None for one in columns["filepath"]), "columns": kinds.names,
    }  # fmt: skip


def _of_images(file, which: np.ndarray, paths: dict[str, str]) -> dict[str, list]:
    names, ids = [_text(name) for name in file.class_names], images(file)
    if paths and (missing := [ids[i] for i in which if ids[i] not in paths]):
        tell(f"{file.path}: {len(missing):,} images have no file of their own, such as {printable(missing[0])}.")
    return {
        "id": [_text(file.ids[i]) for i in which],
        "filepath": [paths.get(ids[i]) for i in which],
        "label": [names[k] for k in file.labels[which]],
        "split": [SPLITS[code] for code in file.split[which]],
    }


def _predictions(file, which: np.ndarray, results_dir) -> dict[str, list]:
    """Return what the newest head on these very features said of the images that it was tested on."""
    there = file.done == schema.DONE
    tests = {}
    for some in (there & (file.split == SPLITS.index("test")), there):  # of folds all images are test
        rows_of = np.flatnonzero(some)
        tests[details.ids_digest(file.ids[i] for i in rows_of)] = rows_of
    said: dict[int, tuple[str, float | None]] = {}
    for row in reversed(rows.read(results_dir)):
        found = row["features"] if isinstance(row["features"], dict) else {}
        if not (isinstance(row.get("details"), str) and row["stage"] == "probe"):
            continue
        if schema.key(found) != schema.key(file.identity) or found.get(schema.ARRAYS_DIGEST) != file.identity.get(
            schema.ARRAYS_DIGEST
        ):
            continue
        try:
            content = details.of(results_dir, row)
        except UserError as error:
            tell(f"passed over: {error}")
            continue
        tested = tests.get(content["ids_digest"])
        if tested is not None and len(tested) == len(content["predicted"]):
            classes = [_text(content["class_names"][k]) for k in content["predicted"]]
            sure = content.get("confidence") or [None] * len(classes)
            said = dict(zip(tested.tolist(), zip(classes, sure, strict=True), strict=True))
            tell(f"{file.path}: predictions are those of {printable(row['method'])}, {printable(row['created'])}.")
            break
    else:
        tell(f"{file.path}: no predictions, since {results_dir} holds none. Make them: probe --features {file.path}")
    found = [said.get(i, (None, None)) for i in which.tolist()]
    return {"prediction": [name for name, _ in found], "confidence": [sure for _, sure in found]}


def _issues(file, which: np.ndarray, source: Path, found: list[Finding]) -> dict[str, list]:
    """Return the columns of an audit's findings. Raises UserError where they are of another data set."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    known = set(file.ids)
    pairs = [one for one in found if is_copy(one)]
    named = dict.fromkeys([one.id for one in found] + [one.partner for one in pairs])
    if missing := [id for id in named if id not in known]:
        raise UserError(
            f"{source} names {len(missing):,} images that {file.path} doesn't have, such as {printable(missing[0])}: "
            "it belongs to another data set."
        )
    place = {file.ids[i]: row for row, i in enumerate(which.tolist())}
    open_ones = [one for one in found if one.decision != "right" and one.id in place]
    labels = {place[one.id]: one for one in reversed(open_ones) if one.kind == "label"}  # the surest comes first
    outliers = {place[one.id] for one in open_ones if one.kind == "outlier"}
    edges = [(place[one.id], place[one.partner]) for one in open_ones if is_copy(one) and one.partner in place]
    n = len(which)
    start, end = np.array(edges, int).reshape(-1, 2).T
    group = connected_components(coo_array((np.ones(len(start), bool), (start, end)), shape=(n, n)), directed=False)[1]
    members = defaultdict(list)
    for row in sorted({*start.tolist(), *end.tolist()}):
        members[group[row]].append(row)
    sets = [[other for other in members.get(group[row], ())[:MOST_ALIKE] if other != row] for row in range(n)]
    stated = {row: WRONG.search(one.evidence) for row, one in labels.items()}
    return {
        "is_label_issue": [row in labels for row in range(n)],
        "given_label": [_text(file.class_names[k]) for k in file.labels[which]],
        "predicted_label": [_text(labels[row].partner) if row in labels else None for row in range(n)],
        "mistakenness": [min(1.0, float(one[1])) if (one := stated.get(row)) else None for row in range(n)],
        "is_near_duplicate_issue": [bool(one) for one in sets],
        "near_duplicate_sets": sets,
        "is_outlier_issue": [row in outliers for row in range(n)],
    }


def _text(name: str) -> str:
    """Return a name as UTF-8 can hold it, which names from strangers' files may not."""
    return name.encode("utf-8", "backslashreplace").decode()
