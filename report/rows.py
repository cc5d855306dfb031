"""Result rows: one JSON line a measured thing, in ``results/rows.jsonl``. Appended to and read, never edited.

With ``report.details`` this is all that the other rooms know of ``report``. Neither needs more than the standard
library.
"""

import json
import math
import os
import platform
import shlex
import sys
from datetime import datetime, timezone
from pathlib import Path

from backbench import UserError, __version__, version

FILE = "rows.jsonl"

SCHEMA = 1
"""Version of the row's shape. A reader refuses rows of a later one."""

REQUIRED = (
    "schema", "created", "stage", "dataset", "model", "method", "seed",
    "device", "seconds", "protocol", "features", "versions", "command",
)  # fmt: skip
"""Keys that every row holds. ``features`` and ``device`` may be null."""

TORN = "#torn"
"""Put after a last line without its newline, so that readers know half a row (a killed process, a full disk) from a
broken one. It may also follow a whole row, or stand alone where a writer saw another's row half-way down."""

WRITTEN = ("written",)
"""Under this key ``report.names`` keeps a row as it was written. No JSON object has such a key, so that no row can
claim it."""

_VERSIONED = {"numpy": "numpy", "scikit-learn": "sklearn", "torch": "torch", "timm": "timm"}


def make(
    stage: str,
    *,
    dataset: str,
    model: str,
    method: str,
    seed: int,
    figures: dict,
    protocol: dict,
    features: dict | None,
    device: str | None,
    seconds: float,
    settings: dict | None = None,
) -> dict:
    """A row: what was measured (``figures``, laid flat; accuracies 0..1), how, on what and by which command.

    ``settings`` are the part of the protocol that a user may set and that changes what is measured: two rows that
    differ in them are never taken for the same thing (``report.identity``). Outcomes, such as the penalty that val
    chose, are in ``protocol`` alone. With None all of ``protocol`` that is not known to be an outcome counts.

    ``features`` is the feature file's identity and measured values in one flat dict, and its path. ``seconds`` is the
    stage's own wall time; the time that extraction took is in ``features``. NaN and infinity become null. Versions are
    those of the libraries already imported, so that asking costs nothing.
    """
    row = {
        "schema": SCHEMA,
        "created": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        "stage": stage,
        "dataset": dataset,
        "model": model,
        "method": method,
        "seed": seed,
        "device": device,
        "seconds": seconds,
        "protocol": protocol,
        "features": features,
        "versions": _versions(),
        "command": _command(),
    } | ({} if settings is None else {"settings": settings})
    if taken := row.keys() & figures.keys():
        raise ValueError(f"figures named like a row's own keys: {', '.join(sorted(taken))}")
    return plain({**row, **figures})


def append(results_dir: Path | str, row: dict) -> Path:
    """Add ``row`` to ``results_dir/rows.jsonl`` and give back that path. Any number of processes may append at once.

    Raises UserError where the disk is full or the folder can't be written: print the result first, then append.
    """
    if missing := [key for key in REQUIRED if key not in row]:
        raise ValueError(f"a row needs {', '.join(missing)}")
    line = json.dumps(plain(row), allow_nan=False, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
    path = Path(results_dir) / FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666)
        try:
            size = os.fstat(file).st_size
            os.lseek(file, max(size - 1, 0), os.SEEK_SET)
            if size and os.read(file, 1) != b"\n":
                line = f"{TORN}\n".encode() + line
            # One write on O_APPEND: the system keeps the rows of concurrent writers apart.
            written = os.write(file, line)
            os.fsync(file)
        finally:
            os.close(file)
    except OSError as error:
        raise UserError(_unwritten(path, error.strerror)) from error
    if written < len(line):
        raise UserError(_unwritten(path, f"only {written} of {len(line)} bytes went in, the disk is probably full"))
    return path


def read(results_dir: Path | str) -> list[dict]:
    """All rows of ``results_dir``, oldest first; none where there is no file yet.

    Raises UserError naming file and line for every broken line. A line that was torn by a killed process is passed
    over with a warning on stderr.
    """
    path = Path(results_dir) / FILE
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}.") from error
    rows, faults = [], []
    for number, line in enumerate(lines, start=1):
        body = line.strip().removesuffix(TORN.encode())
        if not body:
            continue
        try:
            rows.append(_parse(body))
        except ValueError as error:
            if body != line.strip() or number == len(lines):
                print(f"Warning: {path}:{number}: passed over half a row left by a stopped run.", file=sys.stderr)
            else:
                faults.append(f"{path}:{number}: not a result row: {error}. Mend or delete this line.")
    if faults:
        raise UserError(*faults)
    return rows


def own_test(row: dict) -> bool:
    """Whether it holds an accuracy on the test images of the data set that its head was fitted on, not of a target."""
    return "top1" in row and row.get("target") is None


def _parse(line: bytes) -> dict:
    row = json.loads(line, parse_constant=refuse)
    if not isinstance(row, dict):
        raise ValueError("expected a JSON object")
    if missing := [key for key in REQUIRED if key not in row]:
        raise ValueError(f"without {', '.join(missing)}")
    if row["schema"] != SCHEMA:
        raise ValueError(f"of schema {row['schema']}, this backbench {__version__} reads schema {SCHEMA}")
    return row


def refuse(constant: str):
    raise ValueError(f"{constant} is not a JSON number")


def plain(value):
    """``value`` as plain JSON types: numpy's numbers and arrays unpacked, NaN and infinity null, paths as text."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value.as_posix() if isinstance(value, Path) else value


def _versions() -> dict[str, str]:
    loaded = {name: sys.modules[module] for name, module in _VERSIONED.items() if module in sys.modules}
    return {
        "backbench": version(),
        "python": platform.python_version(),
        **{name: str(getattr(module, "__version__", "unknown")) for name, module in loaded.items()},
    }


def _command() -> str:
    """The command line, to paste: ``probe ...``, or ``python -m probe ...``, without this machine's folders."""
    program = Path(sys.argv[0])
    name = ["python", "-m", program.parent.name] if program.name == "__main__.py" else [program.name]
    return shlex.join([*name, *sys.argv[1:]])


def _unwritten(path: Path, reason: str) -> str:
    return (
        f"{path}: the result row was not written: {reason}. The result itself is in the output above. "
        "Make room there, or choose another folder with --results-dir, and run the command again."
    )
