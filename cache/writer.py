"""Writing feature files so that a killed run, a full disk or a power cut never costs a finished row.

A new file is built under a temporary name, synced, and renamed to ``<name>.h5.part``. From then on HDF5 isn't used:
rows are written as plain bytes at their place in the file, and are marked in ``done`` only once they are on disk. After
the last row, the measured figures replace their placeholders, which are attributes of fixed size. Then the checksum is
written in front of everything (``cache.seal``), and the file gets its final name.
"""

import contextlib
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from backbench import UserError
from backbench.cache import locking, schema, seal
from backbench.cache.features import FeatureFileError, open_file

SYNC_EVERY = 1.0
"""Seconds between two syncs, after which rows are marked; so much work a power cut may cost."""


def check_existing(path: Path, wanted: dict, *, overwrite: bool = False) -> tuple[str, dict | None]:
    """Check what exists at ``path`` for this request: ``('complete' | 'partial' | 'new', its identity)``.

    A finished file that other versions of timm or torch made still satisfies the request, but an unfinished one must
    not mix versions. Raises FeatureFileError, which names every difference, where the file was made with other
    settings. It is also raised where a finished file is damaged.
    """
    part = schema.part_path(path)
    if overwrite:  # an unfinished file with the same identity is this command's own, and is continued
        with contextlib.suppress(OSError, FeatureFileError), open_file(part, partial=True) as file:
            if not schema.differences(wanted, file.identity, versions=True):
                return "partial", file.identity
        return "new", None
    for place, state in ((path, "complete"), (part, "partial")):
        if os.path.exists(place):  # unlike Path.exists, False in a folder we may not look into
            with open_file(place, partial=state == "partial" or "shard" in wanted) as file:
                lines = schema.differences(wanted, file.identity, versions=state == "partial")
                if lines:
                    raise FeatureFileError(
                        f"{place} was made with other settings:\n  "
                        + "\n  ".join(lines)
                        + "\n--overwrite makes it again; --out FILE or another --cache-dir keeps both."
                    )
                return state, file.identity
    return "new", None


