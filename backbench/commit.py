"""Which commit of this project runs: asked of git in a checkout, else as it was written when it was packed."""

import functools
import re
import subprocess
from pathlib import Path

FILE = "commit.txt"
"""Beside this module. ``git archive`` puts the commit into it (.gitattributes), and so does setup.py in a wheel."""

LENGTH = 12
"""Hexadecimal digits of a commit that are given."""

WAIT = 5
"""Seconds that git may take."""


@functools.cache
def commit() -> str | None:
    """The commit's first digits, with ``.dirty`` where files differ from it; None where nothing tells."""
    folder = Path(__file__).parent
    return asked(folder.parent) if (folder.parent / ".git").exists() else written(folder / FILE)


def asked(root: Path) -> str | None:
    """The commit that is checked out in ``root``, by git; None where there is no git or no commit."""
    where = [f"--git-dir={root / '.git'}", f"--work-tree={root}"]
    how = ["describe", "--always", "--exclude=*", f"--abbrev={LENGTH}", "--dirty=.dirty"]
    try:
        # Without locks, so that nothing is written in the checkout.
        done = subprocess.run(
            ["git", "--no-optional-locks", *where, *how], capture_output=True, text=True, timeout=WAIT, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return _known(done.stdout)


def written(file: Path) -> str | None:
    """The commit that ``file`` holds; None where it is not there or still holds git's placeholder."""
    try:
        return _known(file.read_text())
    except (OSError, ValueError):
        return None


def _known(text: str) -> str | None:
    found = re.fullmatch(r"([0-9a-f]{7,64})(\.dirty)?", text.strip())
    return found[1][:LENGTH] + (found[2] or "") if found else None
