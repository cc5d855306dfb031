"""Reading feature files. A file may come from a stranger, so links out of it are refused and its content is checked."""

import glob
import os
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from backbench import UserError
from backbench.cache import arrays, equal, schema, seal
from backbench.progress import step

AGAIN = "Run its extract command again with --overwrite."


class FeatureFileError(UserError):
    """A feature file can't be used. The message says what was found and which command fixes it."""


def find(patterns: Iterable[str | Path]) -> list[Path]:
    """Find the feature files that paths, folders (searched recursively for ``*.h5``) and globs name, sorted, each once.

    Raises UserError, which names every pattern that matches nothing.
    """
    found: dict[Path, None] = {}
    missing = []
    for pattern in map(str, patterns):
        path = Path(pattern)
        if path.is_dir():
            matches = sorted(path.rglob("*.h5"))
        elif path.exists():
            matches = [path]
        else:
            matches = sorted(Path(p) for p in glob.glob(pattern, recursive=True))
        if not matches:
            beside = path.rglob if path.is_dir() else path.parent.glob
            name = "*.h5" if path.is_dir() else glob.escape(path.name)
            unfinished = [str(p) for p in sorted(beside(f"{name}.part"))]
            hint = f" It is unfinished ({', '.join(unfinished)}): run its extract command again to finish it."
            if not unfinished and any(beside(f"{name}.shard-*")):
                unfinished = [pattern]
                hint = f" There are shards of it. Join them: backbench cache merge {pattern}"
            missing.append(
                f"there is no feature file at {pattern}."
                + (hint if unfinished else " Make one: extract --model resnet50 --dataset caltech256")
            )
        found.update(dict.fromkeys(matches))
    if missing:
        raise UserError(*missing)
    return list(found)


class FeatureFile:
    """One open feature file, to be used as a context manager. ``cache.schema`` describes the arrays.

    ``features`` (N, D) float32 or float16 is mapped read-only, not copied.
    """

    def __init__(self, path: Path, h5):
        self.path = path
        self._h5 = h5
        attributes = {k: schema.from_attribute(k, v) for k, v in h5.attrs.items()}
        self.identity = {k: attributes.get(k, schema.PLAIN.get(k)) for k in schema.IDENTITY}
        self.identity |= {k: attributes[k] for k in (schema.SHARD, *schema.OPTIONAL) if k in attributes}
        for key in self.identity.keys() & schema.DIGESTS:
            self.identity[key] = (self.identity[key] or "").strip() or None  # blank until the last image is read
        self.measured = {k: _known(attributes.get(k)) for k in schema.MEASURED}
        self.sha256 = attributes.get("sha256") if self.covers == schema.ARRAYS else seal.read(path)
        self.labels = h5["labels"][:].astype(np.int64)
        self.split = h5["split"][:].astype(np.int8)
        self.done = h5["done"][:]
        self.class_names = _strings(h5["classes"])
        self.contents = h5["contents"][:] if "contents" in h5 else None
        """(N,) S40, see ``cache.schema``; None in files of earlier versions."""
        self.groups = np.array(_strings(h5[schema.GROUPS])) if schema.GROUPS in h5 else None
        self.running = dict(zip(schema.RUNNING, h5["running"][:].tolist(), strict=True))
        dataset = h5["features"]
        self.features = np.memmap(path, dataset.dtype, "r", dataset.id.get_offset(), dataset.shape)

    @cached_property
    def ids(self) -> list[str]:
        """The images' names, one per row."""
        return _strings(self._h5["ids"])

    @cached_property
    def equal(self) -> np.ndarray:
        """A number that rows of equal features share, -1 for other rows, (N,) int64; see ``cache.equal``."""
        return equal.groups(self.features, self.done == schema.DONE)

    @property
    def complete(self) -> bool:
        """Whether every row is done or skipped, and the file has its final name."""
        return bool((self.done != schema.PENDING).all()) and self.path.suffix != ".part"

    @property
    def covers(self) -> str:
        """What the checksum covers: the whole file, or in schema 1 only its arrays."""
        return schema.ARRAYS if self.identity["schema"] == 1 else schema.EVERYTHING

    def not_finite(self) -> np.ndarray:
        """Return the indices (n,) int64 of rows that are done but hold NaN or infinity. The file is read in blocks."""
        finite = [np.isfinite(block).all(axis=1) for block in schema.blocks(self.features)]
        return np.flatnonzero(~np.concatenate(finite) & (self.done == schema.DONE))

    def arrays(self) -> dict[str, np.ndarray]:
        """Return every HDF5 dataset as it lies in the file, by name."""
        return {n: self.features if n == "features" else self._h5[n][:] for n in schema.DATASETS if n in self._h5}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._h5.close()


