"""The seal of a finished feature file: the SHA-256 of all of its bytes, in front of them.

A feature file begins with ``SIZE`` bytes that HDF5 leaves to its user (its "user block"). They are zero until the last
row is in, and then hold the digest of everything behind them: arrays, identity, measured figures and HDF5's own
structures. So the file is compared before HDF5 reads it, whose library crashes on some damaged bytes.
"""

import hashlib
import re
from pathlib import Path

SIZE = 512
"""Bytes before HDF5's own: the least that its format knows."""

MAGIC = b"backbench feature file"

CHUNK = 1 << 20
"""Bytes read at a time, few enough to be in the processor's cache when they are hashed."""


def digest(path: Path) -> str:
    """SHA-256 (hex) of all that lies behind the seal."""
    sha, chunk = hashlib.sha256(), memoryview(bytearray(CHUNK))
    with open(path, "rb", buffering=0) as file:
        file.seek(SIZE)
        while n := file.readinto(chunk):
            sha.update(chunk[:n])
    return sha.hexdigest()


def put(path: Path) -> None:
    """Seal the file as it is now. The caller syncs it."""
    with open(path, "r+b") as file:
        file.write(_block(digest(path)))


def _block(sha256: str) -> bytes:
    return f"{MAGIC.decode()}. SHA-256 of all behind these {SIZE} bytes:\n{sha256}\n".encode().ljust(SIZE, b"\0")


def read(path: Path) -> str | None:
    """The digest (hex) that was written, or None where there is no seal."""
    head = _head(path)
    found = re.search(rb"\n([0-9a-f]{64})\n\0", head)
    return found[1].decode() if found and head.startswith(MAGIC) else None


def broken(path: Path) -> str | None:
    """What is wrong with a file that has a seal. None where it is whole, or has none."""
    head = _head(path)
    if not head.startswith(MAGIC):
        return None
    found, written = digest(path), read(path) or "nothing to be read"
    if head == _block(found):
        return None
    return f"the checksum of what it holds is {found[:12]}, but {written[:12]} is stored"


def _head(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(SIZE)
