"""Images that can't be read: all are found before the first epoch, and left out of every split where that is asked."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from backbench import SPLITS, UserError
from backbench.devices import cores
from backbench.extract.run import UnreadableImages
from backbench.progress import progress, tell

NEITHER = len(SPLITS)
"""The code of images that are in no split."""


def unreadable(imageset, rows=None) -> dict[int, UserError]:
    """Decode the images ``rows``, or all that are in a split, and return by row why some of them can't be read.

    Raises UserError where the whole data set is out of reach.
    """
    rows = np.flatnonzero(imageset.split < NEITHER) if rows is None else np.asarray(rows, int)
    if imageset.pixels is not None:
        return {}
    with ThreadPoolExecutor(min(8, cores())) as pool, progress(len(rows), f"checking {imageset.name}") as advance:
        faults = {}
        for i, fault in zip(rows.tolist(), pool.map(lambda i: _fault(imageset, i), rows.tolist()), strict=True):
            advance(1)
            if fault:
                faults[i] = fault
    imageset.check_reachable(faults.values())
    return faults


def _fault(imageset, i: int) -> UserError | None:
    try:
        imageset.read(i)
    except UserError as error:
        return error
    return None


def stop(imageset, faults: dict[int, UserError]) -> None:
    """Raise UserError that names the images of ``faults`` and how to go on; return where there are none."""
    if faults:
        raise UnreadableImages(imageset.name, [str(fault) for fault in faults.values()], others="")


def without(imageset, rows):
    """Return the data set with the images ``rows`` in no split, and say so."""
    if not len(rows):
        return imageset
    named = ", ".join(imageset.ids[i] for i in rows[:5])
    tell(
        f"{len(rows):,} images of {imageset.name} that can't be read are left out: {named}"
        + (f" and {len(rows) - 5:,} more" if len(rows) > 5 else "")
    )
    split = imageset.split.copy()
    split[rows] = NEITHER
    return resplit(imageset, split)


def resplit(imageset, split: np.ndarray):
    """Return the data set with other splits (N,), but the digests by which its features and rows know it."""
    made = replace(imageset, split=split)
    vars(made)["digests"] = imageset.digests
    return made
