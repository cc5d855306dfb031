"""A set of labelled, split images, on disk or in memory."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from data import decode


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
    """Where the set lies in shards: reads the file of image ``i`` out of them. Thread safe, and can be pickled."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def slug(self) -> str:
        """The name as one folder name: ``office_shift/amazon`` is ``office_shift-amazon``."""
        return self.name.replace("/", "-")

    def path(self, i: int) -> str | None:
        """Where image ``i`` lies on disk as a file of its own; None in memory and in shards."""
        return None if self.files is None else f"{self.root}/{self.files[i]}"

    def encoded(self, i: int) -> str | bytes | None:
        """What data.decode reads image ``i`` from: its path, or in shards its bytes. Raises UnreadableImage."""
        if self.stored is None:
            return self.path(i)
        with decode.reading(self.ids[i]):
            return self.stored(i)

    def read(self, i: int) -> Image.Image:
        """Image ``i`` as PIL RGB. Thread safe. Raises data.decode.UnreadableImage(id, reason)."""
        if self.pixels is not None:
            return Image.fromarray(self.pixels[i])
        return decode.read(self.encoded(i), id=self.ids[i], exif=self.exif)


def digest(ids, labels, split, class_names, *, sizes: list[int] | None = None, pixels: np.ndarray | None = None) -> str:
    """The set's digest (sha256, hex): what a feature file is stale against.

    Of files it takes the size in bytes, not the content: reading 1.2 GB at each start would cost more than it saves.
    """
    listing = [ids, labels.tolist(), split.tolist(), class_names, sizes]
    sha = hashlib.sha256(json.dumps(listing, separators=(",", ":")).encode())
    if pixels is not None:
        sha.update(json.dumps([*pixels.shape]).encode())
        sha.update(np.ascontiguousarray(pixels))
    return sha.hexdigest()
