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
from backbench.data import formats, jpeg, mend

EXIF = ("ignore", "apply")
"""What can be done with a camera's orientation tag. torchvision's loader and timm's dataset ``ignore`` it."""

FORMATS = (*formats.FORMATS, "HEIF")
"""Formats that are tried, whatever the file's ending. The list is fixed, so that no stranger's .jpg starts Ghostscript
(EPS). HEIF is there where pillow-heif is installed."""

BITS, PHOTOMETRIC, ORIENTATION, SAMPLE_FORMAT = 258, 262, 274, 339
"""Tags of TIFF. PHOTOMETRIC is 0 where white is 0, and SAMPLE_FORMAT 1, 2 or 3 for unsigned, signed and floating point
numbers."""

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

    def __reduce__(self):  # the default pickles the message only, which __init__ doesn't take, and loses the cause
        cause = self.__cause__
        plain = OSError(cause.errno, cause.strerror) if isinstance(cause, OSError) and cause.errno else None
        return type(self), (self.id, self.reason), {"__cause__": plain}


def pixels(content: bytes, *, id: str, exif: str = "ignore", levels: dict | None = None) -> np.ndarray:
    """Decode the bytes of a file to pixels (H, W, 3) uint8, which equal those of ``read``; plain JPEG twice as fast.

    Thread safe. Raises UnreadableImage(id, reason).
    """
    found = jpeg.decode(content, exif=exif)
    return np.array(read(content, id=id, exif=exif, levels=levels)) if found is None else found


def read(
    source: str | os.PathLike | bytes, *, id: str, exif: str = "ignore", levels: dict | None = None
) -> Image.Image:
    """Decode a file, given by its path or its bytes, to a PIL image of mode RGB.

    Transparent images are laid on white. Grey of 16 or 32 bits and floating point is scaled to 8 bits, by the range of
    its data set in ``levels`` (see ``data.levels``), or without that by one that holds this image. An animation gives
    its first frame. The pixels of plain 8-bit files equal ``PIL.Image.open(path).convert("RGB")``. Damage beside the
    pixels is passed over (see ``data.mend``). ``exif="apply"`` turns the image upright by its orientation tag. Thread
    safe. Raises UnreadableImage(id, reason).
    """

    def look(image):
        image.load()
        grey, negative = _grey(image), _tags(image).get(PHOTOMETRIC) == 0
        if grey is None:
            image = ImageOps.exif_transpose(image) if exif == "apply" else image
            return _rgb(image)
        levels_8 = _to_8_bits(grey, levels or {})
        scaled = Image.fromarray(255 - levels_8 if negative else levels_8)
        if exif == "apply":
            scaled.getexif()[ORIENTATION] = image.getexif().get(ORIENTATION, 1)
            scaled = ImageOps.exif_transpose(scaled)
        return scaled.convert("RGB")

    with reading(id):
        return _look(source, look)


def grey(source: str | os.PathLike | bytes, *, id: str) -> np.ndarray | None:
    """Return the levels (H, W) of a grey image of more than 8 bits, as its file has them; None for any other image.

    Raises UnreadableImage.
    """

    def look(image):
        if not _is_deep(image):
            return None
        image.load()
        return _grey(image)

    with reading(id):
        return _look(source, look)


