"""A linear head on standardised features, and the folder it is kept in.

``head.safetensors`` holds mean (D,), scale (D,), weights (K, D) and intercept (K,), float32 or float64. ``head.json``
says what they are: format, schema, method, the K class names, the identity of the features they were fitted on, the
result row, and the SHA-256 of the other file. A folder may come from a stranger: nothing in it is believed.
"""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np

from backbench import UserError
from backbench.accuracy import top_k
from backbench.files import write_whole
from backbench.probe.subsets import Subset

TENSORS, ABOUT = "head.safetensors", "head.json"

FORMAT, SCHEMA = "backbench-head", 1

LARGEST = {TENSORS: 4 << 30, ABOUT: 64 << 20}
"""Bytes beyond which a file is not read: 100,000 classes of 5,000 features in float64, and names of 600 bytes."""

BLOCK = 4096
"""Rows scored at a time."""

KEYS = {"schema": int, "sha256": str, "method": str, "classes": list, "identity": dict, "row": dict}
"""What head.json holds besides its format."""


@dataclass(frozen=True)
class LinearHead:
    """Scores ((x - mean) / scale) weights^T + intercept: mean and scale (D,), weights (K, D), intercept (K,)."""

    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    intercept: np.ndarray

    def scores(self, features: np.ndarray) -> np.ndarray:
        """(N, D) to (N, K) float32."""
        x = (features - self.mean.astype(np.float32)) * (1 / self.scale).astype(np.float32)
        return x @ self.weights.T.astype(np.float32) + self.intercept.astype(np.float32)

    def over(self, part: Subset) -> np.ndarray:
        """The scores of a subset, read in blocks, (N, K) float32."""
        scores = np.empty((len(part), len(self.weights)), np.float32)
        for at, x in part.blocks(BLOCK):
            scores[at] = self.scores(x)
        return scores

    def top1(self, part: Subset) -> float:
        """The accuracy on a subset, read in blocks, 0..1."""
        right = sum(top_k(self.scores(x), part.labels[at], k=1).sum() for at, x in part.blocks(BLOCK))
        return float(right / len(part))

    def save(self, folder: str | Path, *, classes: list[str], identity: dict, method: str, row: dict) -> None:
        """Write ``folder``, replacing a head that is there. ``identity`` is the feature file's.

        Raises UserError where the head is of no use (not finite), or can't be written.
        """
        from safetensors.numpy import save

        folder = Path(folder)
        arrays = {}
        for field in fields(self):
            array = getattr(self, field.name)
            # safetensors takes the bytes as they lie in memory.
            arrays[field.name] = np.ascontiguousarray(array, array.dtype if array.dtype == np.float32 else np.float64)
        if faults := [*_misnamed(classes), *_misfits(arrays, len(classes))]:
            raise UserError(*(f"the {method} head can't be stored in {folder}: {fault}" for fault in faults))
        tensors = save(arrays)
        about = {
            "format": FORMAT,
            "schema": SCHEMA,
            "sha256": hashlib.sha256(tensors).hexdigest(),
            "method": method,
            "classes": classes,
            "identity": identity,
            "row": row,
        }
        try:
            # head.json comes last: where the run is stopped between the two, its digest tells that they don't belong.
            write_whole(folder / TENSORS, tensors)
            write_whole(folder / ABOUT, json.dumps(about, indent=1, allow_nan=False).encode())
        except OSError as error:
            raise UserError(f"{folder} can't be written: {error.strerror}. Name another folder.") from error


class Saved(NamedTuple):
    """A stored head: what its folder held."""

    head: LinearHead
    classes: list[str]
    identity: dict
    method: str
    row: dict


def load(folder: str | Path) -> Saved:
    """The head stored in ``folder``. Raises UserError saying what was found there and what was expected."""
    folder = Path(folder)
    about = _about(folder / ABOUT)
    return Saved(_head(folder / TENSORS, about), *(about[key] for key in ("classes", "identity", "method", "row")))


def _about(path: Path) -> dict:
    try:
        about = json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"it is not JSON ({error})") from None
    found = about.get("format") if isinstance(about, dict) else None
    if found != FORMAT:
        raise UserError(f"{path} is no head of backbench: format {found!r} was found, {FORMAT!r} expected.")
    if about.get("schema") != SCHEMA:
        raise UserError(
            f"{path} is a head of schema {about.get('schema')!r}, but this version reads schema {SCHEMA}. "
            "Store it again with the probe command that made it."
        )
    wrong = [
        f"{key} is a {type(about[key]).__name__}, a {kind.__name__} was expected" if key in about else f"without {key}"
        for key, kind in KEYS.items()
        if not isinstance(about.get(key), kind)
    ]
    if faults := wrong or _misnamed(about["classes"]):
        raise _damaged(path, *faults)
    return about


def _head(path: Path, about: dict) -> LinearHead:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    content = _read(path)
    digest = hashlib.sha256(content).hexdigest()
    if digest != about["sha256"]:
        raise _damaged(
            path, f"{len(content):,} bytes of SHA-256 {digest[:12]}, but {ABOUT} belongs to {about['sha256'][:12]}"
        )
    try:
        arrays = load(content)
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, f"not readable as safetensors ({error})") from None
    if faults := _misfits(arrays, len(about["classes"])):
        raise _damaged(path, *faults)
    return LinearHead(**arrays)


def _misfits(arrays: dict[str, np.ndarray], n_classes: int) -> list[str]:
    """Why these arrays aren't a head of so many classes."""
    names = [field.name for field in fields(LinearHead)]
    if sorted(arrays) != sorted(names):
        return [f"holds {', '.join(sorted(arrays)) or 'nothing'}; {', '.join(names)} were expected"]
    weights = arrays["weights"]
    dim = weights.shape[1] if weights.ndim == 2 else 0
    shapes = {"mean": (dim,), "scale": (dim,), "weights": (n_classes, dim), "intercept": (n_classes,)}
    wrong = [
        f"{name} has shape {arrays[name].shape} and dtype {arrays[name].dtype}, "
        f"{shape if dim else '(classes, features)'} in float32 or float64 was expected"
        for name, shape in shapes.items()
        if arrays[name].shape != shape or not dim or arrays[name].dtype not in (np.float32, np.float64)
    ]
    if wrong:
        return wrong
    with np.errstate(over="ignore", divide="ignore"):
        used = arrays | {"scale": np.abs(arrays["scale"]), "1 / scale": 1 / arrays["scale"]}
        unfit = [name for name, array in used.items() if not np.isfinite(array.astype(np.float32)).all()]
    if unfit or (arrays["scale"] <= 0).any():
        return [f"numbers that are not finite in float32, or scales not above 0, in {', '.join(unfit) or 'scale'}"]
    return []


def _misnamed(classes: list) -> list[str]:
    if len(classes) < 2 or not all(isinstance(name, str) for name in classes):
        return [f"{len(classes)} class names; at least two were expected, all of them text"]
    twice = [name for name, n in Counter(classes).items() if n > 1]
    return [f"class names that occur twice: {', '.join(twice[:5])}"] if twice else []


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > LARGEST[path.name]:
            raise UserError(f"{path} has {size:,} bytes; no head of backbench has more than {LARGEST[path.name]:,}.")
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path} can't be read: {error.strerror}. A head is a folder with {TENSORS} and {ABOUT}, as probe makes it."
        ) from None


def _damaged(path: Path, *faults: str) -> UserError:
    return UserError(
        *(f"{path} is damaged: {fault}. Store it again with the probe command that made it." for fault in faults)
    )
