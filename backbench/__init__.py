"""What every room shares: the version, the split codes and the two errors a user can mend.

And the Python API, ``import backbench as bb``: see ``backbench.api``. It is imported when it is first used.
"""

import difflib
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

__version__ = "0.1.0"

SPLITS = ("train", "val", "test")
"""Names of the split codes 0, 1 and 2, as stored in every feature file."""


def version() -> str:
    """The version with the commit that runs, ``0.1.0+g1a2b3c4d5e6f``, with ``.dirty`` where files differ from it.

    Without the commit where nothing tells it. git is asked once a process, which takes some 10 ms.
    """
    from backbench.commit import commit

    found = commit()
    return f"{__version__}+g{found}" if found else __version__


API = {
    **dict.fromkeys(("open", "compare", "load", "results", "to_parquet"), "backbench.api"),
    "Features": "backbench.cache.arrays",
    "LogisticProbe": "backbench.probe.estimator",
}
"""Names of the Python API and the modules they are imported from; ``CALLED`` has three more."""

CALLED = ("extract", "probe", "audit")
"""Functions of the Python API whose names are rooms' names, too: there the room is what is called."""


def __getattr__(name: str):
    if name in CALLED:
        return import_module(f"backbench.{name}")
    if name not in API:
        raise AttributeError(f"module 'backbench' has no attribute {name!r}")
    return getattr(import_module(API[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *API, *CALLED})


class _CalledRoom(ModuleType):
    """A room that can be called: it is the function of ``backbench.api`` of the same name."""

    def __call__(self, *args, **options):
        return getattr(import_module("backbench.api"), self.__name__.rpartition(".")[2])(*args, **options)

    @property
    def __signature__(self):
        from inspect import signature

        return signature(getattr(import_module("backbench.api"), self.__name__.rpartition(".")[2]))


def make_callable(room: str) -> None:
    """Let ``bb.probe(...)`` be a call, although importing ``backbench.probe`` makes ``bb.probe`` that room."""
    sys.modules[room].__class__ = _CalledRoom


class UserError(Exception):
    """Faults a user can mend, each saying what was found, what was expected and the command that mends it.

    All faults of a request travel together: ``UserError("first", "second")``.
    """

    exit_code = 1

    def __init__(self, *faults: str):
        super().__init__(*faults)
        self.faults = faults

    def __str__(self) -> str:
        return self.faults[0] if len(self.faults) == 1 else "\n".join(f"- {fault}" for fault in self.faults)


class UsageError(UserError):
    """Faults in what was typed: unknown names, options that exclude each other."""

    exit_code = 2


def suggest(name: str, known: Iterable[str]) -> str:
    """``' Did you mean a, b?'`` for the known names nearest to ``name``, or nothing where none is near."""
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f" Did you mean {', '.join(near)}?" if near else ""


class Faults:
    """The faults of a request, collected so that a user sees all of them at once."""

    def __init__(self):
        self.errors: list[UserError] = []

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Note a UserError raised inside instead of passing it on."""
        try:
            yield
        except UserError as error:
            self.errors.append(error)

    def stop(self) -> None:
        """Raise everything collected, as a UsageError if any of it is one; return where there is nothing."""
        if self.errors:
            kind = UsageError if any(isinstance(error, UsageError) for error in self.errors) else UserError
            raise kind(*(fault for error in self.errors for fault in error.faults))


def printable(name: str) -> str:
    """Return ``name`` with control characters escaped, since names must not control the terminal or break a line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(name))


def columns(lines: Sequence[Sequence[str]], *, left: int | None = None) -> str:
    """Lines of cells in aligned columns, the first ``left`` of them (or all) flush left, the others, numbers, right.

    Never truncated: a pipe takes every line whole.
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = [
        [
            cell.ljust(width) if left is None or i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        for line in lines
    ]
    return "\n".join("  ".join(line).rstrip() for line in padded)
