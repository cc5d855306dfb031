"""Files of weights, as trainers write them: read as tensors alone, known by their content and not by their ending.

Such a file may come from a stranger. Nothing in it is executed, and what it claims to hold is bounded by its size.
"""

import argparse
import contextlib
import os
import sys
import zipfile
from pathlib import Path
from pickle import UnpicklingError

from backbench import UserError

WORDS = ("auto", "hub", "offline", "random")
"""What ``--weights`` may be besides a file."""

ENDINGS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
"""Usual endings of such files, for messages and for finding one in a folder. The content decides how it is read."""

EXPECTED = "expected auto, hub, offline, random or a file of weights: .safetensors, .pth, .pt, .bin, .ckpt or .pth.tar"

HEAD = 512
"""Bytes at a file's beginning that tell what it is."""

FOREIGN = (
    (b"version https://git-lfs", "a git-LFS pointer, which only names the weights. Run git lfs pull in its folder"),
    (b"<", "a web page or an error message, not weights. Download the weights themselves again"),
    (b"\x89HDF", "an HDF5 file, such as Keras writes. Weights of PyTorch are expected"),
    (b"\x93NUMPY", "an array of NumPy. Weights of PyTorch are expected"),
    (b"\x1f\x8b", "compressed by gzip. Unpack it with gunzip, and give the file that it holds"),
    (b"BZh", "compressed by bzip2. Unpack it with bunzip2, and give the file that it holds"),
    (b"\xfd7zXZ", "compressed by xz. Unpack it with unxz, and give the file that it holds"),
    (b"{", "JSON, such as a config or an index of several files. Give the file with the weights"),
)
"""Beginnings of files that are no weights, what such a file is, and what to do. A web page may begin with spaces."""

GROWTH = 8
"""Largest size of a zip's content, in sizes of the file. torch.save doesn't compress: its content is smaller."""

SAVED = 'torch.save(torch.load("{}", weights_only=False)["state_dict"], "weights.pth")'


def check(weights: str) -> None:
    """Raise UserError where ``weights`` is neither one of ``WORDS`` nor a file that may hold weights."""
    path = Path(weights)
    if weights in WORDS:
        return
    if path.is_file():
        _kind(path)
        return
    if path.is_dir():
        inside = sorted(one.name for one in path.iterdir() if one.suffix in ENDINGS)
        offer = f" Give a file in it: {', '.join(inside[:5])}." if inside else ""
        raise UserError(
            f"--weights {weights} is a folder.{offer} For a folder with a config.json: --model local-dir:PATH."
        )
    if path.suffix or os.sep in weights:
        raise UserError(f"--weights {weights}: there is no such file.")
    raise UserError(f"--weights {weights}: {EXPECTED}.")


def read(path: Path) -> object:
    """Return what the file holds: tensors, in dictionaries. Raises UserError where it can't be read as that."""
    from safetensors import SafetensorError

    kind = _kind(path)
    try:
        return _safetensors(path) if kind == "safetensors" else _torch(path)
    except UnpicklingError as error:
        raise UserError(f"{path} can't be read as tensors: {_more_than_tensors(path, error)}") from None
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, EOFError, SafetensorError, MemoryError) as error:
        raise UserError(f"{path} can't be read as tensors: {_in_one_line(error)}") from error


def _kind(path: Path) -> str:
    """Return ``safetensors`` or ``torch``. Raises UserError where the file is something else."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
        size = path.stat().st_size
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}.") from None
    if not size:
        raise UserError(f"{path} can't be read as tensors: it is empty. Copy or download it again.")
    if 2 <= int.from_bytes(head[:8], "little") <= size - 8 and head[8:9] == b"{":
        return "safetensors"
    if head[257:262] == b"ustar":
        raise UserError(f"{path} is a tar archive. Unpack it with tar -xf, and give the file of weights that it holds.")
    if zipfile.is_zipfile(path):
        return _kind_of_zip(path, size)
    if head[:1] == b"\x80":  # a pickle, as torch.save wrote until 2020
        return "torch"
    for beginning, what in FOREIGN:
        if head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(beginning):
            raise UserError(f"{path} can't be read as tensors: it is {what}.")
    cut = " It may have been cut off: copy or download it again." if path.suffix in ENDINGS else ""
    raise UserError(f"{path} can't be read as tensors: it is neither safetensors nor a file of torch.save.{cut}")


def _kind_of_zip(path: Path, size: int) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            inside = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise UserError(f"{path} can't be read as tensors: it is a damaged zip archive ({error}).") from None
    names = {Path(one.filename).name for one in inside}
    if "constants.pkl" in names:
        raise UserError(
            f"{path} can't be read as tensors: it is a TorchScript program, not weights. Save its weights where you "
            f"trust it: torch.save(torch.jit.load({path.name!r}).state_dict(), 'weights.pth')"
        )
    if all(name.endswith(".npy") for name in names):
        raise UserError(f"{path} can't be read as tensors: it holds arrays of NumPy. Weights of PyTorch are expected.")
    if "data.pkl" not in names:
        held = ", ".join(sorted(names)[:3])
        raise UserError(
            f"{path} can't be read as tensors: it is a zip archive of {held}. Unpack it, and give the file."
        )
    if sum(one.file_size for one in inside) > GROWTH * size:
        raise UserError(f"{path} can't be read as tensors: unpacked it would be over {GROWTH} times its size.")
    return "torch"


def _safetensors(path: Path) -> dict:
    from safetensors import safe_open
    from safetensors.torch import load_file

    with safe_open(path, "pt") as file:
        if "backbench" in (file.metadata() or {}):
            print(
                f"{path} was fine-tuned by backbench, and may have seen the images that a probe is tested on. "
                f"finetune features --checkpoint {path.parent} makes sure that it hasn't.",
                file=sys.stderr,
            )
    return load_file(path)


def _torch(path: Path):
    """Return the content by torch.load(weights_only=True), which takes tensors, plain values and what is named here."""
    import numpy as np
    import torch

    # Trainers keep their arguments and their best accuracy, which NumPy computed, beside the weights.
    scalar = np.float64(0).__reduce__()[0]
    plain = [argparse.Namespace, np.dtype, scalar, *(type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "?"))]
    if hasattr(torch.serialization, "get_unsafe_globals_in_checkpoint"):  # torch 2.6 and later take a name beside it
        plain.append((scalar, "numpy.core.multiarray.scalar"))  # as NumPy 1 calls it
    with torch.serialization.safe_globals(plain), path.open("rb") as file:  # of a path torch.load believes the ending
        return torch.load(file, map_location="cpu", weights_only=True)


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _more_than_tensors(path: Path, error: Exception) -> str:
    """What the file holds beside tensors, by which torch.load(weights_only=True) refused it, and the way on."""
    import torch

    found = []
    with contextlib.suppress(AttributeError, ValueError, RuntimeError):  # an older torch, or an older file
        found = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    if not found and "Unsupported global" not in str(error):
        return f"it is damaged, or no file of torch.save. ({_in_one_line(error)[-100:]})"
    return (
        f"beside them it holds objects of {', '.join(found[:5]) or 'other kinds'}. These could run code and are never "
        f"loaded. Where you trust the file, save its tensors alone in Python: {SAVED.format(path.name)}"
    )
