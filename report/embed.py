"""Renewal of tables in Markdown files, each by the command in the comment above it.

<!-- report table --results-dir docs/study --format md -->
... the table that the command prints ...
<!-- end -->
"""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

from backbench import UserError
from backbench.files import write_whole

BLOCK = re.compile(r"^(<!-- (report (?:table|compare|diff) .*?) -->\n)((?s:.*?))^(<!-- end -->)$", re.MULTILINE)
"""The comment with the command, the table, and the comment at its end. Only commands that print tables are run."""


def stale(path: Path, run: Callable[[list[str]], str], *, write: bool) -> list[str]:
    """Return the commands of the file whose tables are stale. With ``write`` the tables are renewed.

    ``run`` takes a command's words after ``report`` and returns what it prints. Raises UserError where the file can't
    be read or written, or holds no such table.
    """
    found = []

    def renewed(match: re.Match) -> str:
        before, command, between, after = match.groups()
        words = shlex.split(command)[1:]
        if any(word.startswith("--out") for word in words):
            raise UserError(f"{path}: {command!r} would write another file; leave out --out.")
        printed = run(words)
        now = f"\n{printed.strip()}\n\n"
        if now != between:
            found.append(command)
        return before + now + after

    try:
        old = path.read_text(encoding="utf-8")
        new, count = BLOCK.subn(renewed, old)
        if not count:
            raise UserError(f"{path} holds no table between <!-- report table ... --> and <!-- end -->.")
        if write and new != old:
            write_whole(path, new.encode())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} can't be read or written: {error}.") from error
    return found
