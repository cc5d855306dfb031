"""Formats of image files: the endings of their names and their first bytes. Listing and decoding share this table."""

import functools
import importlib.util
import re
from collections.abc import Iterable

FORMATS = {
    "JPEG": ("jpg", "jpeg", "jpe", "jfif"),
    "PNG": ("png", "apng"),
    "GIF": ("gif",),
    "BMP": ("bmp", "dib"),
    "WEBP": ("webp",),
    "TIFF": ("tif", "tiff"),
    "PPM": ("ppm", "pgm", "pbm", "pnm", "pfm"),
    "JPEG2000": ("jp2", "j2k", "j2c", "jpc", "jpf", "jpx"),
    "AVIF": ("avif", "avifs"),
}
"""Pillow's name of each format that can be read, in the order in which they are tried, and its endings. A file may have
another format than its ending says. Multi-picture JPEG (.mpo) is read as JPEG."""

HEIF = ("heic", "heif", "hif")
"""Endings of photos of iPhones. Pillow reads them only through pillow-heif."""

ENDINGS = frozenset(ending for endings in FORMATS.values() for ending in endings) | {"mpo"}
"""Endings of image files that Pillow reads by itself, in lower case."""

UNREAD = frozenset(
    {
        *("arw", "cr2", "cr3", "dng", "nef", "orf", "raf", "rw2", "heic", "heif", "hif", "jxl", "jxr"),
        *("dcm", "exr", "fits", "nii", "psd", "qoi", "svs", "tga", "xcf"),
    }
)
"""Endings of images that aren't read: photos of cameras and phones, medicine, science. A class that holds nothing else
is refused rather than passed over."""

FIRST_BYTES = 32
"""Number of bytes of a file without an ending by which it is told to be an image."""

STARTS = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|BM.{4}\0{4}|RIFF.{4}WEBP|II[*+]\0|MM\0[*+]|P[1-6]\s+[#\d]|P[fF]\n"
    rb"|\0{3}\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51|.{4}ftypavi[fs]",
    re.DOTALL,
)
"""What such a file begins with. The signatures are those of the formats' specifications; plain text is none of them."""

HEIF_STARTS = re.compile(rb".{4}ftyp(hei[cxms]|hev[cx]|mif1|msf1)", re.DOTALL)
"""What a file in HEIF begins with: the brands of ISO/IEC 23008-12."""


@functools.cache
def heif() -> bool:
    """Whether photos in HEIF can be read."""
    return importlib.util.find_spec("pillow_heif") is not None


@functools.cache
def endings() -> frozenset[str]:
    """Return the endings, in lower case, of files that are taken for images here."""
    return ENDINGS | {*HEIF} if heif() else ENDINGS


def starts_as_image(start: bytes) -> bool:
    """Whether ``start``, a file's first ``FIRST_BYTES`` bytes, is how an image begins."""
    return bool(STARTS.match(start) or (heif() and HEIF_STARTS.match(start)))


def advice(kinds: Iterable[str]) -> str:
    """Say how files with these endings, which aren't read, can be read after all."""
    return "Install pillow-heif: pip install pillow-heif" if {*kinds} & {*HEIF} else "Convert them to PNG or TIFF"
