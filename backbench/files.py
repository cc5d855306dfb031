"""Files that are there whole or not at all, and what is in them."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

CHUNK = 1 << 20
"""Bytes read at a time for a digest, few enough to be in the processor's cache when they are hashed."""


def sha256(path: Path, *, skip: int = 0) -> str:
    """SHA-256 (hex) of a file's bytes but the first ``skip``; about 1 GB/s. Raises OSError."""
    sha, chunk = hashlib.sha256(), memoryview(bytearray(CHUNK))
    with open(path, "rb", buffering=0) as file:
        file.seek(skip)
        while n := file.readinto(chunk):
            sha.update(chunk[:n])
    return sha.hexdigest()


def write_whole(path: Path, content: bytes) -> None:
    """Put ``content`` at ``path``, making its folder, on disk before it takes its name. Raises OSError."""
    with writing(path) as file:
        file.write(content)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """Give a file to write, which is put at ``path`` at the end, as by ``write_whole``; after an error nothing is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with new.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    finally:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)
