"""A data set: labelled images with splits, on disk or in memory."""

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from backbench import UserError, image_digests
from backbench.data import contents, decode
from backbench.decisions import Applied, Decisions

ROWS = ("ids", "labels", "split", "files", "pixels", "groups", "contents")
"""Fields that have one entry per image."""

SAMPLE = 16
"""Number of images that are looked for before a whole data set counts as out of reach."""

NETWORK_DOWN = {
    getattr(errno, name)
    for name in ("ESTALE", "ENOTCONN", "ETIMEDOUT", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "ENODEV")
    if hasattr(errno, name)
}
"""Errors of reading from a network folder while the network or its server is down. They never mean a damaged image."""


class Audited(NamedTuple):
    """What was decided of a data set by ``audit.csv``, see ``data.decided``."""

    whole: "ImageSet"
    """The data set before, whose images a feature file holds."""
    rows: np.ndarray
    """(N,) int64: the rows of ``whole`` that were kept."""
    decisions: Decisions
    applied: Applied

    def about(self) -> dict:
        """Return it as a row's features hold it. Images of ``whole`` whose contents aren't known are read."""
        return self.applied.about(self.whole.digest)


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
    notes: tuple[str, ...] = ()
    """Sentences that say what was taken and how it was split, and what was passed over; see ``data.notes``."""
    span: tuple[int, int, int] | None = None
    """For a part of a data set: its rows [start, stop), and how many the whole has. The name is the whole's."""
    groups: np.ndarray | None = None
    """(N,) str: what each image belongs to beside its class, such as a patient. No group is in two splits."""
    listings: tuple[str, str] = ("", "")
    """SHA-256 over ids, labels, split, class names and file sizes (in memory: pixels), with and without the split. By
    these earlier versions knew a data set; shards of one run share them."""
    contents: np.ndarray = field(default=None)  # pyright: ignore[reportArgumentType]  set below
    """(N,) S32: see ``backbench.image_digests``. They become known as images are read."""
    levels: dict[str, list[float]] | None = None
    """The range of grey levels of more than 8 bits, as plain JSON; None where there are none. See ``data.levels``."""
    audited: Audited | None = None
    """What was left out and relabelled; None where nothing was."""

    def __post_init__(self):
        if self.contents is None:
            object.__setattr__(self, "contents", np.zeros(len(self.ids), image_digests.CONTENT))

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def slug(self) -> str:
        """The name as one folder name: ``office_shift/amazon`` is ``office_shift-amazon``."""
        return self.name.replace("/", "-")

    @property
    def undecided(self) -> "ImageSet":
        """The data set before anything was left out or relabelled. Feature files are of it."""
        return self.audited.whole if self.audited else self

    def part(self, start: int, stop: int) -> "ImageSet":
        """Return the rows [start, stop) of a whole data set, as a data set."""
        rows = {name: value[start:stop] for name in ROWS if (value := getattr(self, name)) is not None}
        return replace(self, **rows, span=(start, stop, len(self)))

    @property
    def in_memory(self) -> bool:
        """Whether no image is a file."""
        return self.pixels is not None

    @cached_property
    def digests(self) -> dict[str, str]:
        """The digests of the data set, see ``image_digests.digests``. Images whose contents aren't known are read."""
        known = contents.complete(self)
        return image_digests.digests(known, self.ids, self.labels, self.split, self.class_names)

    @property
    def digest(self) -> str:
        """SHA-256 over all images with their classes and splits, the same on all machines."""
        return self.digests["dataset_digest"]

    @property
    def images_digest(self) -> str:
        """SHA-256 as ``digest``, but without the split, so that it doesn't depend on the seed of the split."""
        return self.digests["images_digest"]

    @property
    def test_digest(self) -> str:
        """SHA-256 as ``digest``, but of the test images only, so that it doesn't change when images join train."""
        return self.digests["test_digest"]

    def known_as(self, digest: str) -> bool:
        """Whether ``digest`` is this data set's ``digest``, or the one by which earlier versions knew it."""
        return digest == self.listings[0] or digest == self.digest

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
        """Read image ``i`` as PIL RGB, and note its content.

        Thread safe. Raises data.decode.UnreadableImage(id, reason).
        """
        return Image.fromarray(self.array(i))

    def array(self, i: int, *, unless: Collection[bytes] = ()) -> np.ndarray | None:
        """Read image ``i`` as pixels (H, W, 3) uint8, and note its content; None where that is among ``unless``.

        Thread safe. Raises data.decode.UnreadableImage(id, reason).
        """
        if self.pixels is not None:
            self.content(i)
            return None if self.contents[i] in unless else self.pixels[i]
        data = self._bytes(i)
        self.contents[i] = image_digests.content(data)
        if self.contents[i] in unless:
            return None
        return decode.pixels(data, id=self.ids[i], exif=self.exif, levels=self.levels)

    def content(self, i: int) -> str:
        """Return the content of image ``i``, see ``backbench.image_digests``; "" where its file can't be read."""
        if not self.contents[i]:
            with contextlib.suppress(decode.UnreadableImage):
                data = self._bytes(i) if self.pixels is None else np.ascontiguousarray(self.pixels[i])
                self.contents[i] = image_digests.content(data)
        return self.contents[i].decode()

    def _bytes(self, i: int) -> bytes:
        found = self.encoded(i)
        if isinstance(found, bytes):
            return found
        with decode.reading(self.ids[i]), open(found, "rb") as file:
            return file.read()

    def places(self) -> list[tuple[str, int]] | None:
        """Return the file of each image and its place in it, 0 unless the file is a shard; None in memory."""
        if self.files is not None:
            return [(f"{self.root}/{file}", 0) for file in self.files]
        whole = getattr(self.stored, "places", None)
        if whole is None:
            return None
        start = self.span[0] if self.span else 0
        return whole()[start : start + len(self)]


def listings(ids, labels, split, class_names, *, sizes=None, pixels=None) -> tuple[str, str]:
    """Compute ``ImageSet.listings`` from the names, the files' ``sizes`` in bytes, or in memory the ``pixels``."""
    both = []
    for part in (split.tolist(), None):
        listing = [ids, labels.tolist(), part, class_names, sizes]
        sha = hashlib.sha256(json.dumps(listing, separators=(",", ":")).encode())
        if pixels is not None:
            sha.update(json.dumps([*pixels.shape]).encode())
            sha.update(np.ascontiguousarray(pixels))
        both.append(sha.hexdigest())
    return both[0], both[1]
