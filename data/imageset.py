"""A set of labelled, split images, on disk or in memory."""

import errno
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from backbench import UserError
from backbench.data import decode
from backbench.data.splits import TEST

ROWS = ("ids", "labels", "split", "files", "pixels")
"""What a set has one of for each image."""

SAMPLE = 16
"""Images looked for before a whole set is said to be gone."""

NETWORK_DOWN = {
    getattr(errno, name)
    for name in ("ESTALE", "ENOTCONN", "ETIMEDOUT", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "ENODEV")
    if hasattr(errno, name)
}
"""What reading from a network folder gives while the network or its server is down; never a damaged picture."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """N labelled images. Made by ``data.registry.load``."""

    name: str
    """As registered; ``folder-<basename>`` for ``folder:PATH``, and likewise ``wds-`` and ``hf-``."""
    ids: list[str]
    """POSIX paths relative to the set's root (``digits/0001`` for digits): unique, valid UTF-8, sorted but for shards,
    where they are in the order they are stored in."""
    labels: np.ndarray
    """(N,) int64, indices into class_names."""
    split: np.ndarray
    """(N,) int8: 0 train, 1 val, 2 test."""
    class_names: list[str]
    """Sorted; numbers by size."""
    digest: str
    """sha256 over ids, labels, split, class names and file sizes (in memory: pixels); the same on every machine."""
    exif: str = "ignore"
    """``ignore`` or ``apply``, see ``data.decode.read``."""
    root: Path | None = None
    """The folder that ids are relative to; None in memory."""
    files: list[str] | None = None
    """Paths relative to root, for the operating system; they differ from ids only for names that aren't NFC UTF-8."""
    pixels: np.ndarray | None = None
    """(N, H, W, 3) uint8 where the set is held in memory, else None."""
    stored: Callable[[int], bytes] | None = None
    """Where the set lies in shards: reads the file of an image, by its row in the whole set, out of them. Thread safe,
    and can be pickled."""
    span: tuple[int, int, int] | None = None
    """Of a part: its rows [start, stop) and how many the whole set has. The name and the digest are the whole set's."""
    images_digest: str = ""
    """sha256 as ``digest``, but without the split: the same whatever seed the images are split by."""
    test_digest: str = ""
    """sha256 as ``digest``, but of the test images alone: the same when images join train."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def slug(self) -> str:
        """The name as one folder name: ``office_shift/amazon`` is ``office_shift-amazon``."""
        return self.name.replace("/", "-")

    def part(self, start: int, stop: int) -> "ImageSet":
        """The rows [start, stop) of a whole set, as a set."""
        rows = {name: value[start:stop] for name in ROWS if (value := getattr(self, name)) is not None}
        return replace(self, **rows, span=(start, stop, len(self)))

    def reachable(self) -> bool:
        """Whether any of a sample of its files is there, or the folder of its shards; in memory, always."""
        if self.files is None:
            return self.root is None or self.root.exists()
        return any(os.path.exists(self.path(i)) for i in range(0, len(self), max(1, len(self) // SAMPLE)))

    def check_reachable(self, errors) -> None:
        """Raise UserError where not the images that couldn't be read are at fault, but all are out of reach.

        The set's folder was unmounted or removed, or one of ``errors``, as raised by ``read``, comes of a network that
        is down.
        """
        causes = [error.__cause__ for error in errors if isinstance(error.__cause__, OSError)]
        down = [cause for cause in causes if cause.errno in NETWORK_DOWN]
        if down or (causes and not self.reachable()):
            raise UserError(
                f"the images of {self.name} in {self.root} can't be reached any more ({(down or causes)[0].strerror}). "
                "What was computed is kept, and no image is left out for that. Bring the folder back, and run the same "
                "command again."
            )

    def path(self, i: int) -> str | None:
        """Where image ``i`` lies on disk as a file of its own; None in memory and in shards."""
        return None if self.files is None else f"{self.root}/{self.files[i]}"

    def encoded(self, i: int) -> str | bytes | None:
        """What data.decode reads image ``i`` from: its path, or in shards its bytes. Raises UnreadableImage."""
        if self.stored is None:
            return self.path(i)
        with decode.reading(self.ids[i]):
            return self.stored(i + (self.span[0] if self.span else 0))

    def read(self, i: int) -> Image.Image:
        """Image ``i`` as PIL RGB. Thread safe. Raises data.decode.UnreadableImage(id, reason)."""
        if self.pixels is not None:
            return Image.fromarray(self.pixels[i])
        return decode.read(self.encoded(i), id=self.ids[i], exif=self.exif)

    def content(self, i: int) -> str:
        """16 hexadecimal digits of the SHA-256 of image ``i``'s file, in memory of its pixels: the same under any name.

        Raises data.decode.UnreadableImage.
        """
        if self.pixels is not None:
            found = np.ascontiguousarray(self.pixels[i])
        elif isinstance(found := self.encoded(i), str):
            with decode.reading(self.ids[i]):
                found = Path(found).read_bytes()
        return hashlib.sha256(found).hexdigest()[:16]


def digest(ids, labels, split, class_names, *, sizes: list[int] | None = None, pixels: np.ndarray | None = None) -> str:
    """The set's digest (sha256, hex): what a feature file is stale against. With ``split`` None, that of its images.

    Of files it takes the size in bytes, not the content: reading 1.2 GB at each start would cost more than it saves.
    """
    listing = [ids, labels.tolist(), None if split is None else split.tolist(), class_names, sizes]
    sha = hashlib.sha256(json.dumps(listing, separators=(",", ":")).encode())
    if pixels is not None:
        sha.update(json.dumps([*pixels.shape]).encode())
        sha.update(np.ascontiguousarray(pixels))
    return sha.hexdigest()


def digests(ids, labels, split, class_names, *, sizes=None, pixels=None) -> dict[str, str]:
    """``digest``, ``images_digest`` and ``test_digest`` of a set, as ``ImageSet`` takes them."""
    test = np.flatnonzero(split == TEST)
    per_image = sizes is not None and len(sizes) == len(ids)  # of parquet they are those of its row groups
    some = {
        "sizes": [sizes[i] for i in test] if per_image else sizes,
        "pixels": None if pixels is None else pixels[test],
    }
    return {
        "digest": digest(ids, labels, split, class_names, sizes=sizes, pixels=pixels),
        "images_digest": digest(ids, labels, None, class_names, sizes=sizes, pixels=pixels),
        "test_digest": digest([ids[i] for i in test], labels[test], None, class_names, **some),
    }
