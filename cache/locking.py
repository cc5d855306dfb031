"""What the file system is asked for: one writer at a time, room in advance, and plain words when it refuses."""

import contextlib
import errno
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from backbench import UserError
from backbench.progress import tell

ASK_EVERY = 0.2
"""Seconds between two looks at a lock that another run holds."""


def lock_of(path: Path) -> Path:
    """The file whose lock is held by who makes ``path``."""
    return path.with_name(f"{path.name}.lock")


@contextlib.contextmanager
def hold(path: Path, *, wait: bool = False, quiet: bool = False) -> Iterator[None]:
    """Keep other runs, on any machine that shares the folder, from making ``path`` while the context lasts.

    The lock is on ``<path>.lock``, which says who holds it and goes with its holder's death, however that comes; a file
    left by one that was killed locks nothing. ``wait`` for a holder to end (said, unless ``quiet``), or raise
    UserError.
    """
    lock = lock_of(path)
    with faults(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    said = quiet
    while (handle := _take(lock, path)) is None:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            who = lock.read_text() or "another run"
            if not wait:
                raise UserError(
                    f"{path} is being written by another run, {who}. Wait for it (--if-busy wait), or give this one "
                    "--out FILE."
                )
            if not said:
                tell(f"waiting for {who}, which is writing {path}")
                said = True
        time.sleep(ASK_EVERY)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # while it is still locked, so that no other's is removed
            lock.unlink()
        os.close(handle)


def _take(lock: Path, path: Path) -> int | None:
    """The open, locked file, or None while another holds it."""
    with faults(path):
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if _locked(handle, lock) and os.path.samestat(os.fstat(handle), os.stat(lock)):
            with contextlib.suppress(OSError):  # a full disk must not stop a run whose place is reserved
                os.truncate(handle, 0)
                os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
                os.fsync(handle)
            return handle
    except FileNotFoundError:  # its holder ended and removed it between our opening and locking it
        pass
    except BaseException:
        os.close(handle)
        raise
    os.close(handle)
    return None


def _locked(handle: int, lock: Path) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows: no advisory locks; two runs on one file are not noticed there
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        tell(f"{lock.parent} knows no locks ({error.strerror}): start no second run on {lock.stem}")
    return True


def reserve(path: Path, size: int) -> None:
    """Claim ``size`` bytes of disk for the file now, so that a disk too small is found before any work, then sync."""
    with open(path, "ab") as file:
        if hasattr(os, "posix_fallocate"):  # not on macOS and Windows
            os.posix_fallocate(file.fileno(), 0, size)
        os.fsync(file.fileno())


def sync(folder: Path) -> None:
    """Bring the names in a folder to disk."""
    with contextlib.suppress(PermissionError):  # Windows can't open a folder; there a rename is durable by itself
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def faults(path: Path):
    """Turn what the system says of a full disk or a forbidden folder into a message that names the way on."""
    try:
        yield
    except OSError as error:
        # HDF5 reports a failed write without an errno, in its message only.
        text = str(error)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or "errno = 28" in text or "errno = 27" in text
        what = "no space is left there" if full else (error.strerror or text.splitlines()[0])
        raise UserError(
            f"{path} can't be written: {what}. What was computed is kept; free some space or mend the permissions and "
            "run the same command again, or name another place with --cache-dir."
        ) from error
