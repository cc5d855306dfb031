"""Grey levels of more than 8 bits: the range that they are meant in, decided for a data set as a whole.

Files don't say it: a camera's 12 bits come in files of 16, and 0..1 may overshoot. Decided image by image, a dark image
would come out bright, and one of two like images black.
"""

import contextlib
from concurrent.futures import ThreadPoolExecutor
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
"""Number of images that are looked at in shards, where a look reads the whole image, before any is taken to be deep,
and of deep images in colour."""


MANY = 500
"""Number of images to decode from which the progress is shown."""


def decided(imageset):
    """Return the data set with ``levels``, and notes that say so, where any of its images has more than 8 bits.

    ``levels`` is [least, largest] for ``integers`` and for ``floats``, as far as the set has them. Of files in folders
    the first bytes are read, except of those that end as in ``EIGHT_BITS``. Images of more than 8 bits are decoded.
    """
    deep = _deep(imageset)
    imageset = replace(imageset, notes=imageset.notes + _dark(imageset, deep["colour"]))
    rows = deep["grey"]
    shown = (
        progress(len(rows), f"reading grey levels of {imageset.name}")
        if len(rows) > MANY
        else contextlib.nullcontext(int)
    )
    with ThreadPoolExecutor(cores()) as pool, shown as advance:
        found: dict[str, list] = {}
        for extent in pool.map(lambda i: _extent(imageset, i), rows):
            advance(1)
            if extent:
                found.setdefault(extent[0], []).append(extent[1:])
    levels = {
        kind: span(kind, min(low for low, _ in of), max(high for _, high in of)) for kind, of in sorted(found.items())
    }
    called = {"integers": "Grey", "floats": "Floating-point grey"}
    notes = tuple(
        f"{called[kind]} levels are read as {low:.15g} to {high:.15g} in all images."
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


def _deep(imageset) -> dict[str, list[int]]:
    """Return the rows of images whose files may hold more than 8 bits of ``grey``, and of ``colour``."""
    n, found = len(imageset), {"grey": [], "colour": []}
    if imageset.pixels is not None:
        return found
    rows = range(0, n, max(1, n // SAMPLE))
    if imageset.files is not None:
        rows = [i for i, file in enumerate(imageset.files) if file.rpartition(".")[2].lower() not in EIGHT_BITS]
    for i in rows:  # in threads it takes thrice as long
        with contextlib.suppress(UserError):  # whoever reads the image tells
            if kind := decode.deeper(imageset.encoded(i), id=imageset.ids[i]):
                found[kind].append(i)
    if imageset.files is None and found["grey"]:
        found["grey"] = list(range(n))
    return found


def _dark(imageset, rows: list[int]) -> tuple[str, ...]:
    """Return a note where colour images of 16 bits, of which PIL keeps the upper 8, hold fewer bits than that."""
    brightest = -1
    for i in rows[:: max(1, len(rows) // SAMPLE)]:
        with contextlib.suppress(UserError):
            brightest = max(brightest, int(np.asarray(imageset.read(i)).max()))
    if not 0 <= brightest < 128:
        return ()
    seen = f"which reach only {brightest} of 255 here"
    return (f"Colour images of 16 bits are read by their upper 8, {seen}: save them with 8.",)


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
