"""Thumbnails of images, as text that a page holds, and how many of each group it shows."""

import base64
import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from backbench import UserError
from backbench.devices import cores

SIDE = 72
"""Longest side of a thumbnail on the report's page, in pixels."""

QUALITY = 55
"""WebP's quality, with which a photo of 72 pixels takes 1.2 KB."""

TINY = 64
"""Longest side in pixels below which an image is shown enlarged, pixel by pixel, and not blurred."""


def thumbnail(image, side: int = SIDE) -> str:
    """Return a PIL image as the data URI of a small WebP. Images smaller than a thumbnail keep their size."""
    image.thumbnail((side, side))
    file = io.BytesIO()
    image.save(file, "WEBP", quality=QUALITY, method=4)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def shared(counts: Sequence[int], most: int) -> int:
    """Return the largest number n for which the sum of ``min(count, n)`` is at most ``most``; at least 1."""
    left, ordered = most, sorted(counts)
    for i, count in enumerate(ordered):
        if count * (len(ordered) - i) > left:
            return max(1, left // (len(ordered) - i))
        left -= count
    return max([1, *ordered])


def thumbnails(ids: list[str], image_of, *, side: int, most: int) -> Iterator[tuple[str, bool]]:
    """Yield for each image the data URI of its thumbnail, "" where there is none, and whether the image is tiny.

    ``image_of`` reads an image by its id as PIL RGB and must be thread safe. There are none after ``most`` bytes.
    """

    def made(id: str) -> tuple[str, bool]:
        try:
            image = image_of(id)
        except UserError:  # it could be read before
            return "", False
        return thumbnail(image, side), max(image.size) < TINY

    left = most
    with ThreadPoolExecutor(cores()) as pool:
        for uri, tiny in pool.map(made, ids):
            left -= len(uri)
            yield (uri, tiny) if left >= 0 else ("", False)
