"""Heads on features, linear and of nearest neighbours, and the folder that one is kept in.

``head.safetensors`` holds the head: of a linear one mean (D,), scale (D,), weights (K, D) and intercept (K,), float32
or float64; of nearest neighbours their bank (N, D) as the feature file has it, its labels (N,) and k (1,), int64.
Beside it ``reference.NAME`` (M,) are the scores of val's images, see ``backbench.reference``, and ``outliers.NAME``
the arrays of ``probe.outliers``. ``head.json`` says what they are: format, schema, method, the K class names, the
identity of the features they were fitted on, the result row, and the SHA-256 of the other file. A folder may come from
a stranger: nothing in it is believed.
"""

import hashlib
import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np

from backbench import UserError
from backbench.accuracy import top_k
from backbench.calibration import log_shares
from backbench.files import write_whole
from backbench.probe import head_faults
from backbench.probe.neighbours import votes_of
from backbench.probe.outliers import Outliers
from backbench.probe.subsets import Subset
from backbench.reference import Reference

TENSORS, ABOUT = "head.safetensors", "head.json"

FORMAT, SCHEMA = "backbench-head", 2

READABLE = 1, SCHEMA
"""Schemas that are read. The first has linear heads alone, without reference and outliers."""

LARGEST = {TENSORS: 4 << 30, ABOUT: 64 << 20}
"""Bytes beyond which a file is not read: 100,000 classes of 5,000 features in float64, or a bank of 500,000 images of
2,000 features; and names of 600 bytes."""

BLOCK = 4096
"""Rows scored at a time."""

KEYS = {"schema": int, "sha256": str, "method": str, "classes": list, "identity": dict, "row": dict}
"""What head.json holds besides its format."""


class Head:
    """What linear heads and those of nearest neighbours have in common."""

    def scores(self, features: np.ndarray) -> np.ndarray:
        """(N, D) to (N, K) float32, logits: softmax of them over the temperature are probabilities."""
        raise NotImplementedError

    def arrays(self) -> dict[str, np.ndarray]:
        """What is stored of it, by name."""
        raise NotImplementedError

    def over(self, part: Subset) -> np.ndarray:
        """The scores of a subset, read in blocks, (N, K) float32."""
        n_classes = self.scores(np.empty((0, part.dim), np.float32)).shape[1]
        scores = np.empty((len(part), n_classes), np.float32)
        for at, x in part.blocks(BLOCK):
            scores[at] = self.scores(x)
        return scores

    def top1(self, part: Subset) -> float:
        """The accuracy on a subset, read in blocks, 0..1."""
        right = sum(top_k(self.scores(x), part.labels[at], k=1).sum() for at, x in part.blocks(BLOCK))
        return float(right / len(part))

    def save(
        self, folder: str | Path, *, classes: list[str], identity: dict, method: str, row: dict,
        reference: Reference | None = None, outliers: Outliers | None = None,
    ) -> None:  # fmt: skip
        """Write ``folder``, replacing a head that is there. ``identity`` is the feature file's.

        Raises UserError where the head is of no use (not finite), too large, or can't be written.
        """
        from safetensors.numpy import save

        folder, arrays = Path(folder), self.arrays()
        arrays |= {f"reference.{name}": array for name, array in (reference.scores if reference else {}).items()}
        arrays |= {f"outliers.{name}": array for name, array in (outliers.arrays() if outliers else {}).items()}
        size, most = sum(array.nbytes for array in arrays.values()), LARGEST[TENSORS]
        large = [f"it takes {size:,} bytes, and {most:,} at most are read"] if size > most else []
        if faults := [*head_faults.of_classes(classes), *(large or head_faults.of_arrays(arrays, len(classes)))]:
            raise UserError(*(f"the {method} head can't be stored in {folder}: {fault}" for fault in faults))
        # safetensors takes the bytes as they lie in memory.
        tensors = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
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


