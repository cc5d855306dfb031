"""A set of images that were handed over in a list, from Python: PIL images, or paths of files."""

import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from backbench import UserError
from backbench.data import decode, levels
from backbench.data.imageset import ImageSet

NAME = "images"
"""What the set is called where nothing else is said."""

AS_PNG = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
"""PIL's modes that PNG keeps as they are. TIFF keeps all others that can be decoded."""


def images(given: Sequence, *, ids, labels, split, class_names: list[str], name: str = NAME, exif: str) -> ImageSet:
    """The images ``given`` (N), each a PIL image or a file's path, with ``ids`` (N), ``labels`` (N,), ``split`` (N,).

    They are read as the files of any set: a PIL image is what it would be from a file without loss. Its pixels, and of
    a file all bytes, are in the set's digests. Raises UserError naming what is no image and no path, or isn't there.
    """
    faults = [
        f"{ids[i]} is a {type(one).__name__}: a PIL image or the path of one is expected"
        for i, one in enumerate(given)
        if not isinstance(one, Image.Image | str | os.PathLike)
    ]
    faults += [
        f"{os.fspath(one)} is no file"
        for one in given
        if isinstance(one, str | os.PathLike) and not Path(one).is_file()
    ]
    if exif not in decode.EXIF:
        faults.append(f"exif={exif!r}: {' or '.join(decode.EXIF)} is expected")
    if faults:
        more = [f"and {len(faults) - 20:,} more"] if len(faults) > 20 else []
        raise UserError(*faults[:20], *more)
    labels, split = np.asarray(labels), np.asarray(split, np.int8)

    def stored(i: int) -> bytes:
        return _bytes(given[i])

    return levels.decided(ImageSet(name, ids, labels, split, class_names, exif=exif, stored=stored))


def _bytes(image) -> bytes:
    return _encoded(image) if isinstance(image, Image.Image) else Path(image).read_bytes()


def _encoded(image: Image.Image) -> bytes:
    """A file with the image's pixels, its palette and its EXIF orientation."""
    file = io.BytesIO()
    how = {"format": "PNG", "compress_level": 0} if image.mode in AS_PNG else {"format": "TIFF"}
    image.save(file, **how, exif=image.getexif())
    return file.getvalue()
