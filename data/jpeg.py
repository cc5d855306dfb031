"""JPEG at libjpeg-turbo's own speed: the pixels are PIL's, in half the time. What is unusual is left to PIL."""

import numpy as np
import simplejpeg
from PIL import Image

START = b"\xff\xd8\xff"
"""How every JPEG file begins."""

TURNED = (b"Exif\0", b"http://ns.adobe.com/xap")
"""Beginnings of metadata that may hold an orientation tag."""

PLAIN = ("YCbCr", "RGB", "Gray")
"""Colour spaces that libjpeg-turbo turns into RGB. What CMYK looks like is for PIL to say."""


def decode(content: bytes, *, exif: str) -> np.ndarray | None:
    """Return the pixels (H, W, 3) uint8 of a sound, plain JPEG file, else None.

    The pixels equal PIL's, since both leave them to libjpeg-turbo. None stands for any other format, and where the file
    is damaged, is larger than PIL's limit, or may have to be turned by ``exif="apply"``. Releases Python's lock.
    """
    if not content.startswith(START) or (exif == "apply" and any(start in content for start in TURNED)):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
        if colours not in PLAIN or (Image.MAX_IMAGE_PIXELS and width * height > 2 * Image.MAX_IMAGE_PIXELS):
            return None
        return simplejpeg.decode_jpeg(content, "RGB")
    except (ValueError, MemoryError):  # PIL may still read it, or else says what is wrong
        return None