def _known(figure):
    """Return a measured attribute, or None where it is still a placeholder."""
    if isinstance(figure, str):
        return figure.strip() or None
    return figure if figure is not None and np.isfinite(figure) else None


def _strings(dataset) -> list[str]:
    return [s.decode("utf-8", "surrogateescape") for s in dataset[:].tolist()]


def state(path: str | Path) -> tuple | None:
    """Return what changes when a file is written or replaced: device, inode, size and both times (ns). None if missing.

    With it, a command that has just opened a file with ``check`` need not read all of it again.
    """
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def open_file(path: str | Path, *, partial: bool = False, check: bool = True) -> Any:
    """Open a finished feature file. With ``partial``, an unfinished file or a shard can be opened too.

    The file is read to its last byte and compared with its checksum, unless its name says that it is unfinished. This
    takes about 0.2 s for 150 MB. ``check=False`` skips it, which is meant for listing files, never for using features.
    Returns a FeatureFile. An .npz file of one's own features is read whole, as an ``arrays.Features``.

    Raises FeatureFileError where the file is missing, truncated, no feature file, of another schema, unfinished,
    damaged or a shard. It also does where the file points at others (external links or storage, virtual datasets).
    """
    import h5py

    path = Path(path)
    if not path.is_file():
        raise FeatureFileError(f"{path} is not a file. Make one: extract --model resnet50 --dataset caltech256")
    if path.suffix == ".npz":
        return arrays.open_npz(path)
    whole = check and path.suffix != ".part"
    h5 = None
    try:
        if whole:
            with step(f"comparing {path} with its checksum"):
                fault = seal.broken(path)
            if fault:
                raise FeatureFileError(f"{path} is damaged: {fault}. {AGAIN}")
        # No lock is needed to read a file that is being written, since its layout no longer changes.
        h5 = h5py.File(path, "r", locking=False)
        fault = _fault(h5, path) or _wrong_values(h5, partial=partial)
        if not fault and schema.SHARD in h5.attrs and not partial:
            fault = f"this is a shard, which holds only part of the rows. Join all: backbench cache merge {path.parent}"
        if fault:
            raise FeatureFileError(f"{path}: {fault}")
        file = FeatureFile(path, h5)
        if whole and (fault := _unsealed(file)):
            raise FeatureFileError(f"{path} is damaged: {fault}. {AGAIN}")
        return file
    except BaseException as error:
        if h5:
            h5.close()
        if isinstance(error, UserError) or not isinstance(error, Exception):
            raise
        # h5py raises errors of any kind, since a damaged file may hold anything.
        kind = "can't be read as HDF5" if h5 is None else "is damaged"
        kind = "is truncated" if "truncated" in str(error) else kind
        raise FeatureFileError(f"{path} {kind} ({_in_one_line(error)}). {AGAIN}") from None


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _unsealed(file: FeatureFile) -> str | None:
    """Return what is wrong with the checksum of a file whose seal, if it has one, is intact; or None."""
    if file.covers == schema.EVERYTHING:
        return None if file.sha256 else "it has no checksum, though its name says that it is finished"
    found, written = schema.checksum(file.arrays()), str(file.sha256)
    return None if found == written else f"the checksum of its arrays is {found[:12]}, but {written[:12]!r} is stored"


