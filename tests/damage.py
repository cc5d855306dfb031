"""Single damaged bytes in a feature file, and what ``probe`` then says."""

import json
import shutil
from pathlib import Path

import numpy as np
from click.testing import CliRunner

from backbench.probe.cli import main

LEFT_OUT = ("created", "seconds", "command", "details")
"""Of a row, what differs from run to run."""


def probed(path: Path, folder: Path, *, method: str = "ridge") -> tuple[int, list[dict], str]:
    """Exit code, rows without what differs from run to run, and what stood on stderr, of ``probe`` in this process."""
    line = ["--features", str(path), "--method", method, "--json", "--results-dir", str(folder)]
    result = CliRunner().invoke(main, line)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    rows = json.loads(result.stdout)
    return result.exit_code, [{k: v for k, v in row.items() if k not in LEFT_OUT} for row in rows], result.stderr


def flips(path: Path, places: np.ndarray, rng: np.random.Generator, *, method: str = "ridge") -> dict[str, list[int]]:
    """Damage one byte at each of ``places`` in turn, by a random bit pattern, and sort them by what became of the row.

    ``unchanged`` and ``refused`` are fine; ``changed`` is another row with exit code 0; ``unclear`` is a refusal
    that is not one line with the name of the file.
    """
    copy = path.with_name("damaged") / path.name
    copy.parent.mkdir()
    code, before, _ = probed(shutil.copy(path, copy), copy.parent / "results", method=method)
    assert code == 0
    found = {"unchanged": [], "refused": [], "changed": [], "unclear": []}
    content = path.read_bytes()
    for place in places.tolist():
        damaged = bytearray(content)
        damaged[place] ^= int(rng.integers(1, 256))
        copy.write_bytes(damaged)
        code, rows, said = probed(copy, copy.parent / "results", method=method)
        if code == 0:
            kind = "unchanged" if rows == before else "changed"
        else:
            kind = "refused" if said.count("\n") == 1 and str(copy) in said and code == 1 else "unclear"
        found[kind].append(place)
    return found
