"""Writing safely: one writer at a time, disk space reserved in advance, and clear errors when the system refuses."""

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
"""Seconds between two attempts to take a lock that another run holds."""


_held: set[int] = set()


def _let_go() -> None:
    """In a forked process: close the locks, which would otherwise outlive the run for as long as this process does."""
    for handle in _held:
        os.close(handle)
    _held.clear()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_let_go)


def lock_of(path: Path) -> Path:
    """Return the lock file that a run holds while it writes ``path``."""
    return path.with_name(f"{path.name}.lock")


@contextlib.contextmanager
def lock(path: Path, *, wait: bool = False, quiet: bool = False) -> Iterator[None]:
    """Keep other runs, on any machine that shares the folder, from writing ``path`` while the context lasts.

    The lock is on ``<path>.lock``, which says who holds it. It ends with the process that holds it, even if that is
    killed, so a lock file that was left behind locks nothing. With ``wait`` this run waits for the other to end, and
    says so unless ``quiet``. Without ``wait``, raises UserError.
    """
    lock_file = lock_of(path)
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    announced = quiet
    while (handle := _take(lock_file, path)) is None:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            who = lock_file.read_text() or "another run"
            if not wait:
                raise UserError(
                    f"{path} is being written by another run, {who}. Wait for it (--if-busy wait), or write "
                    "another file (--out FILE)."
                )
            if not announced:
                tell(f"this run is waiting for {who}, which is writing {path}")
                announced = True
        time.sleep(ASK_EVERY)
    _held.add(handle)
    try:
        yield
    finally:
        _held.discard(handle)
        with contextlib.suppress(OSError):  # it is still locked, so it is not another run's file
            lock_file.unlink()
        os.close(handle)


def _take(lock: Path, path: Path) -> int | None:
    """Return the open, locked file, or None while another run holds it."""
    with write_errors(path):
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if _locked(handle, lock) and os.path.samestat(os.fstat(handle), os.stat(lock)):
            with contextlib.suppress(OSError):  # a full disk must not stop a run whose space is reserved
                os.truncate(handle, 0)
                os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
                os.fsync(handle)
            return handle
    except FileNotFoundError:  # the run that held it removed it between opening and locking here
        pass
    except BaseException:
        os.close(handle)
        raise
    os.close(handle)
    return None


def _locked(handle: int, lock: Path) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows has no advisory locks, so two runs on one file go unnoticed there
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        tell(f"the file system of {lock.parent} has no locks ({error.strerror}), so start no second run on {lock.stem}")
    return True


def reserve(path: Path, size: int) -> None:
    """Reserve ``size`` bytes of disk for the file and sync it, so that a full disk is noticed before any work."""
    with open(path, "ab") as file:
        if hasattr(os, "posix_fallocate"):  # not on macOS and Windows
            os.posix_fallocate(file.fileno(), 0, size)
        os.fsync(file.fileno())


def sync(folder: Path) -> None:
    """Sync a folder, so that the names in it are on disk."""
    with contextlib.suppress(PermissionError):  # Windows can't open a folder; there a rename is durable by itself
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def write_errors(path: Path):
    """Turn an OSError, such as a full disk or missing permissions, into a UserError that says what to do."""
    try:
        yield
    except OSError as error:
        # HDF5 reports a failed write without an errno, in its message only.
        text = str(error)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or "errno = 28" in text or "errno = 27" in text
        what = "no space is left there" if full else (error.strerror or text.splitlines()[0])
        raise UserError(
            f"{path} can't be written: {what}. What was computed is kept; free some space or fix the permissions and "
            "run the same command again, or name another folder with --cache-dir."
        ) from error