class Writer:
    """An unfinished feature file that is open for writing rows. Leaving the context commits them.

    The file is created if it doesn't exist, or with ``fresh``. ``contents`` (N,) are those that are known already, and
    ``reuse`` lists features that are taken over, as ``(path, rows here (n,), rows there (n,))``. ``held`` says that the
    caller holds its lock (``locking.lock``). Raises UserError where the folder can't be written, the disk is full, or
    another run holds the file.
    """

    def __init__(
        self, path, *, identity, labels, split, ids, class_names, dim, dtype, contents=None, groups=None, reuse=(),
        fresh=False, held=False,
    ):  # fmt: skip
        self.path = Path(path)
        self.part = schema.part_path(self.path)
        with contextlib.ExitStack() as stack:
            if not held:
                stack.enter_context(locking.lock(self.path))
            with locking.write_errors(self.part):
                if fresh or not os.path.exists(self.part):
                    self._create(identity, labels, split, ids, class_names, dim, dtype, contents, groups, reuse)
                self._raw = stack.enter_context(open(self.part, "r+b", buffering=0))
            self._open()
            self._stack = stack.pop_all()

    def _open(self):
        with open_file(self.part, partial=True) as file:
            h5 = file._h5
            self._offset = {name: h5[name].id.get_offset() for name in schema.DATASETS}
            self.dtype, self.dim = h5["features"].dtype, h5["features"].shape[1]
            self.done, self.contents = file.done, file.contents
            self._told = {"ids": file.ids, "labels": file.labels, "split": file.split, "class_names": file.class_names}
            self._digests = {key: file.identity.get(key) for key in schema.DIGESTS}
            self.running: dict[Any, float] = dict(file.running)
        self._unmarked = np.zeros_like(self.done)
        self._synced = time.monotonic()

    def _create(self, identity, labels, split, ids, class_names, dim, dtype, contents, groups, reuse):
        import h5py

        new = self.part.with_name(f"{self.part.name}.{os.getpid()}.new")
        n = len(labels)
        arrays = {
            "labels": np.asarray(labels, np.int64),
            "split": np.asarray(split, np.uint8),
            "ids": schema.fixed(ids),
            "done": np.zeros(n, np.uint8),
            "classes": schema.fixed(class_names),
            "running": np.zeros(len(schema.RUNNING)),
            "contents": np.zeros(n, schema.CONTENT) if contents is None else np.asarray(contents, schema.CONTENT),
        }
        if groups is not None:
            arrays[schema.GROUPS] = schema.fixed(groups)
        placeholders = dict.fromkeys(schema.MEASURED, np.nan) | {
            "device": np.bytes_(b" " * schema.DEVICE_LENGTH),
        }
        try:
            # Space is reserved without HDF5 first, since HDF5 doesn't handle a full disk cleanly.
            locking.reserve(new, n * dim * np.dtype(dtype).itemsize + sum(array.nbytes for array in arrays.values()))
            # 'earliest' keeps headers without checksums, so that changing an attribute in place can't break one.
            with h5py.File(new, "w", libver=("earliest", "v108"), userblock_size=seal.SIZE) as h5:
                _allocate(h5, "features", (n, dim), np.dtype(dtype))
                for name, array in arrays.items():
                    _allocate(h5, name, array.shape, array.dtype)[:] = array
                _take_over(h5, reuse)
                h5.attrs["format"] = schema.FORMAT
                identity = {**schema.PLAIN, **identity, "schema": schema.SCHEMA}
                for key in (*schema.IDENTITY, *(identity.keys() & {schema.SHARD, *schema.OPTIONAL})):
                    blank = key in schema.DIGESTS and identity[key] is None
                    h5.attrs[key] = np.bytes_(b" " * 64) if blank else schema.to_attribute(identity[key])
                for key, value in placeholders.items():
                    h5.attrs[key] = value
            locking.reserve(new, new.stat().st_size)
            os.replace(new, self.part)
            locking.sync(self.part.parent)
        finally:
            new.unlink(missing_ok=True)

    @property
    def pending(self) -> np.ndarray:
        """Indices (n,) int64 of the rows that are still to be computed, in ascending order."""
        return np.flatnonzero(self.done == schema.PENDING)

    @property
    def computed(self) -> np.ndarray:
        """Indices (n,) int64 of the rows that aren't taken over from another file, done or not."""
        return np.flatnonzero(self.done != schema.REUSED)

    def rows(self, index: np.ndarray, features: np.ndarray, *, contents=None, mark: int = schema.DONE) -> None:
        """Write ``features`` (n, D) to the rows ``index`` (n,). The next commit marks them with ``mark``.

        ``contents`` (n,) are those of their images, where they weren't known when the file was created.
        """
        values = np.ascontiguousarray(features, self.dtype)
        if contents is not None:
            self.contents[index] = contents
        with locking.write_errors(self.part):
            for start, stop in _runs(index):
                self._write("features", index[start] * self.dim, values[start:stop])
                if contents is not None:
                    self._write("contents", index[start], self.contents[index[start:stop]])
        self._unmarked[index] = mark
        if time.monotonic() - self._synced > SYNC_EVERY:
            self.commit()

    def skip(self, index: np.ndarray, *, contents=None) -> None:
        """Leave out the rows ``index`` (n,) for good: they become NaN and are marked as skipped."""
        self.rows(index, np.full((len(index), self.dim), np.nan), contents=contents, mark=schema.SKIPPED)

    def copy(self, index: np.ndarray, origin: np.ndarray) -> None:
        """Give the rows ``index`` (n,) the features and contents of the rows ``origin`` (n,), which are written."""
        size = self.dim * self.dtype.itemsize
        for row, source in zip(index, origin, strict=True):
            self._raw.seek(self._offset["features"] + int(source) * size)
            values = np.frombuffer(self._raw.read(size), self.dtype)
            self.rows(np.array([row]), values[None], contents=self.contents[[source]])

    def commit(self) -> None:
        """Sync the rows to disk, then mark them."""
        with locking.write_errors(self.part):
            os.fsync(self._raw.fileno())
            marked = np.flatnonzero(self._unmarked)
            self.done[marked] = self._unmarked[marked]
            for start, stop in _runs(marked):
                self._write("done", marked[start], self.done[marked[start:stop]])
            self._write("running", 0, np.array([self.running[k] for k in schema.RUNNING]))
        self._unmarked[:] = 0
        self._synced = time.monotonic()

    def _write(self, dataset: str, position: int, values: np.ndarray) -> None:
        self._raw.seek(self._offset[dataset] + int(position) * values.itemsize)
        left = values.reshape(-1).view(np.uint8).data
        while left:  # an unbuffered write may take less than all
            left = left[self._raw.write(left) :]

    def finish(self, *, device: str) -> Path:
        """Write the measured figures and the checksum, sync, and give the file its final name.

        Raises ValueError where a row is still pending.
        """
        import h5py

        self.commit()
        if self.pending.size:
            raise ValueError(f"{self.pending.size} rows are pending")
        done = np.where(self.done == schema.REUSED, schema.DONE, self.done).astype(np.uint8)
        run = self.running
        count = run["input_count"] or np.nan
        mean = run["input_sum"] / count
        figures = {
            "input_mean": mean,
            "input_std": np.sqrt(max(run["input_squares"] / count - mean**2, 0.0)) if run["input_count"] else np.nan,
            "images_per_second": run["images"] / run["seconds"] if run["seconds"] else np.nan,
            "seconds": run["seconds"],
            "device": np.bytes_(device.encode()[: schema.DEVICE_LENGTH].ljust(schema.DEVICE_LENGTH)),
        }
        if not self._digests["dataset_digest"]:
            figures |= {key: np.bytes_(value.encode()) for key, value in self._image_digests().items()}
        with locking.write_errors(self.part):
            self._write("done", 0, done)
            with h5py.File(self.part, "r+", locking=False) as h5:
                for key, value in figures.items():
                    h5.attrs.modify(key, value)
            seal.put(self.part)
            os.fsync(self._raw.fileno())
            os.replace(self.part, self.path)
            locking.sync(self.path.parent)
        return self.path

    def _image_digests(self) -> dict[str, str]:
        told = {key: self._told[key] for key in ("ids", "labels", "split", "class_names")}
        return schema.image_digests(self.contents, **told)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        try:
            if self._unmarked.any():
                self.commit()
        except UserError:
            if kind is None:
                raise
        finally:
            self._stack.close()


