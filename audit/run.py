"""An audit of the images that feature files were made from: what is wrong with them."""

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from backbench import SPLITS, UserError, findings, grouped, rows
from backbench.audit import duplicates, labels, pixels, shortcuts
from backbench.audit.images import Images
from backbench.cache import features, schema
from backbench.findings import Finding
from backbench.probe.outliers import Outliers
from backbench.probe.subsets import MEMORY_LIMIT, Subset
from backbench.progress import tell
from backbench.split_rule import TEST

SUSPECT = 0.5
"""Least probability that a label is wrong at which it becomes a finding."""

FAR = 3.0
"""How many interquartile ranges above the third quartile of its class an image's distance from it makes an outlier (J.
Tukey 1977: far out)."""

DETAIL = 24
"""Least side in pixels of an image whose pixels are compared: two digits of 8 pixels look as alike as two copies."""

FEW = 2 * labels.FOLDS
"""Number of different images of a class below which its labels aren't judged."""


@dataclass(frozen=True)
class Audit:
    """What was found. ``figures`` are the row's."""

    findings: list[Finding]
    figures: dict
    overlaps: list[tuple[str, str, float]]
    shortcuts: list[shortcuts.Shortcut]
    about: dict[str, tuple[str, str]]
    """The class and the split of each image that is named in a finding, by its id."""
    leaked: set[str]
    """The ids of the test images that have a copy in train or val."""
    mislabelled: set[str]
    """The ids of the test images whose label is suspected."""
    test_ids: list[str]
    identity: dict
    models: list[str]
    seconds: float


def audit(
    patterns,
    *,
    dataset: str | None = None,
    data_root: Path = Path("data/raw"),
    look: bool = True,
    seed: int = 42,
    memory_limit: int = MEMORY_LIMIT,
) -> tuple[Audit, Images | None]:
    """Audit the images of feature files, all of one data set. Return what was found, and the images if they are there.

    With ``look`` the images are read, and pixels decide which of them are near duplicates. Where they are not there,
    features decide, which is told. Raises UserError for files that can't be used, or are of different images.
    """
    started = time.monotonic()
    files = [features.open_file(path) for path in features.find(patterns)]
    try:
        _check(files)
        return _audit(files, dataset, data_root, look, seed, memory_limit, started)
    finally:
        for file in files:
            file.__exit__(None, None, None)


def _check(files: list) -> None:
    """Raise UserError, with all faults at once, for files that can't be audited together."""
    first, faults = files[0], []
    for file in files:
        if str(file.identity.get("views") or "").startswith("rows"):
            faults.append(
                f"{file.path}: it holds several views of an image as rows. Extract it without --views-as rows."
            )
        if len(broken := file.not_finite()):
            faults.append(features.broken_rows(file, broken))
        if file.ids != first.ids or file.identity["dataset_digest"] != first.identity["dataset_digest"]:
            faults.append(
                f"{file.path} holds other images than {first.path}. Name files of one data set and seed at a time: "
                f"backbench audit --features {first.path.parent}"
            )
    if not faults and (first.done == schema.DONE).sum() < 2:
        faults.append(f"{first.path} holds fewer than two images: there is nothing to compare.")
    if faults:
        raise UserError(*faults)


def _audit(files, dataset, data_root, look, seed, memory_limit, started) -> tuple[Audit, Images | None]:
    file = files[0]
    there = np.flatnonzero(np.all([one.done == schema.DONE for one in files], axis=0))
    images = _images(file, dataset, data_root) if look else None
    small = measured = None
    if images:
        small, measured = pixels.look(images, there)
        if unread := int(np.isnan(measured[:, 0]).sum()):
            tell(f"{file.path}: {unread:,} images can't be read now. They are judged by their features.")
        tiny = (measured[:, 3:] < DETAIL).any(axis=1)
        if tiny.any():
            small[tiny] = 0
            tell(
                f"{file.path}: {int(tiny.sum()):,} images are smaller than {DETAIL} pixels, where different images "
                "look alike. Features decide which of them are duplicates."
            )
    found = duplicates.find(files, there, small, memory_limit=memory_limit)
    group = duplicates.groups(found, len(file.ids))[there]
    of, split = file.labels[there], file.split[there]
    figures = duplicates.counts(found, file.labels, file.split)
    leaked = figures.pop("leaked")
    lines = duplicates.findings(found, file.ids, file.labels, file.split, len(files))
    judged, suspected, agree = _suspects(files, there, group, seed, memory_limit)
    overlaps = labels.overlapping(suspected, of[judged], n_classes=len(file.class_names)) if judged.size else []
    wrong = judged[:0] if suspected is None else judged[suspected.probability >= SUSPECT]
    lines += _label_lines(files, there, judged, suspected, agree, overlaps)
    strange, distance = _outliers(file, there, memory_limit)
    lines += [
        Finding(file.ids[there[k]], "outlier", "", f"cosine distance {distance[k]:.2f} from its class")
        for k in strange[np.argsort(-distance[strange])].tolist()
    ]
    names = file.class_names
    named = {name for line in lines for name in (line.id, *([line.partner] if findings.is_copy(line) else []))}
    tested = split[wrong] == TEST
    return Audit(
        findings=lines,
        figures={
            "n_images": len(there),
            **figures,
            "by_pixels": small is not None and bool(small.any()),
            "n_label_suspects": len(wrong),
            "n_label_suspects_test": int(tested.sum()),
            "expected_wrong": None if suspected is None else suspected.expected,
            "n_outliers": len(strange),
        },
        overlaps=[(names[i], names[j], share) for i, j, share in overlaps],
        shortcuts=[] if measured is None else shortcuts.find(measured, [file.ids[i] for i in there], of, group),
        about={
            file.ids[i]: (names[file.labels[i]], SPLITS[file.split[i]]) for i in there.tolist() if file.ids[i] in named
        },
        leaked={file.ids[i] for i in leaked.tolist()},
        mislabelled={file.ids[i] for i in there[wrong[tested]].tolist()},
        test_ids=[file.ids[i] for i in there[split == TEST].tolist()],
        identity=file.identity,
        models=[schema.label(one.identity) for one in files],
        seconds=time.monotonic() - started,
    ), images


