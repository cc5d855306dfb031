"""Decoding of any image file to the 8-bit RGB that a person sees."""

import contextlib
import functools
import io
import os
import struct
import zlib

import numpy as np
from PIL import Image, ImageOps

from backbench import UserError

EXIF = ("ignore", "apply")
"""What can be done with a camera's orientation tag. torchvision's loader and timm's dataset ``ignore`` it."""

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF")
"""Formats that are tried, whatever the file's ending. The list is fixed, so that no stranger's .jpg starts Ghostscript
(EPS)."""

PIL_ERRORS = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    RuntimeError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""Exceptions that PIL raises on damaged files. Its readers raise whatever a field out of range happens to cause."""


class UnreadableImage(UserError):
    """An image can't be decoded. ``id`` says which image, and ``reason`` why."""

    def __init__(self, id: str, reason: str):
        super().__init__(f"{id}: {reason}")
        self.id = id
        self.reason = reason

    def __reduce__(self):  # the default pickles the message only, which __init__ doesn't take
        return type(self), (self.id, self.reason)


def read(source: str | os.PathLike | bytes, *, id: str, exif: str = "ignore") -> Image.Image:
    """Decode a file, given by its path or its bytes, to a PIL image of mode RGB.

    Transparent images are laid on white. Grey of 16 or 32 bits and floating point is scaled to 8 bits. An animation
    gives its first frame. The pixels of plain 8-bit files equal ``PIL.Image.open(path).convert("RGB")``.
    ``exif="apply"`` turns the image upright by its orientation tag. Thread safe. Raises UnreadableImage(id, reason).
    """
    with reading(id), _file(source) as file:
        image = _open(file)
        image.load()
        if exif == "apply":
            image = ImageOps.exif_transpose(image)
        return _rgb(image)


def header(source: str | os.PathLike | bytes, *, id: str) -> tuple[int, int, str]:
    """Read width and height in pixels as stored, and PIL's colour mode, without decoding. Raises UnreadableImage."""
    with reading(id), _file(source) as file:
        image = _open(file)
        return *image.size, image.mode


@contextlib.contextmanager
def reading(id: str):
    """A context in which any error with the image ``id`` is raised as UnreadableImage."""
    try:
        yield
    except PIL_ERRORS as error:
        raise UnreadableImage(id, _reason(error)) from error


def _file(source):
    return io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb")


def _open(file) -> Image.Image:
    # This is Image.open without its DecompressionBombWarning, since photos of 100 megapixels are no reason to warn.
    # Warnings can only be silenced for the whole process, not for this thread. The hard limit stays.
    _load_plugins()
    start = file.read(16)
    if not start:
        raise OSError("the file is empty")
    for name in FORMATS:
        factory, accept = Image.OPEN.get(name, (None, None))
        if factory is None or accept(start) is not True:  # a str names what the plugin lacks
            continue
        file.seek(0)
        image = factory(file, "")
        pixels = image.width * image.height
        limit = 2 * Image.MAX_IMAGE_PIXELS if Image.MAX_IMAGE_PIXELS else pixels
        if pixels > limit:
            raise OSError(f"{image.width} x {image.height} pixels, more than PIL's limit of {limit:,}")
        return image
    raise OSError(f"it is not an image in a known format ({', '.join(FORMATS)})")


@functools.cache
def _load_plugins():
    Image.init()


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(_to_8_bits(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _to_8_bits(grey: np.ndarray) -> np.ndarray:
    """Scale grey levels (H, W) to uint8 by the range that they are meant in, where PIL would clip them at 255.

    Integers are meant in 0..65535, and floats in the smallest of 0..1, 0..255 and 0..65535 that holds them. Levels
    that fit no range are stretched from the least to the largest. Levels that aren't finite become 0.
    """
    if grey.dtype.kind == "u" and grey.dtype.itemsize == 2:
        return ((grey.astype(np.uint32) + 128) // 257).astype(np.uint8)
    ranges = (1, 255, 65535) if grey.dtype.kind == "f" else (65535,)
    grey = np.nan_to_num(grey.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = grey.min(), grey.max()
    fits = [top for top in ranges if low >= 0 and high <= top]
    low, high = (0, fits[0]) if fits else (low, high if high > low else low + 1)  # a single level below 0 becomes black
    return np.rint((grey - low) / (high - low) * 255).astype(np.uint8)


def _reason(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error)  # str(error) holds a path of this machine
    return text if isinstance(error, (OSError, EOFError)) and text else f"{type(error).__name__}: {text}".rstrip(": ")
