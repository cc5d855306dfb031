"""Progress of long work on stderr: a bar on a terminal, plain lines elsewhere, with a rate and the time left.

Under ``silenced``, as the Python API works, stderr stays empty: progress goes to a callback and what would be said to a
person to the logger ``backbench``.
"""

import io
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from contextvars import ContextVar

LINE_EVERY = 10.0
"""Seconds between plain lines where stderr is not a terminal."""


_hushed = False


def hush() -> None:
    """Show nothing in this process, for it is one of several: another shows the progress of all."""
    global _hushed
    _hushed = True


_silenced: ContextVar[Callable[[str, int, int], None] | None] = ContextVar("silenced", default=None)


@contextmanager
def silenced(call: Callable[[str, int, int], None] | None = None, *, stderr: bool = False) -> Iterator[None]:
    """Inside, nothing is printed: ``call(label, done, total)`` hears of progress, and lines are logged at level INFO.

    It counts for this thread. With ``stderr`` whatever any code writes there is logged too, in the whole process.
    """
    token = _silenced.set(call or (lambda label, done, total: None))
    try:
        with redirect_stderr(_Log(sys.stderr)) if stderr else nullcontext():
            yield
    finally:
        _silenced.reset(token)


def tell(line: str) -> None:
    """Say ``line`` to the person at work: on stderr, or under ``silenced`` in the log."""
    if _silenced.get():
        logging.getLogger("backbench").info(line)
    else:
        print(line, file=sys.stderr)


class _Log(io.TextIOBase):
    """A stream whose lines are logged. What a handler writes to stderr meanwhile goes to ``stderr`` itself."""

    def __init__(self, stderr):
        self.stderr, self.here = stderr, threading.local()

    def write(self, text: str) -> int:
        if getattr(self.here, "logging", False):
            return self.stderr.write(text)
        self.here.logging = True
        try:
            for line in filter(None, map(str.strip, text.splitlines())):
                logging.getLogger("backbench").info(line)
        finally:
            self.here.logging = False
        return len(text)


@contextmanager
def progress(total: int, label: str, *, unit: str = "images", done: int = 0) -> Iterator[Callable[[int], None]]:
    """Give ``advance(n)``, to be called as ``n`` more of ``total`` units are done; ``done`` were already."""
    show = _nothing if _hushed else _called if _silenced.get() else _bar if sys.stderr.isatty() else _lines
    with show(total, label, unit, done) as advance:
        yield advance


@contextmanager
def _nothing(total, label, unit, already):
    yield lambda n: None


@contextmanager
def _called(total, label, unit, already):
    call, done = _silenced.get(), already
    assert call

    def advance(n: int) -> None:
        nonlocal done
        done += n
        call(label, done, total)

    yield advance


@contextmanager
def _bar(total, label, unit, already):
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    started = time.monotonic()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=total, completed=already, rate="")

        def advance(n: int) -> None:
            done = bar.tasks[0].completed - already + n
            bar.update(task, advance=n, rate=f"{done / (time.monotonic() - started):,.1f} {unit}/s")

        yield advance


@contextmanager
def _lines(total, label, unit, already):
    started = spoken = time.monotonic()
    done = already

    def advance(n: int) -> None:
        nonlocal done, spoken
        done += n
        now = time.monotonic()
        if now - spoken < LINE_EVERY and done < total:
            return
        spoken = now
        rate = (done - already) / max(now - started, 1e-9)
        left = f"  {rate:,.1f} {unit}/s  {(total - done) / rate:,.0f} s left" if rate else ""
        print(f"{label}  {done:,}/{total:,} {unit}{left}", file=sys.stderr)

    yield advance
