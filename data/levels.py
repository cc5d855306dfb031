"""Grey levels of more than 8 bits: the range that they are meant in, decided for a data set as a whole.

Files don't say it: a camera's 12 bits come in files of 16, and 0..1 may overshoot. Decided image by image, a dark image
would come out bright, and one of two like images black.
"""

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace

import numpy as np

from backbench import UserError
from backbench.data import decode
from backbench.devices import cores
from backbench.progress import progress

USUAL = {
    "integers": (255, 1023, 4095, 16383, 32767, 65535, 2**32 - 1),
    "floats": (1, 255, 1023, 4095, 16383, 65535),
}
"""White in usual files, with black at 0: integers of 8, 10, 12, 14, 15, 16 and 32 bits, and floats."""

OVERSHOOT = 0.1
"""Share of a range by which floats may lie outside of it: resampling with a bicubic or Lanczos filter overshoots by
less. Integers may by one level."""

FILLED = 1 / 8
"""Least share of a usual range that a data set fills. With less, three of 8 bits would be lost, and it is stretched."""

EIGHT_BITS = frozenset({"jpg", "jpeg", "jpe", "jfif", "gif", "bmp", "webp", "avif", "heic", "heif"})
"""Endings of files that hold 8 bits, or that PIL decodes to 8. They are not opened."""

SAMPLE = 16
"""Number of images that are looked at in shards, where a look reads the whole image, before any is taken to be deep."""


MANY = 500
"""Number of images to decode from which the progress is shown."""


def decided(imageset):
    """Return the data set with ``levels``, and a note that says so, where any of its images has more than 8 bits.

    ``levels`` is [least, largest] for ``integers`` and for ``floats``, as far as the set has them. Of files in folders
    the first bytes are read, except of those that end as in ``EIGHT_BITS``. Images of more than 8 bits are decoded.
    """
    rows = _deep(imageset)
    if not len(rows):
        return imageset
    shown = progress(len(rows), f"reading grey levels of {imageset.name}") if len(rows) > MANY else nullcontext(int)
    with ThreadPoolExecutor(cores()) as pool, shown as advance:
        found: dict[str, list] = {}
        for extent in pool.map(lambda i: _extent(imageset, i), rows):
            advance(1)
            if extent:
                found.setdefault(extent[0], []).append(extent[1:])
    levels = {
        kind: span(kind, min(low for low, _ in of), max(high for _, high in of)) for kind, of in sorted(found.items())
    }
    notes = tuple(
        f"{'floating-point ' * (kind == 'floats')}grey levels are read as {low:.15g} to {high:.15g} in all images"
        for kind, (low, high) in levels.items()
    )
    return replace(imageset, levels=levels, notes=imageset.notes + notes) if levels else imageset


def span(kind: str, low: float, high: float) -> list[float]:
    """Return [least, largest] of the smallest usual range that holds levels from ``low`` to ``high``.

    Levels that fit no usual range, or fill little of it, are meant from the least to the largest.
    """
    for top in USUAL[kind]:
        slack = OVERSHOOT * top if kind == "floats" else 1
        if low >= -slack and high <= top + slack:
            if high - low >= FILLED * top:
                return [0, top]
            break
    return [low, high] if high > low else [low, low + 1]


def _deep(imageset) -> list[int]:
    """Rows of the images whose files may hold more than 8 bits of grey."""
    n = len(imageset)
    if imageset.pixels is not None:
        return []
    if imageset.files is None:
        some = range(0, n, max(1, n // SAMPLE))
        return list(range(n)) if any(_may_be_deep(imageset, i) for i in some) else []
    rows = [i for i, file in enumerate(imageset.files) if file.rpartition(".")[2].lower() not in EIGHT_BITS]
    return [i for i in rows if _may_be_deep(imageset, i)]  # in threads it takes thrice as long


def _may_be_deep(imageset, i: int) -> bool:
    """Whether image ``i`` may hold more than 8 bits of grey, by its first bytes; False where it can't be read."""
    try:
        return decode.may_be_deep(imageset.encoded(i), id=imageset.ids[i])
    except UserError:
        return False


def _extent(imageset, i: int) -> tuple | None:
    """Return the kind of image ``i``'s levels, the least and the largest; None for 8 bits or where it can't be read."""
    try:
        grey = decode.grey(imageset.encoded(i), id=imageset.ids[i])
    except UserError:
        return None
    if grey is None:
        return None
    finite = grey[np.isfinite(grey)]
    return (decode.kind_of(grey), finite.min().item(), finite.max().item()) if finite.size else None
