"""Thumbnails of images, as text that a page holds."""

import base64
import io

SIDE = 72
"""Longest side of a thumbnail on the report's page, in pixels."""

QUALITY = 55
"""WebP's quality, with which a photo of 72 pixels takes 1.2 KB."""


def thumbnail(image, side: int = SIDE) -> str:
    """Return a PIL image as the data URI of a small WebP. Images smaller than a thumbnail keep their size."""
    image.thumbnail((side, side))
    file = io.BytesIO()
    image.save(file, "WEBP", quality=QUALITY, method=4)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
