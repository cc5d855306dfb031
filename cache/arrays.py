"""Features that lie in memory, or in an .npz file, as a feature file is read: one's own embeddings, of whatever origin.

What they are is told by digests of the arrays, since nothing else is known of them.
"""

import hashlib
import json
import math
import zipfile
from collections import Counter
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from backbench import SPLITS, Faults, UserError, grouped
from backbench.cache import equal, schema
from backbench.split_rule import TEST, folder_rule

MADE_BY_USER = "arrays"
"""What stands for the weights, and unless they are named for the data set, of features that came as arrays."""

IN_MEMORY = Path("features in memory")
"""Stands for the path of what has none."""

SEED = 42
"""Of the split of an .npz file that holds none. As in a feature file, the seed of a probe doesn't move the split."""

KEYS = ("x", "labels", "split", "ids", "class_names", "groups")
"""Arrays of an .npz file that are read; the first two must be there."""

MOST_BYTES = 64 << 30
"""No .npz file is read whose arrays take more."""

MOST_RATIO, SMALL = 100, 64 << 20
"""Nor one whose arrays take more than ``SMALL`` bytes and ``MOST_RATIO`` times what they take in the file: a few
kilobytes from a stranger may not fill the memory. Real features shrink by a tenth."""


class Features:
    """N images' features in memory, with what a head needs to know of them; it is used as an open feature file is.

    ``x`` (N, D) is an array of numbers, kept as float16 or float32. ``labels`` (N,) are the classes' numbers or their
    names; None where they aren't known, which is enough to predict. ``split`` (N,) holds the codes 0, 1, 2 or the names
    train, val, test; None splits as a folder of classes is (``split_rule.folder_rule``): about 70, 10 and 20 % of each
    class, drawn by ``seed`` and ``ids``. ``ids`` (N,) are the images' names, each another; None numbers them.
    ``class_names`` (K,) are what labels 0..K-1 are called; None takes the labels themselves, sorted. ``groups`` (N,)
    are names of what images belong to beside their class, such as a patient; without ``split`` they are drawn whole.

    ``x`` is not copied where it needs no other dtype: it must stay as it is.
    ``model`` and ``dataset`` are what tables call them. Two sets of features are of the same images if their ids,
    labels and class names are equal, and the same features if ``x`` is.

    Raises UserError, with all faults at once, where the arrays don't fit each other or hold NaN or infinity.
    """

    def __init__(
        self, x, labels=None, *, split=None, ids=None, class_names=None, groups=None, seed: int = SEED,
        model: str = "features", dataset: str = MADE_BY_USER, path: Path = IN_MEMORY,
    ):  # fmt: skip
        self.path, self.labelled = Path(path), labels is not None
        faults = Faults()

        def fit(take, *arguments):
            with faults.collect():
                try:
                    return take(*arguments)
                except (ValueError, UserError) as error:
                    raise UserError(f"{self.path}: {error}.") from None

        self.features = fit(_features, x)
        faults.stop()
        n = len(self.features)
        self.ids = [f"{i:06d}" for i in range(n)] if ids is None else fit(_names, ids, n, "ids")
        self.groups = None if groups is None else fit(_groups, groups, n)
        self.labels, self.class_names = fit(_labels, labels, n, class_names) or (None, None)
        if split is not None:
            self.split = fit(_split, split, n)
        elif labels is None:
            self.split = np.full(n, TEST, np.int8)
        elif not faults.errors and self.groups is not None:
            self.split = fit(partial(grouped.draw, seed=seed), self.labels, self.groups)
        elif not faults.errors:
            self.split = folder_rule(self.ids, self.labels, seed=seed)
        if len(broken := self.not_finite()):
            named = ", ".join(f"{i}" for i in broken[:5])
            with faults.collect():
                raise UserError(
                    f"{self.path}: x has NaN or infinite features in {len(broken):,} of {n:,} rows: {named}."
                )
        faults.stop()
        self.identity = self._identity(seed, model, dataset)
        self.measured = dict.fromkeys(schema.MEASURED)

    @classmethod
    def of_file(cls, file) -> "Features":
        """What an open feature file holds, brought into memory, with the file's own identity; rows left out are not."""
        rows = np.flatnonzero(file.done == schema.DONE)
        found = cls.__new__(cls)
        found.path, found.labelled = IN_MEMORY, True
        found.features, found.labels, found.split = file.features[rows], file.labels[rows], file.split[rows]
        found.ids, found.class_names = [file.ids[i] for i in rows], file.class_names
        found.groups = None if file.groups is None else file.groups[rows]
        found.identity, found.measured = file.identity, file.measured
        return found

    complete, covers = True, schema.ARRAYS
    """Said as of a file: nothing is pending, and ``sha256`` is that of the features alone."""

    @property
    def sha256(self) -> str | None:
        """The digest of the features."""
        return self.identity.get(schema.ARRAYS_DIGEST)

    @cached_property
    def done(self) -> np.ndarray:
        """All rows are done, (N,) u1."""
        return np.full(len(self.features), schema.DONE, np.uint8)

    @cached_property
    def equal(self) -> np.ndarray:
        """A number that rows of equal features share, -1 where there is no equal: (N,) int64, see ``cache.equal``."""
        return equal.groups(self.features, self.done == schema.DONE)

    def not_finite(self) -> np.ndarray:
        """Rows that hold NaN or infinity, (n,) int64."""
        blocks = [np.isfinite(block).all(axis=1) for block in schema.blocks(self.features)]
        return np.flatnonzero(~np.concatenate(blocks))

    def __len__(self) -> int:
        return len(self.features)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        """Nothing is open."""

    def _identity(self, seed: int, model: str, dataset: str) -> dict:
        test = np.flatnonzero(self.split == TEST)
        listing = [self.ids, self.labels.tolist(), self.class_names]
        x = hashlib.sha256(f"{self.features.shape}{self.features.dtype.str}".encode())
        for block in schema.blocks(self.features):
            x.update(np.ascontiguousarray(block).data)
        return {
            **dict.fromkeys(schema.IDENTITY),
            **schema.PLAIN,
            "schema": schema.SCHEMA,
            "model": model,
            "weights": MADE_BY_USER,
            "transform": {},
            "dtype": str(self.features.dtype),
            "dataset": dataset,
            "dataset_digest": _digest([*listing, self.split.tolist()]),
            "images_digest": _digest(listing),
            "test_digest": _digest([[self.ids[i] for i in test], self.labels[test].tolist(), self.class_names]),
            "seed": seed,
            "input_scale": 1.0,
            "versions": {},
            schema.ARRAYS_DIGEST: x.hexdigest(),
        }