def deeper(source: str | os.PathLike | bytes, *, id: str) -> str | None:
    """Return ``grey`` or ``colour`` where a file may hold such an image of more than 8 bits, by a few of its bytes.

    PIL would take ten times as long. Raises UnreadableImage where the file can't be opened.
    """
    with reading(id), _file(source) as file:
        start = file.read(32)
        if start.startswith(mend.PNG):
            return ("colour" if start[25] else "grey") if start[24:25] == b"\x10" else None
        if start[:4] in (b"II*\0", b"MM\0*"):
            order = "<" if start[:1] == b"I" else ">"
            file.seek(*struct.unpack(f"{order}I", start[4:8]))
            (n,) = struct.unpack(f"{order}H", file.read(2))
            tags = file.read(12 * min(n, 4096))
            for tag, kind, count, value in struct.iter_unpack(f"{order}HHII", tags[: len(tags) // 12 * 12]):
                if tag != BITS:
                    continue
                bits = value & 0xFFFF if order == "<" else value >> 16
                if count > 2:
                    file.seek(value)
                    bits = max(file.read(2), default=0)  # 16 in either order of bytes
                return ("grey" if count == 1 else "colour") if kind != 3 or bits > 8 else None
            return None  # 1 bit
        grey = start.startswith((b"II", b"MM", b"P5", b"Pf", b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP"))
        return "grey" if grey else None


def header(source: str | os.PathLike | bytes, *, id: str) -> tuple[int, int, str]:
    """Read width and height in pixels as stored, and PIL's colour mode, without decoding. Raises UnreadableImage."""
    with reading(id):
        return _look(source, lambda image: (*image.size, image.mode))


@contextlib.contextmanager
def reading(id: str):
    """A context in which any error with the image ``id`` is raised as UnreadableImage."""
    try:
        yield
    except PIL_ERRORS as error:
        raise UnreadableImage(id, _reason(error)) from error


def _look(source, look):
    """Return ``look(image)`` of the opened file; where PIL refuses it, of the file without damage beside its pixels."""
    with _file(source) as file:
        try:
            return look(_open(file))
        except PIL_ERRORS as error:
            file.seek(0)
            try:
                mended = mend.mended(file.read(mend.LARGEST + 1), _load)
                if mended is not None:
                    return look(_open(io.BytesIO(mended)))
            except PIL_ERRORS:
                pass
            raise error


def _load(content: bytes) -> Image.Image:
    image = _open(io.BytesIO(content))
    image.load()
    return image


def _file(source):
    return io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb")


def _open(file) -> Image.Image:
    # This is Image.open without its DecompressionBombWarning, since photos of 100 megapixels are no reason to warn.
    # Warnings can only be silenced for the whole process, not for this thread. The hard limit stays.
    _load_plugins()
    start = file.read(16)
    if not start:
        raise OSError("the file is empty")
    fault = None
    for name in FORMATS:
        factory, accept = Image.OPEN.get(name, (None, None))
        if factory is None or accept(start) is not True:  # a str names what the plugin lacks
            continue
        file.seek(0)
        try:
            image = factory(file, "")
        except SyntaxError as error:  # HEIC and AVIF may begin alike
            fault = fault or error
            continue
        pixels = image.width * image.height
        limit = 2 * Image.MAX_IMAGE_PIXELS if Image.MAX_IMAGE_PIXELS else pixels
        if pixels > limit:
            raise OSError(f"{image.width} x {image.height} pixels, more than PIL's limit of {limit:,}")
        return image
    if formats.HEIF_STARTS.match(start) and "HEIF" not in Image.OPEN:
        raise OSError("it is an HEIC image, which needs pillow-heif: pip install pillow-heif, or save it as JPEG")
    if fault:
        raise fault
    raise OSError(f"it is not an image in a known format ({', '.join(FORMATS)})")


@functools.cache
def _load_plugins():
    Image.init()
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()


def _rgb(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _is_deep(image: Image.Image) -> bool:
    return image.mode.startswith(("I", "F"))


def _tags(image: Image.Image) -> dict:
    """The tags of a TIFF; nothing for other formats."""
    return getattr(image, "tag_v2", {})


def _grey(image: Image.Image) -> np.ndarray | None:
    """The levels (H, W) of a loaded grey image of more than 8 bits, else None."""
    if not _is_deep(image):
        return None
    found = np.asarray(image)
    unsigned = image.mode == "I" and image.format == "TIFF" and _tags(image).get(SAMPLE_FORMAT, (1,))[0] == 1
    return found.view(np.uint32) if unsigned else found  # PIL has no unsigned 32 bits


def _to_8_bits(grey: np.ndarray, levels: dict) -> np.ndarray:
    """Scale grey levels (H, W) to uint8 by the range that they are meant in, where PIL would clip them at 255.

    ``levels`` may give that range, as [least, largest] for ``integers`` and for ``floats``. Otherwise integers are
    meant in 0..65535, and floats in the smallest of 0..1, 0..255 and 0..65535 that holds them. Levels that fit no range
    are stretched from the least to the largest. Levels that aren't finite become 0.
    """
    kind = kind_of(grey)
    if kind not in levels and grey.dtype.kind == "u" and grey.dtype.itemsize == 2:
        return ((grey.astype(np.uint32) + 128) // 257).astype(np.uint8)
    grey = np.nan_to_num(grey.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    if kind in levels:
        low, high = levels[kind]
        grey = grey.clip(low, high)
    else:
        low, high = grey.min(), grey.max()
        fits = [top for top in ((1, 255, 65535) if kind == "floats" else (65535,)) if low >= 0 and high <= top]
        low, high = (0, fits[0]) if fits else (low, high if high > low else low + 1)  # one level below 0 becomes black
    return np.rint((grey - low) / (high - low) * 255).astype(np.uint8)


def kind_of(grey: np.ndarray) -> str:
    """Return the key of ``levels`` for such an array: ``integers`` or ``floats``."""
    return "floats" if grey.dtype.kind == "f" else "integers"


def _reason(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "there is too little memory to decode it"
    text = getattr(error, "strerror", None) or str(error)  # str(error) holds a path of this machine
    return text if isinstance(error, (OSError, EOFError)) and text else f"{type(error).__name__}: {text}".rstrip(": ")
