"""The layout of a feature file, defined once for its writer and its reader.

========== ================= ==============================================================
dataset    shape, dtype      content
========== ================= ==============================================================
features   (N, D) f4 or f2   pooled pre-logits features; NaN in rows that were skipped
labels     (N,) i8           index into class_names
split      (N,) u1           0 train, 1 val, 2 test
ids        (N,) S<longest>   image name, UTF-8
done       (N,) u1           0 pending, 1 done, 2 skipped (its image could not be read)
classes    (K,) S<longest>   class names, UTF-8
contents   (N,) S40          what the features belong to, see below; empty where an image was not read
groups     (N,) S<longest>   what images belong to beside their class, such as a patient; only where that is known
running    (5,) f8           seconds, images; count, sum and squares of the normalised input
========== ================= ==============================================================

Features belong to images, which are told by their content (``backbench.image_digests``), followed by ``#2`` for the
third view of an image. Ids, labels, split, classes and groups are the data set's as it was when the file was written.
Where the data set changes, the features of images that are still there are taken over, see ``cache.reuse``.

Every HDF5 dataset is contiguous and allocated in full when the file is created, so a row is a plain range of bytes in
the file. It is written without touching HDF5's own metadata, and read by mapping. The identity (what the features are)
and the measured figures are attributes of the root group, with dictionaries stored as JSON. The checksum lies in front
of HDF5's own bytes, see ``cache.seal``.
"""

import hashlib
import itertools
import json
import mmap
import re
from pathlib import Path
from typing import Any, cast

import numpy as np

from backbench import SPLITS
from backbench import image_digests as digests

FORMAT = "backbench-features"
SCHEMA = 3
READABLE = (1, 2, 3)
"""Schemas that can be read. In schema 1 the checksum is an attribute and covers the arrays without ``running``. Later
it covers the whole file, see ``cache.seal``. Before schema 3 there were no contents, and the digests of data sets were
made of names and sizes."""

EVERYTHING, ARRAYS = "everything", "arrays only"
"""Words for what a checksum covers."""

PENDING, DONE, SKIPPED, REUSED, LEFT_OUT = range(5)
"""Marks of rows. REUSED is DONE, taken over from another file. It occurs only in unfinished files, whose other rows are
grouped to batches without these. LEFT_OUT is in no file: such rows are left out when it is read (``cache.decided``)."""

NO_SPLIT = len(SPLITS)
"""The code of rows that are in no split. It is in no file, as LEFT_OUT."""

DATASETS = ("features", "labels", "split", "ids", "done", "classes", "running", "contents")
GROUPS = "groups"
"""The dataset that not every file has."""

CONTENT = "S40"
"""The dtype of contents: ``backbench.image_digests.CONTENT``, with room for the number of a view."""

RUNNING = ("seconds", "images", "input_count", "input_sum", "input_squares")
IDENTITY = (
    "schema",
    "model",
    "weights",
    "weights_sha256",
    "transform",
    "pooling",
    "layer",
    "pool",
    "views",
    "dtype",
    "precision",
    "compiled",
    "dataset",
    "dataset_digest",
    "seed",
    "input_scale",
    "versions",
)
"""Attributes that say what the features are. Two files with equal identities hold the same features."""
OPTIONAL = ("images_digest", "test_digest")
"""Attributes of the identity that older files lack: the digest of the images whatever their split, and that of the test
images."""
DIGESTS = ("dataset_digest", *OPTIONAL)
"""Digests of the images, see ``backbench.image_digests``. They are known when the last image was read."""
OF_IMAGES = ("dataset", "seed", *DIGESTS)
"""Attributes about the data set. They say nothing about the features of an image, and aren't compared."""
SHARD = "shard"
"""Attribute of a file that holds only part of the rows: ``rows`` [start, stop), ``of`` how many, the ``batch_size``
that they were grouped by, and the ``listing`` of the whole data set. See cache.shards."""
ARRAYS_DIGEST = "arrays_digest"
"""Attribute of features that came as arrays (``cache.arrays``): the SHA-256 of the features themselves."""
DICTIONARIES = ("transform", "versions", SHARD)
"""Attributes that are dictionaries."""

PLAIN = {"layer": "last", "pool": "default", "views": "plain"}
"""Values of identity keys that older files lack, written before there was a choice: timm's own features of the
centre."""

MEASURED = ("input_mean", "input_std", "images_per_second", "seconds", "device")
DEVICE_LENGTH = 96
"""Number of bytes reserved for the device's name, since attributes are created in full and only changed in place."""


def part_path(path: Path) -> Path:
    """Return the name that an unfinished file has until its last row and its checksum are written."""
    return path.with_name(path.name + ".part")


def is_finished_shard(path: Path) -> bool:
    """Whether the name is that of a finished shard, as ``cache.shards.path_of`` gives it."""
    return bool(re.fullmatch(r".+\.shard-\d+-of-\d+", Path(path).name))


