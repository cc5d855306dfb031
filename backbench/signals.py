"""Signals that wait."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def held_back(number: int) -> Iterator[None]:
    """Signal ``number`` waits till the end of this; a process begun inside goes on holding it back."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
