"""The seal of a finished feature file is the SHA-256 of all of its bytes, stored in front of them.

A feature file begins with ``SIZE`` bytes that HDF5 leaves to its user (its "user block"). They are zero until the last
row is written. Then they hold the digest of everything behind them: arrays, identity, measured figures and HDF5's own
structures. So the checksum is compared before HDF5 reads the file, since its library crashes on some damaged bytes.
"""

import re
from pathlib import Path

from backbench.files import sha256

SIZE = 512
"""Number of bytes before HDF5's own: the least that its format allows."""

MAGIC = b"backbench feature file"


def put(path: Path) -> None:
    """Write the seal of the file as it is now. The caller syncs the file."""
    with open(path, "r+b") as file:
        file.write(_block(sha256(path, skip=SIZE)))


def _block(digest: str) -> bytes:
    return f"{MAGIC.decode()}. SHA-256 of all behind these {SIZE} bytes:\n{digest}\n".encode().ljust(SIZE, b"\0")


def read(path: Path) -> str | None:
    """Return the digest (hex) that is stored, or None where there is no seal."""
    head = _head(path)
    found = re.search(rb"\n([0-9a-f]{64})\n\0", head)
    return found[1].decode() if found and head.startswith(MAGIC) else None


def broken(path: Path) -> str | None:
    """Return what is wrong with a file that has a seal, or None where it is whole or has none."""
    head = _head(path)
    if not head.startswith(MAGIC):
        return None
    found, written = sha256(path, skip=SIZE), read(path) or "nothing to be read"
    if head == _block(found):
        return None
    return f"the checksum of its content is {found[:12]}, but {written[:12]} is stored"


def _head(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(SIZE)