def _allocate(h5, name: str, shape, dtype):
    """Create a contiguous HDF5 dataset whose place in the file is fixed at once."""
    import h5py

    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_layout(h5py.h5d.CONTIGUOUS)
    plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    dataset = h5py.h5d.create(
        h5.id, name.encode(), h5py.h5t.py_create(dtype, logical=True), h5py.h5s.create_simple(shape), plist
    )
    return h5py.Dataset(dataset)


def _take_over(h5, reuse) -> None:
    """Copy features, contents and marks from other feature files, a block of rows at a time."""
    for path, here, there in reuse:
        with open_file(path, partial=True) as file:
            for block in np.array_split(np.arange(len(here)), max(1, len(here) >> 14)):
                to, at = here[block], there[block]
                for start, stop in _runs(to):
                    h5["features"][to[start] : to[stop - 1] + 1] = file.features[at[start:stop]]
            marks = file.done[there]
        done = h5["done"][:]
        done[here] = np.where(marks == schema.SKIPPED, schema.SKIPPED, schema.REUSED)
        h5["done"][:] = done


def _runs(index: np.ndarray):
    """Yield the start and stop of each stretch of consecutive numbers in ``index``."""
    if len(index):
        cuts = np.flatnonzero(np.diff(index) != 1) + 1
        yield from zip([0, *cuts], [*cuts, len(index)], strict=True)


def write(path, *, features, labels, split, ids, class_names, identity) -> Path:
    """Write a whole feature file at once from arrays in memory, with features (N, D) float32 or float16."""
    from backbench.cache.writer import Writer

    with Writer(
        path,
        identity=identity,
        labels=labels,
        split=split,
        ids=ids,
        class_names=class_names,
        dim=features.shape[1],
        dtype=features.dtype,
    ) as writer:
        writer.rows(np.arange(len(features)), features)
        return writer.finish(device="cpu")
