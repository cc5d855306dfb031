"""Result rows: one JSON line a measured thing, in ``results/rows.jsonl``. Appended to and read, never edited.

Every stage writes them, and ``report`` reads them. Nothing but the standard library is needed.
"""

import contextlib
import hashlib
import json
import math
import mmap
import os
import platform
import shlex
import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from backbench import UserError, __version__, version
from backbench.progress import tell

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

PASSING = ("id", "created", "seconds", "device", "command", "details", "versions")
"""Keys of a row that tell of its making, not of what was measured or of what came out."""

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
    differ in them are never taken for the same thing (``identity``). Outcomes, such as the penalty that val
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


def digest(*parts) -> str:
    """A row's id from what it is made of: 32 hexadecimal digits of the SHA-256 of the canonical JSON."""
    body = json.dumps(plain(parts), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(body.encode("utf-8", "backslashreplace")).hexdigest()[:32]


def identified(row: dict) -> dict:
    """``row`` with an ``id``. Where a stage gives none, equal rows are those of equal settings and equal figures.

    So a command that is repeated and finds the same again adds nothing; the seconds kept are those of the first time.
    """
    return row if "id" in row else row | {"id": digest({key: row[key] for key in row.keys() - {*PASSING}})}


def find(results_dir: Path | str, id: str) -> dict | None:
    """The row of that ``id``, or None."""
    return next((row for row in holding(results_dir, f'"id": {json.dumps(id)}') if row.get("id") == id), None)


def holding(results_dir: Path | str, text: str) -> Iterator[dict]:
    """The rows whose lines hold ``text``. The file is searched, not parsed: 100,000 rows of 6 kB take 0.25 s.

    Raises UserError where the file can't be read.
    """
    path = Path(results_dir) / FILE
    try:
        if not path.is_file() or not path.stat().st_size:
            return
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as lines:
            at = lines.find(text.encode())
            while at >= 0:
                end = lines.find(b"\n", at)
                end = len(lines) if end < 0 else end
                with contextlib.suppress(ValueError):  # a torn line
                    yield _parse(lines[lines.rfind(b"\n", 0, at) + 1 : end])
                at = lines.find(text.encode(), end)
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}.") from error


def append(results_dir: Path | str, row: dict) -> Path:
    """Add ``row`` to ``results_dir/rows.jsonl``, unless its ``id`` is there, and give back that path.

    Any number of processes may append at once. Raises UserError where the disk is full or the folder can't be written:
    print the result first, then append.
    """
    if missing := [key for key in REQUIRED if key not in row]:
        raise ValueError(f"a row needs {', '.join(missing)}")
    row = identified(row)
    line = json.dumps(plain(row), allow_nan=False, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
    path = Path(results_dir) / FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666)
        try:
            _lock(file)
            if find(results_dir, row["id"]):
                return path
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


RENAMED = {
    "drop_apart": "paired_drop_difference", "robustness": "effective_robustness", "shift": "corruption",
    "run_seconds": "training_seconds", "top1_mapped": "top1_mapped_classes",
    "source_top1_mapped": "source_top1_mapped_classes",
    **{f"{name}_{end}": f"{new}_{end}" for name, new in
       (("top1_mapped", "top1_mapped_classes"), ("drop_apart", "paired_drop_difference")) for end in ("low", "high")},
}  # fmt: skip
"""Keys of rows written before, and what they are called now."""

RENAMED_METHODS = {"sgd": "published"}


def today(row: dict) -> dict:
    """A row in today's words, whatever version wrote it."""
    row = {RENAMED.get(key, key): value for key, value in row.items()}
    if row.get("method") in RENAMED_METHODS:
        row["method"] = RENAMED_METHODS[row["method"]]
    return row


def read(results_dir: Path | str) -> list[dict]:
    """All rows of ``results_dir``, oldest first; none where there is no file yet.

    Raises UserError naming file and line for every broken line. A line that was torn by a killed process is passed
    over with a warning.
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
                tell(f"Warning: {path}:{number}: passed over half a row left by a stopped run.")
            else:
                faults.append(f"{path}:{number}: not a result row: {error}. Mend or delete this line.")
    if faults:
        raise UserError(*faults)
    return rows


def _lock(file: int) -> None:
    """Hold the open file until it is closed, so that no other process adds the same row between look and write."""
    with contextlib.suppress(ImportError, OSError):  # Windows, or a file system without locks: one write is whole there
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX)


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
    return today(row)


def refuse(constant: str):
    raise ValueError(f"{constant} is not a JSON number")


def plain(value) -> Any:
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
    """The command line, to paste: ``probe ...``, without this machine's folders."""
    program = Path(sys.argv[0])
    return shlex.join([program.parent.name if program.name == "__main__.py" else program.name, *sys.argv[1:]])


def _unwritten(path: Path, reason: str | None) -> str:
    return (
        f"{path}: the result row was not written: {reason}. The result itself is in the output above. "
        "Make room there, or choose another folder with --results-dir, and run the command again."
    )
