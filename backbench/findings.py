"""What an audit found, and what a person decided about it: ``audit.csv``, a line a finding.

Needs nothing but the standard library. Files may be edited by hand, or come from strangers.
"""

import csv
import io
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path

from backbench import UserError, printable
from backbench.files import write_whole

KINDS = ("exact duplicate", "near duplicate", "label", "outlier")

DECISIONS = ("", "right", "wrong", "same")
"""Not decided; nothing is wrong; the label of ``id`` is wrong; both images show the same, so that ``id`` may go."""

NAMED = 20
"""Number of lines at fault that are named."""

MOST_BYTES = 1 << 30
"""No file is read that is larger."""


@dataclass(frozen=True)
class Finding:
    """One line of ``audit.csv``.

    Of a duplicate, ``id`` is the image that may go: of a leak the one in train or val, of two in one split the later.
    ``partner`` is the one that stays. Of a label, ``partner`` is the suggested class. ``evidence`` is for people.
    """

    id: str
    kind: str
    partner: str
    evidence: str
    decision: str = ""


def is_copy(finding: Finding) -> bool:
    """Whether the finding is of two images that show the same, exactly or nearly."""
    return "duplicate" in finding.kind


COLUMNS = tuple(field.name for field in fields(Finding))


def write(path: str | Path, findings: Iterable[Finding]) -> None:
    """Write ``audit.csv``, whole or not at all. Raises UserError where it can't be written."""
    text = "".join(map(_line, (COLUMNS, *(astuple(one) for one in findings))))
    try:
        write_whole(Path(path), text.encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise UserError(f"{path} can't be written: {error.strerror}. Name another file with --out.") from error


def _line(values: Iterable[str]) -> str:
    """Return a line of the CSV. It ends in a line feed, and names that hold a carriage return are quoted, too."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(values)  # before Python 3.13 quotes only for what ends a line
    return f"{text.getvalue()[:-2]}\n"


def read(path: str | Path) -> list[Finding]:
    """Read ``audit.csv``. Columns besides ``COLUMNS`` are passed over, and ``evidence`` may be missing.

    Raises UserError for a file that can't be read, that lacks a column, or with lines at fault, which it names.
    """
    try:
        if Path(path).stat().st_size > MOST_BYTES:
            raise UserError(f"{path} is larger than {MOST_BYTES >> 20} MB: not read.")
        text = Path(path).read_bytes().decode("utf-8-sig", "surrogateescape")
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}. backbench audit writes it.") from error
    lines = csv.DictReader(io.StringIO(text, newline=""), restval="")
    if missing := [name for name in COLUMNS if name not in (lines.fieldnames or ()) and name != "evidence"]:
        raise UserError(f"{path} is no audit.csv: it has no column {', '.join(missing)}. backbench audit writes it.")
    findings, faults = [], []
    try:
        for line in lines:
            found = Finding(**{name: line.get(name) or "" for name in COLUMNS})
            found = replace(found, kind=found.kind.strip(), decision=found.decision.strip())
            for name, allowed in (("kind", KINDS), ("decision", DECISIONS)):
                if getattr(found, name) not in allowed:
                    named = ", ".join(filter(None, allowed))
                    faults.append(
                        f"line {lines.line_num}: {name} {printable(repr(getattr(found, name)))}; {named} are known."
                    )
            findings.append(found)
    except csv.Error as error:
        faults.append(f"line {lines.line_num}: {error}.")
    if faults:
        more = [f"and {len(faults) - NAMED:,} more lines"] if len(faults) > NAMED else []
        raise UserError("\n  ".join([f"{path} has lines at fault:", *faults[:NAMED], *more]))
    return findings
