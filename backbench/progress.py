"""Progress of long work on stderr: a bar on a terminal, plain lines elsewhere, with a rate and the time left.

A command is ``watched``: where it has said nothing for ``EVERY`` seconds, a line says what it is doing.

Under ``silenced``, as the Python API works, stderr stays empty: progress goes to a callback and what would be said to a
person to the logger ``backbench``.
"""

import io
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from contextvars import ContextVar

EVERY = 4.5
"""Longest silence in seconds, and the time between plain lines where stderr is not a terminal."""

SOON = 0.7
"""Seconds after which a command that has said nothing yet says which ``step`` it is at."""

WATCHED_EVERY = 0.1
"""Seconds between two looks at the time since the last line."""


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


def _logger():
    import logging  # here, since --help needs none

    return logging.getLogger("backbench")


def tell(line: str) -> None:
    """Say ``line`` to the person at work: on stderr, or under ``silenced`` in the log."""
    if _silenced.get():
        _logger().info(line)
    else:
        _say(line)


_spoken: float | None = None
"""When the last line was written, by ``time.monotonic``; None before the first line of a command."""

_watcher: threading.Thread | None = None

_under_way: list[Callable[[], str | None]] = []
"""What would be said of the work that is under way, the innermost last. None says that a bar shows it already."""


def _say(line: str) -> None:
    global _spoken
    _spoken = time.monotonic()
    print(line, file=sys.stderr, flush=True)


@contextmanager
def _shown(what: Callable[[], str | None]) -> Iterator[None]:
    _under_way.append(what)
    try:
        yield
    finally:
        _under_way.remove(what)


@contextmanager
def step(doing: str, *, usually: str = "") -> Iterator[None]:
    """Name the work inside, such as "listing photos", which has no count of what is done.

    Where it usually takes some seconds, ``usually`` says how many, and both are told at once. Other steps are named
    only where the command is silent for too long.
    """
    started, quiet = time.monotonic(), _hushed or bool(_silenced.get())
    if usually and not _hushed:
        tell(f"{doing[0].upper()}{doing[1:]}, which usually takes {usually}.")

    def still() -> str:
        seconds = time.monotonic() - started
        return f"Still {doing}, after {seconds:.0f} s." if usually or seconds > 2 * SOON else f"Now {doing}."

    with nullcontext() if quiet else _shown(still):
        yield


def loading(*packages: str):
    """Name the ``step`` that imports ``packages``, unless all of them are there already."""
    if not (missing := [package for package in packages if package not in sys.modules]):
        return nullcontext()
    *others, last = missing
    named = f"{', '.join(others)} and {last}" if others else last
    return step(f"loading {named}", usually="2 to 10 s")


@contextmanager
def watched() -> Iterator[None]:
    """Inside, no more than ``EVERY`` seconds pass without a line on stderr; ``SOON`` before the first where a step is
    named. Of several processes that train together only the first speaks.
    """
    global _spoken, _watcher
    if _watcher:  # a group watches over its commands
        yield
        return
    if os.environ.get("LOCAL_RANK", "0") != "0":
        hush()
    _spoken, over = None, threading.Event()
    _watcher = threading.Thread(target=_watch, args=(over,), daemon=True)
    _watcher.start()
    try:
        yield
    finally:
        over.set()
        _watcher.join()
        _watcher = None


def resting():
    """Inside, silence is what is expected, as of a server that waits to be asked."""
    return _shown(lambda: None)


def _watch(over: threading.Event) -> None:
    if hasattr(signal, "pthread_sigmask"):  # not on Windows; else what the main thread holds back would arrive by here
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    started = time.monotonic()
    while not over.wait(WATCHED_EVERY):
        if _hushed:
            continue
        innermost = _under_way[-1:]  # other threads add and remove
        patience = SOON if innermost and _spoken is None else EVERY
        if time.monotonic() - (_spoken or started) < patience:
            continue
        line = innermost[0]() if innermost else f"Still at work, after {time.monotonic() - started:.0f} s."
        if line:
            _say(line)


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
                _logger().info(line)
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
    with Progress(*columns, console=Console(stderr=True)) as bar, _shown(lambda: None):
        task = bar.add_task(label, total=total, completed=already, rate="")

        def advance(n: int) -> None:
            done = bar.tasks[0].completed - already + n
            bar.update(task, advance=n, rate=f"{done / (time.monotonic() - started):,.1f} {unit}/s")

        yield advance


@contextmanager
def _lines(total, label, unit, already):
    started = spoken = time.monotonic()
    done = already

    def line() -> str:
        nonlocal spoken
        spoken = time.monotonic()
        rate = (done - already) / max(spoken - started, 1e-9)
        left = f"  {rate:,.1f} {unit}/s  {(total - done) / rate:,.0f} s left" if rate else ""
        return f"{label}  {done:,}/{total:,} {unit}{left}"

    def advance(n: int) -> None:
        nonlocal done
        done += n
        if time.monotonic() - spoken >= EVERY or done >= total:
            _say(line())

    with _shown(line):
        yield advance
