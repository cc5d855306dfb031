"""A data set without the images that ``audit.csv`` leaves out, and with the classes that it corrects."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from backbench.data.imageset import ROWS, Audited, ImageSet
from backbench.decisions import Decisions


@dataclass(frozen=True, eq=False)
class Stored:
    """Reads the images ``rows`` (N,) of a data set in shards, as ``ImageSet.stored``. It can be pickled."""

    whole: Callable[[int], bytes]
    rows: np.ndarray

    def __call__(self, i: int) -> bytes:
        return self.whole(int(self.rows[i]))

    def places(self) -> list[tuple[str, int]]:
        """Return the shard of each image and its place there."""
        places = self.whole.places()  # pyright: ignore[reportFunctionMemberAccess]  all readers of shards have it
        return [places[row] for row in self.rows]


def decided(images: ImageSet, decisions: Decisions | None) -> ImageSet:
    """Return a whole data set as ``decisions`` make it: under its name, with digests of its own, and a note on it.

    Splits and class names stay as they are, also of a class whose last image is left out. Where nothing changes, it is
    the same data set. Raises UserError, with all faults at once, for decisions that don't fit the data set.
    """
    if decisions is None:
        return images
    applied = decisions.apply(images.ids, images.labels, images.class_names, to=images.name)
    notes = (*images.notes, decisions.note(applied.n_left_out, applied.n_relabelled))
    if not (applied.n_left_out or applied.n_relabelled):
        return replace(images, notes=notes)
    rows = np.flatnonzero(applied.keep)
    kept = {
        name: [value[i] for i in rows] if isinstance(value, list) else value[rows]
        for name in ROWS
        if (value := getattr(images, name)) is not None
    }
    return replace(
        images,
        **kept | {"labels": applied.labels[rows]},
        stored=images.stored and Stored(images.stored, rows),
        notes=notes,
        listings=("", ""),
        audited=Audited(images, rows, decisions, applied),
    )