def _fault(h5, path: Path) -> str | None:
    """Return why this HDF5 file isn't a feature file that can safely be mapped, or None."""
    import h5py

    if h5.attrs.get("format") != schema.FORMAT:
        return "this is an HDF5 file, but not a backbench feature file. Feature files are made by extract."
    if h5.attrs.get("schema") not in schema.READABLE:
        return (
            f"this feature file has schema {h5.attrs.get('schema')}, but this version reads schema {schema.SCHEMA}. "
            f"{AGAIN}"
        )
    size = path.stat().st_size
    names = [name for name in schema.DATASETS if name != "contents" or h5.attrs["schema"] > 2]
    names += [schema.GROUPS] if schema.GROUPS in h5 else []
    for name in names:
        if not isinstance(h5.get(name, getlink=True), h5py.HardLink):
            return f"dataset {name!r} is missing or lies in another file. Such files are refused."
        dataset = h5[name]
        plist = dataset.id.get_create_plist()
        if plist.get_layout() != h5py.h5d.CONTIGUOUS or plist.get_external_count():
            return f"dataset {name!r} is not stored contiguously inside this file. Such files are refused."
        offset = dataset.id.get_offset()
        if dataset.size and (offset is None or offset + dataset.size * dataset.dtype.itemsize > size):
            return f"dataset {name!r} reaches beyond the end of the file. {AGAIN}"
    n = h5["features"].shape[0] if h5["features"].ndim == 2 else -1
    kinds = {"features": "f", "labels": "iu", "split": "iu", "done": "iu", "running": "f"}
    for name in names:
        dataset, kind = h5[name], kinds.get(name, "S")
        length = {"features": n, "classes": dataset.size, "running": len(schema.RUNNING)}.get(name, n)
        if dataset.dtype.kind not in kind or dataset.shape[:1] != (length,) or dataset.ndim != 1 + (name == "features"):
            return f"dataset {name!r} has shape {dataset.shape} and dtype {dataset.dtype}, which extract never writes."
    if n == 0 or h5["features"].dtype not in (np.float16, np.float32):
        return f"features have shape {h5['features'].shape} and dtype {h5['features'].dtype}, which can't be read."
    return None


def _wrong_values(h5, *, partial: bool) -> str | None:
    labels, split, done = h5["labels"][:], h5["split"][:], h5["done"][:]
    bad = [
        *(["labels"] if labels.min() < 0 or labels.max() >= h5["classes"].size else []),
        *(["split"] if split.min() < 0 or split.max() > 2 else []),
        *(["done"] if done.min() < 0 or done.max() > (schema.REUSED if partial else schema.SKIPPED) else []),
    ]
    if bad:
        return f"this file is damaged: values of {', '.join(bad)} are out of range. {AGAIN}"
    pending = int((done == schema.PENDING).sum())
    if pending and not partial:
        return (
            f"this file is unfinished: {pending:,} of {done.size:,} images are pending. Run its extract command again "
            "to finish it."
        )
    return None


def verify(path: str | Path) -> str | None:
    """Read a finished file to its last byte. Return what is wrong and how to fix it, or None where it is whole."""
    try:
        with open_file(path, partial=schema.is_finished_shard(Path(path))) as file:
            broken = file.not_finite()
            return broken_rows(file, broken) if len(broken) else None
    except FeatureFileError as error:
        return str(error)


def broken_rows(file: FeatureFile, rows: np.ndarray) -> str:
    """Return the error for a file whose ``rows`` (n,) hold NaN or infinity."""
    named = ", ".join(file.ids[i] for i in rows[:5])
    done = int((file.done == schema.DONE).sum())
    return (
        f"{file.path} holds NaN or infinite features in {len(rows):,} of {done:,} rows: {named}. "
        "Extract it again with --precision float32 --feature-dtype float32 --overwrite."
    )


def summary(path: Path) -> dict:
    """Return the facts about a finished feature file that results and messages need."""
    # The checksum isn't compared, since it was a moment ago, when the file was finished or found complete.
    with open_file(path, partial=schema.is_finished_shard(path), check=False) as file:
        return {
            "dataset": file.identity["dataset"],
            "model": schema.label(file.identity),
            "weights": file.identity["weights"],
            "path": str(path),
            "n": len(file.done),
            "n_skipped": int((file.done == schema.SKIPPED).sum()),
            "dim": file.features.shape[1],
            "precision": file.identity["precision"],
            "images_per_second": file.measured["images_per_second"],
            "seconds": file.measured["seconds"],
            "device": file.measured["device"],
            "features": {**file.identity, **file.measured, "path": str(path)},
        }
