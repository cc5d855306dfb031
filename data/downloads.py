"""Data sets that can be downloaded: their addresses, and how they are put under the data root."""

import contextlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from backbench import UserError
from backbench.data import sources
from backbench.data.fetch import fetch, writing
from backbench.data.unpack import unpack


@dataclass(frozen=True)
class Download:
    """An archive, and the folder in it that is wanted."""

    url: str
    md5: str
    folder: str
    inner: str | None = None
    """An archive inside the archive that holds ``folder``."""


CALTECH = {
    "caltech256": Download(
        "https://data.caltech.edu/records/nyy15-4j048/files/256_ObjectCategories.tar",
        "67b4f42ca05d46448c6bb8ecd2220f6d",
        "256_ObjectCategories",
    ),
    "caltech101": Download(
        "https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip",
        "3138e1922a9193bfa496528edbbc45d0",
        "101_ObjectCategories",
        inner="caltech-101/101_ObjectCategories.tar.gz",
    ),
}
"""CaltechDATA's records. torchvision before 0.24 has dead links."""


def get(name: str, data_root: str | Path) -> Path:
    """Download and unpack the data set ``name`` below ``data_root``, unless it is present. Returns its folder.

    The archive is unpacked next to its final place, moved there as a whole, and then removed. So a killed run leaves no
    partial data set, and the same command goes on. Raises UserError, also for a data set that can't be downloaded.
    """
    source = sources.SETS[name]
    data_root = Path(data_root)
    if found := source.find(data_root):
        return found
    if not source.has_download:
        command = f". Build it with: {source.made_by}" if source.made_by else ""
        raise UserError(f"{name} has no public download{command}" if source.places else f"{name} needs no download")
    where, home = _download(name), data_root / name
    target = home / where.folder
    with writing(home):
        home.mkdir(parents=True, exist_ok=True)
    with _alone(home):
        if not target.exists():  # otherwise another process has just finished it
            archive = fetch(where.url, home / where.url.rpartition("/")[2], md5=where.md5)
            install(archive, target, inner=where.inner)
            with writing(archive):
                archive.unlink()
    return target


def install(archive: Path, target: Path, *, inner: str | None = None) -> None:
    """Unpack ``archive`` and move its folder of the same name to ``target``, whole or not at all. Raises UserError."""
    work = target.with_name(f".{target.name}.unpacking")
    with writing(target):
        shutil.rmtree(work, ignore_errors=True)  # left by a killed run
        work.mkdir()
        try:
            unpack(archive, work)
            if inner:
                unpack(work / inner, work)
            if not (work / target.name).is_dir():
                raise UserError(f"{archive} holds no folder {target.name}")
            (work / target.name).rename(target)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _download(name: str) -> Download:
    if name in CALTECH:
        return CALTECH[name]
    from torchvision import datasets

    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    return Download(kind.url, kind.tgz_md5, kind.base_folder)


@contextlib.contextmanager
def _alone(home: Path):
    """Hold the lock of ``home``, so that two downloads never write the same .part. It ends with the process."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with writing(home):
        lock = os.open(home / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"another download writes to {home}: wait for it") from error
        yield
    finally:
        os.close(lock)
