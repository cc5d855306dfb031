"""What every room shares: the version, the split codes and the two errors a user can mend."""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

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