def label(identity: dict) -> str:
    """Return the features' name in file names, rows and tables: the model, and layer, pooling and views if not default.

    Examples are ``resnet50``, ``resnet50.layer3.gem`` and ``resnet50.mean5``.
    """
    layer, pool, views = (identity.get(key) or plain for key, plain in PLAIN.items())
    apart = [] if (layer, pool) == ("last", "default") else [layer, identity["pooling"]]
    return ".".join([identity["model"], *apart, *([] if views == "plain" else [views])])


def image_digests(contents: np.ndarray, ids, labels, split, class_names) -> dict[str, str]:
    """Compute the digests of the images of N rows, as ``backbench.image_digests.digests``.

    An image may have several rows, one for each view, and is counted once. ``contents`` (N,) are S40.
    """
    first = np.char.find(contents, b"#") < 0
    told = {"ids": ids, "labels": labels, "split": split}
    told = {key: np.asarray(value)[first] for key, value in told.items()}
    return digests.digests(contents[first], **told, class_names=class_names)


def key(identity: dict) -> str:
    """Return a text that is the same for equal identities only."""
    return repr([identity.get(name) for name in IDENTITY])


def to_attribute(value):
    return json.dumps(value, sort_keys=True) if isinstance(value, dict) else value


def from_attribute(key: str, value):
    if isinstance(value, bytes):
        value = value.decode()
    if key in DICTIONARIES:
        return json.loads(value)
    return value.item() if isinstance(value, np.generic) else value


def fixed(strings: list[str]) -> np.ndarray:
    """Encode strings as fixed-length UTF-8, which lies in the file as plain bytes."""
    encoded = [s.encode("utf-8", "surrogateescape") for s in strings]
    return np.array(encoded, dtype=f"S{max(map(len, encoded), default=1) or 1}")


def checksum(arrays: dict[str, np.ndarray]) -> str:
    """Compute the checksum of schema 1: SHA-256 over name, shape, dtype and bytes of the arrays before ``running``."""
    digest = hashlib.sha256()
    for name in DATASETS[: DATASETS.index("running")]:
        if name in arrays:
            array = arrays[name]
            digest.update(f"{name}{array.shape}{array.dtype.str}".encode())
            for block in blocks(array):
                digest.update(np.ascontiguousarray(block).view(np.uint8).data if block.size else b"")
    return digest.hexdigest()


def blocks(array: np.ndarray):
    """Yield the array in blocks of some 16 MB. A mapped array is mapped block by block, so only one is in memory."""
    n = max(1, array.nbytes >> 24)
    if not (isinstance(array.base, mmap.mmap) and len(array)):  # numpy loses the offset of a slice
        yield from np.array_split(array, n)
        return
    mapped, ends = cast(Any, array), np.linspace(0, len(array), n + 1).astype(int)
    for start, stop in itertools.pairwise(ends):
        offset = mapped.offset + start * array[0].nbytes
        yield np.memmap(mapped.filename, array.dtype, "r", int(offset), (stop - start, *array.shape[1:]))


def parts(array: np.ndarray, which: np.ndarray):
    """Yield for each of ``blocks`` the place of its rows in ``which``, a slice, and these rows as float32 (m, D).

    ``which`` (n,) are rows in ascending order. Blocks without any are passed over. A mapped array is never mapped as a
    whole, so that memory stays flat.
    """
    first = 0
    for block in blocks(array):
        start, stop = np.searchsorted(which, (first, first + len(block)))
        if stop > start:
            yield slice(start, stop), np.asarray(block[which[start:stop] - first], np.float32)
        first += len(block)


def differences(wanted: dict, found: dict, *, versions: bool, than: str = "this run") -> list[str]:
    """Return the differences between two identities, one line per key. A wanted None leaves the key open.

    The versions are compared only with ``versions``, and so is the schema: all schemas hold the same features, but a
    file is continued as it was begun. ``than`` names whose identity is wanted.
    """
    lines = []
    for key in (*IDENTITY, SHARD):
        if key in OF_IMAGES:
            continue
        want, have = (of.get(key, PLAIN.get(key)) for of in (wanted, found))
        if want is None or want == have or (key in ("schema", "versions") and not versions):
            continue
        if isinstance(want, dict) and isinstance(have, dict):
            inner = [k for k in sorted({*want, *have}) if want.get(k) != have.get(k)]
            if key == "versions":  # backbench's own version only names the code
                inner = [k for k in inner if k in want and (k != "backbench" or "code" in inner)]
            lines += [f"{key}.{k}: the file has {have.get(k)!r}, {than} {want.get(k)!r}" for k in inner]
        else:
            lines.append(f"{key}: the file has {have!r}, {than} {want!r}")
    return lines


def default_path(cache_dir: Path, dataset: str, label: str) -> Path:
    """Return ``<cache_dir>/<dataset>/<label>.h5``, with names that every file system accepts."""
    folder, file = (re.sub(r'[/\\:*?"<>|]', "-", name) for name in (dataset, label))
    return Path(cache_dir) / folder / f"{file}.h5"
