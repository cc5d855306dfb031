"""Unpacking archives without trusting the names inside them."""

import gzip
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from backbench import UserError


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a .tar, .tar.gz or .zip into ``folder``.

    Raises UserError, which names the member, where it would be written outside ``folder``, or is no plain file, folder
    or link inside it. Raises UserError also where the archive is damaged.
    """
    try:
        if archive.suffix == ".zip":
            _unzip(archive, folder)
        else:
            _untar(archive, folder)
    except tarfile.FilterError as error:
        raise UserError(f"{archive} is not safe to unpack: {error}") from error
    except (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{archive} is damaged ({error}). Remove it and try again") from error


def _untar(archive: Path, folder: Path) -> None:
    if not hasattr(tarfile, "data_filter"):
        raise UserError("this Python can't unpack a tar safely: 3.10.12, 3.11.4, 3.12 or later is expected")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")


def _unzip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as bundle:
        for name in bundle.namelist():
            path = PurePosixPath(name.replace("\\", "/"))
            if path.is_absolute() or ".." in path.parts or ":" in path.parts[:1]:
                raise UserError(f"{archive} is not safe to unpack: {name!r} would be written outside {folder}")
        bundle.extractall(folder)