def open_npz(path: Path) -> Features:
    """The features in an .npz file with the arrays ``KEYS``, as ``Features`` takes them, called by the file's name.

    The file may come from a stranger: nothing is unpickled, and sizes are looked at before anything is read. Raises
    UserError where it can't be used.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
            if missing := [key for key in KEYS[:2] if key not in entries]:
                raise UserError(
                    f"{path} lacks {' and '.join(missing)}: the arrays {', '.join(KEYS)} are read, the last four "
                    f"where they are there. It holds {', '.join(map(repr, list(entries)[:10])) or 'nothing'}."
                )
            arrays = {key: _array(archive, entries[key]) for key in KEYS if key in entries}
    except UserError:
        raise
    except Exception as error:  # of any kind: in a damaged file anything may stand in place of what zipfile expects
        told = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path} can't be read as .npz ({told}). Write it again with numpy.savez.") from None
    given: dict[str, Any] = arrays
    return Features(**given, model=path.stem, path=path)


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    """One array of the archive, whose size is known to be bearable before it is read."""
    from numpy.lib import format

    stored = min(entry.compress_size, Path(str(archive.filename)).stat().st_size)
    if entry.file_size > MOST_BYTES or entry.file_size > max(SMALL, MOST_RATIO * stored):
        raise UserError(
            f"{archive.filename}: {entry.filename} takes {stored:,} bytes and would fill {entry.file_size:,}: not read."
        )
    with archive.open(entry) as file:
        version = format.read_magic(file)
        header = format.read_array_header_1_0 if version == (1, 0) else format.read_array_header_2_0
        shape, _, dtype = header(file)
    if dtype.hasobject:
        raise UserError(
            f"{archive.filename}: {entry.filename} holds Python objects, which may run code and are not read. "
            "Write numbers, or text as an array of dtype str."
        )
    # numpy allocates what the header says; it is a stranger's number.
    if math.prod(shape) * dtype.itemsize > entry.file_size:
        raise ValueError(
            f"{entry.filename} is said to have shape {shape}, of which {entry.file_size:,} bytes are there"
        )
    with archive.open(entry) as file:
        return format.read_array(file, allow_pickle=False)


def _features(x) -> np.ndarray:
    """(N, D) float16 or float32, not copied where it is that already. Raises ValueError saying what it is instead."""
    try:
        found = np.asarray(x)
    except (TypeError, ValueError, RuntimeError) as error:  # rows of unequal lengths, a tensor on a GPU
        raise ValueError(f"x is no array of numbers: {error}") from None
    if found.ndim != 2 or not found.size or found.dtype.kind not in "fiu":
        raise ValueError(
            f"x has shape {found.shape} and dtype {found.dtype}, numbers of shape (images, features) expected"
        )
    with np.errstate(over="ignore"):  # what float32 can't hold is named as infinite
        found = found if found.dtype == np.float16 else found.astype(np.float32, copy=False)
    return np.ascontiguousarray(found)


def _texts(values) -> np.ndarray:
    """``values`` as an array of text where they are text, else as they are."""
    found = np.asarray(values)
    if found.dtype.kind == "S":
        return np.char.decode(found, "utf-8", "surrogateescape")
    if found.dtype.kind == "O" and all(isinstance(value, str) for value in found.ravel()):
        return found.astype(str)
    return found


def _names(values, n: int, what: str) -> list[str]:
    """(n,) names as text. Raises ValueError where there are others than n, or one twice."""
    found = _texts(values)
    if found.shape != (n,):
        raise ValueError(f"{what} has shape {found.shape}, ({n},) expected")
    names = [str(value) for value in found.tolist()]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"{what} has names that occur twice: {', '.join(twice[:5])}")
    return names


def _groups(values, n: int) -> np.ndarray:
    """(n,) str. Raises ValueError where there are others than n."""
    found = _texts(values)
    if found.shape != (n,):
        raise ValueError(f"groups has shape {found.shape}, ({n},) expected")
    if lacking := [i for i, value in enumerate(values) if value is None or value != value or value == ""]:
        raise ValueError(f"groups lacks {len(lacking):,} of {n:,} rows: {', '.join(map(str, lacking[:5]))}")
    return found.astype(str)


def _labels(labels, n: int, class_names) -> tuple[np.ndarray, list[str]]:
    """(n,) int64 and the class names they number. Raises ValueError saying what doesn't fit."""
    names = None if class_names is None else _names(class_names, np.size(class_names), "class_names")
    if labels is None:
        return np.zeros(n, np.int64), names or ["unlabelled"]
    found = _texts(labels)
    if found.shape != (n,):
        raise ValueError(f"labels has shape {found.shape}, ({n},) expected: one a row of x")
    if found.dtype.kind == "f" and (found == np.rint(found)).all():  # as tables with gaps elsewhere give them
        found = found.astype(np.int64)
    if found.dtype.kind not in "iubU":
        raise ValueError(f"labels has dtype {found.dtype}: the classes' numbers or names are expected")
    if names is None or found.dtype.kind == "U":
        values, labels = np.unique(found, return_inverse=True)
        values = [str(value) for value in values.tolist()]
        if names is None:
            return labels.reshape(n).astype(np.int64), values
        if unknown := sorted({*values} - {*names}):
            raise ValueError(f"labels has names that class_names lacks: {', '.join(unknown[:5])}")
        return np.array([names.index(value) for value in values], np.int64)[labels.reshape(n)], names
    if found.min() < 0 or found.max() >= len(names):
        raise ValueError(f"labels are {found.min()} to {found.max()}, class_names has names for 0 to {len(names) - 1}")
    return found.astype(np.int64), names


def _split(split, n: int) -> np.ndarray:
    """(n,) int8 from codes or names. Raises ValueError saying what doesn't fit."""
    found = _texts(split)
    if found.shape != (n,):
        raise ValueError(f"split has shape {found.shape}, ({n},) expected: one a row of x")
    values, at = np.unique(found, return_inverse=True)
    codes = {**{name: code for code, name in enumerate(SPLITS)}, 0: 0, 1: 1, 2: 2}
    if unknown := [repr(value) for value in values.tolist() if value not in codes]:
        raise ValueError(f"split has {', '.join(unknown[:5])}; 0, 1, 2 or {', '.join(SPLITS)} expected")
    return np.array([codes[value] for value in values.tolist()], np.int8)[at.reshape(n)]


def _digest(listing) -> str:
    return hashlib.sha256(json.dumps(listing, separators=(",", ":")).encode()).hexdigest()
