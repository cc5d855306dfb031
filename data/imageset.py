"""A data set: labelled images with splits, on disk or in memory."""

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
"""Fields that have one entry per image."""

SAMPLE = 16
"""Number of images that are looked for before a whole data set counts as out of reach."""

NETWORK_DOWN = {
    getattr(errno, name)
    for name in ("ESTALE", "ENOTCONN", "ETIMEDOUT", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "ENODEV")
    if hasattr(errno, name)
}
"""Errors of reading from a network folder while the network or its server is down. They never mean a damaged image."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """A data set of N labelled images, as ``data.registry.load`` returns it."""

    name: str
    """The registered name, or ``folder-<basename>`` for ``folder:PATH``, and likewise ``wds-`` and ``hf-``."""
    ids: list[str]
    """Image names: POSIX paths relative to the root (``digits/0001`` for digits), unique and valid UTF-8. They are
    sorted, except in shards, where they keep the stored order."""
    labels: np.ndarray
    """(N,) int64, indices into class_names."""
    split: np.ndarray
    """(N,) int8: 0 train, 1 val, 2 test."""
    class_names: list[str]
    """Class names, sorted; numbers are sorted by size."""
    digest: str
    """SHA-256 over ids, labels, split, class names and file sizes (in memory: pixels), the same on all machines."""
    exif: str = "ignore"
    """``ignore`` or ``apply``; see ``data.decode.read``."""
    root: Path | None = None
    """Folder that ids are relative to; None in memory."""
    files: list[str] | None = None
    """File paths relative to root, for the operating system. They differ from ids only where names aren't NFC UTF-8."""
    pixels: np.ndarray | None = None
    """(N, H, W, 3) uint8 where the data set is in memory, else None."""
    stored: Callable[[int], bytes] | None = None
    """For a data set in shards, the function that reads an image's encoded bytes, by its row in the whole data set. It
    is thread safe and can be pickled."""
    span: tuple[int, int, int] | None = None
    """For a part of a data set: its rows [start, stop), and how many the whole has. Name and digest are the whole's."""
    images_digest: str = ""
    """SHA-256 as ``digest``, but without the split, so that it doesn't depend on the seed of the split."""
    test_digest: str = ""
    """SHA-256 as ``digest``, but of the test images only, so that it doesn't change when images join train."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def slug(self) -> str:
        """The name as one folder name: ``office_shift/amazon`` is ``office_shift-amazon``."""
        return self.name.replace("/", "-")

    def part(self, start: int, stop: int) -> "ImageSet":
        """Return the rows [start, stop) of a whole data set, as a data set."""
        rows = {name: value[start:stop] for name in ROWS if (value := getattr(self, name)) is not None}
        return replace(self, **rows, span=(start, stop, len(self)))

    def reachable(self) -> bool:
        """Whether any of a sample of its files exists, or the folder of its shards. In memory it is always True."""
        if self.files is None:
            return self.root is None or self.root.exists()
        return any(os.path.exists(self.path(i)) for i in range(0, len(self), max(1, len(self) // SAMPLE)))

    def check_reachable(self, errors) -> None:
        """Raise UserError where images couldn't be read because the whole data set is out of reach.

        Either its folder was unmounted or removed, or one of ``errors``, as ``read`` raises them, comes from a network
        that is down.
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
        """Return the path of image ``i`` where it is a file of its own; None in memory and in shards."""
        return None if self.files is None else f"{self.root}/{self.files[i]}"

    def encoded(self, i: int) -> str | bytes | None:
        """Return image ``i`` as data.decode reads it: its path, or in shards its bytes. Raises UnreadableImage."""
        if self.stored is None:
            return self.path(i)
        with decode.reading(self.ids[i]):
            return self.stored(i + (self.span[0] if self.span else 0))

    def read(self, i: int) -> Image.Image:
        """Read image ``i`` as PIL RGB. Thread safe. Raises data.decode.UnreadableImage(id, reason)."""
        if self.pixels is not None:
            return Image.fromarray(self.pixels[i])
        return decode.read(self.encoded(i), id=self.ids[i], exif=self.exif)

    def content(self, i: int) -> str:
        """Return 16 hexadecimal digits of the SHA-256 of image ``i``'s file, or in memory of its pixels.

        They don't depend on the image's name. Raises data.decode.UnreadableImage.
        """
        if self.pixels is not None:
            found = np.ascontiguousarray(self.pixels[i])
        elif isinstance(found := self.encoded(i), str):
            with decode.reading(self.ids[i]):
                found = Path(found).read_bytes()
        return hashlib.sha256(found).hexdigest()[:16]


def digest(ids, labels, split, class_names, *, sizes: list[int] | None = None, pixels: np.ndarray | None = None) -> str:
    """Compute a data set's digest (SHA-256, hex), by which a feature file is known to be stale.

    With ``split`` None it is the digest of the images alone. For files it takes the size in bytes, not the content:
    reading 1.2 GB at each start would cost more than it saves.
    """
    listing = [ids, labels.tolist(), None if split is None else split.tolist(), class_names, sizes]
    sha = hashlib.sha256(json.dumps(listing, separators=(",", ":")).encode())
    if pixels is not None:
        sha.update(json.dumps([*pixels.shape]).encode())
        sha.update(np.ascontiguousarray(pixels))
    return sha.hexdigest()


def digests(ids, labels, split, class_names, *, sizes=None, pixels=None) -> dict[str, str]:
    """Compute ``digest``, ``images_digest`` and ``test_digest`` of a data set, as keywords of ``ImageSet``."""
    test = np.flatnonzero(split == TEST)
    per_image = sizes is not None and len(sizes) == len(ids)  # parquet gives the sizes of row groups
    some = {
        "sizes": [sizes[i] for i in test] if per_image else sizes,
        "pixels": None if pixels is None else pixels[test],
    }
    return {
        "digest": digest(ids, labels, split, class_names, sizes=sizes, pixels=pixels),
        "images_digest": digest(ids, labels, None, class_names, sizes=sizes, pixels=pixels),
        "test_digest": digest([ids[i] for i in test], labels[test], None, class_names, **some),
    }