def _images(file, dataset: str | None, data_root: Path) -> Images | None:
    try:
        return Images.of(file, dataset, data_root=data_root)
    except UserError as error:
        if dataset:
            raise
        tell(f"{file.path}: its images are not looked at: {error}")
        return None


def _suspects(files, there: np.ndarray, group: np.ndarray, seed: int, memory_limit: int):
    """Return which of the rows ``there`` (n,) have labels that are judged, as places in it (m,), and what is found.

    That is what is suspected of them, None where none is judged, and how many backbones suggest the same class, (m,).
    """
    file = files[0]
    of = file.labels[there]
    counts = grouped.per_class(of, group)
    enough = np.append(counts, np.zeros(len(file.class_names) - len(counts), int)) >= FEW
    judged = np.flatnonzero(enough[of])
    if (left := int((~enough[np.unique(of)]).sum())) and enough.sum() > 1:
        tell(f"{file.path}: labels of {left:,} classes with fewer than {FEW} different images are not judged")
    if enough.sum() < 2:
        tell(f"{file.path}: labels are not judged, which takes two classes of {FEW} different images")
        return judged[:0], None, np.zeros(0, int)
    known = np.cumsum(enough) - 1
    names = np.flatnonzero(enough)
    each = [
        labels.out_of_fold(
            one.features, there[judged], known[of[judged]], group[judged], n_classes=len(names), seed=seed,
            memory_limit=memory_limit,
        )
        for one in files
    ]  # fmt: skip
    own = [labels.suspects(one, known[of[judged]]) for one in each]
    found = labels.suspects(np.mean(each, axis=0), known[of[judged]])
    agree = np.sum([one.suggested == found.suggested for one in own], axis=0)
    return judged, labels.Suspects(found.probability, names[found.suggested], found.expected), agree


def _label_lines(files, there, judged, found, agree, overlaps) -> list[Finding]:
    if found is None:
        return []
    file, names = files[0], files[0].class_names
    shared = {frozenset(pair[:2]) for pair in overlaps}
    lines = []
    for k in np.argsort(-found.probability, kind="stable").tolist():
        if found.probability[k] < SUSPECT:
            break
        row, suggested = int(there[judged[k]]), int(found.suggested[k])
        told = [f"wrong with probability {found.probability[k]:.2f}", f"labelled {names[file.labels[row]]}"]
        told += [f"suggested by {agree[k]} of {len(files)} backbones"] if len(files) > 1 else []
        told += ["these two classes overlap"] if frozenset((int(file.labels[row]), suggested)) in shared else []
        lines.append(Finding(file.ids[row], "label", names[suggested], "; ".join(told)))
    return lines


def _outliers(file, there: np.ndarray, memory_limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the places in ``there`` (n,) of outliers, and the cosine distance of all from the nearest class, (n,)."""
    part = Subset(file.features, file.labels[there], there, memory_limit=memory_limit)
    distance = Outliers.of_train(part).over(part)
    strange = np.zeros(len(there), bool)
    for label in np.unique(part.labels):
        at = np.flatnonzero(part.labels == label)
        low, high = np.quantile(distance[at], (0.25, 0.75))
        strange[at] = distance[at] > high + FAR * (high - low)
    return np.flatnonzero(strange), distance


def decided(lines: list[Finding], path: Path) -> list[Finding]:
    """Return the findings with the decisions that the file ``path``, if it is there, holds about the same findings.

    Decisions about findings that are no longer made are kept, too. Raises UserError for a file that isn't an audit.csv.
    """
    if not path.exists():
        return lines
    before = {(one.id, one.kind, one.partner): one for one in findings.read(path) if one.decision}
    found = [
        replace(line, decision=one.decision) if (one := before.pop((line.id, line.kind, line.partner), None)) else line
        for line in lines
    ]
    return [*found, *before.values()]


def row_of(found: Audit, answers: dict, *, csv: Path, seed: int) -> dict:
    """Return the result row of an audit. ``answers`` says whether the ranking holds, as ``answer.verdict`` gives it."""
    return rows.make(
        "audit",
        dataset=found.identity["dataset"],
        model=" + ".join(found.models),
        method="audit",
        seed=seed,
        figures=found.figures | answers,
        protocol={
            "csv": str(csv),
            "near_duplicates": "cosine of whitened features, of colours and of edges",
            "labels": f"confident learning, {labels.FOLDS} folds of logistic heads",
            "outliers": "cosine distance to the nearest class mean, far out by Tukey's fences",
        },
        settings={"folds": labels.FOLDS, "suspect": SUSPECT},
        features=found.identity,
        device="cpu",
        seconds=found.seconds,
    )