@dataclass(frozen=True)
class LinearHead(Head):
    """Scores ((x - mean) / scale) weights^T + intercept: mean and scale (D,), weights (K, D), intercept (K,)."""

    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    intercept: np.ndarray

    @property
    def dim(self) -> int:
        """The number of features, D."""
        return len(self.mean)

    @property
    def n_classes(self) -> int:
        """The number of classes, K."""
        return len(self.weights)

    def scores(self, features: np.ndarray) -> np.ndarray:
        x = (features - self.mean.astype(np.float32)) * (1 / self.scale).astype(np.float32)
        return x @ self.weights.T.astype(np.float32) + self.intercept.astype(np.float32)

    def arrays(self) -> dict[str, np.ndarray]:
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: array if array.dtype == np.float32 else array.astype(np.float64) for name, array in arrays.items()
        }


@dataclass(frozen=True)
class KnnHead(Head):
    """Scores the log of each class's share of the ``k`` nearest neighbours' votes, see ``calibration.log_shares``.

    They are sought in ``bank`` (N, D), float16 or float32, with its ``labels`` (N,).
    """

    bank: np.ndarray
    labels: np.ndarray
    k: int
    n_classes: int

    @property
    def dim(self) -> int:
        """The number of features, D."""
        return self.bank.shape[1]

    def scores(self, features: np.ndarray) -> np.ndarray:
        votes = votes_of(features, Subset(self.bank, self.labels), k=self.k, n_classes=self.n_classes)
        return log_shares(votes, k=self.k).astype(np.float32)

    def arrays(self) -> dict[str, np.ndarray]:
        return {"bank": self.bank, "labels": self.labels.astype(np.int64), "k": np.array([self.k], np.int64)}


class Saved(NamedTuple):
    """A stored head: what its folder holds."""

    head: LinearHead | KnnHead
    classes: list[str]
    identity: dict
    method: str
    row: dict
    reference: Reference | None = None
    """None, as are the outliers, of what an earlier version stored."""
    outliers: Outliers | None = None

    def save(self, folder: str | Path) -> None:
        """Write ``folder``, as ``Head.save``."""
        self.head.save(
            folder, classes=self.classes, identity=self.identity, method=self.method, row=self.row,
            reference=self.reference, outliers=self.outliers,
        )  # fmt: skip


def load(folder: str | Path) -> Saved:
    """The head stored in ``folder``. Raises UserError saying what was found there and what was expected."""
    folder = Path(folder)
    about = _about(folder / ABOUT)
    head, *known = _arrays(folder / TENSORS, about)
    return Saved(head, *(about[key] for key in ("classes", "identity", "method", "row")), *known)


def _about(path: Path) -> dict:
    try:
        about = json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"it is not JSON ({error})") from None
    found = about.get("format") if isinstance(about, dict) else None
    if found != FORMAT:
        raise UserError(f"{path} is no head of backbench: format {found!r} was found, {FORMAT!r} expected.")
    if about.get("schema") not in READABLE:
        raise UserError(
            f"{path} is a head of schema {about.get('schema')!r}, but this version reads schema {SCHEMA}. "
            "Store it again with the probe command that made it."
        )
    wrong = [
        f"{key} is a {type(about[key]).__name__}, a {kind.__name__} was expected" if key in about else f"without {key}"
        for key, kind in KEYS.items()
        if not isinstance(about.get(key), kind)
    ]
    if faults := wrong or head_faults.of_classes(about["classes"]):
        raise _damaged(path, *faults)
    return about


def _arrays(path: Path, about: dict) -> tuple[LinearHead | KnnHead, Reference | None, Outliers | None]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    content, classes = _read(path), about["classes"]
    digest = hashlib.sha256(content).hexdigest()
    if digest != about["sha256"]:
        raise _damaged(
            path, f"{len(content):,} bytes of SHA-256 {digest[:12]}, but {ABOUT} belongs to {about['sha256'][:12]}"
        )
    try:
        arrays = load(content)
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, f"not readable as safetensors ({error})") from None
    if faults := head_faults.of_arrays(arrays, len(classes)):
        raise _damaged(path, *faults)
    head, scores, outliers = head_faults.parts(arrays)
    if "bank" in head:
        found = KnnHead(head["bank"], head["labels"], int(head["k"][0]), len(classes))
    else:
        found = LinearHead(**head)
    return found, Reference(scores) if scores else None, Outliers(**outliers) if outliers else None


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
