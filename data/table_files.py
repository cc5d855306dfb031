"""Reading tables of text: CSV and TSV as spreadsheets and programs write them, and parquet."""

import csv
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from backbench import UserError

if TYPE_CHECKING:
    import pandas as pd

ENDINGS = (".csv", ".tsv", ".tab", ".txt", ".parquet")

ENCODINGS = ("utf-8-sig", "cp1252", "latin-1")
"""Encodings that are tried in turn. Excel writes cp1252 on Windows, and what isn't even that is latin-1."""

UTF_16 = (b"\xff\xfe", b"\xfe\xff")
"""First bytes of UTF-16, in which Excel writes "Unicode text"."""

SEPARATORS = ",;\t|"

MOST_BYTES, MOST_ROWS = 4 << 30, 50_000_000
"""Larger tables are refused before they are read."""


class Table:
    """A table on disk: ``columns``, their names, and ``read`` for some of them, as text."""

    def __init__(self, path: Path):
        """Read the names of the columns. Raises UserError where ``path`` is no table."""
        self.path = path
        with self._readable():
            if path.stat().st_size > MOST_BYTES:
                raise UserError(f"{path} has {path.stat().st_size:,} bytes; tables of {MOST_BYTES:,} at most are read")
            with open(path, "rb") as file:
                start = file.read(1 << 20)
            self.parquet = start.startswith(b"PAR1")
            names = self._parquet().schema_arrow.names if self.parquet else self._look(start)
            self.columns = [name.strip() for name in names]
        self._names = dict(zip(self.columns, names, strict=True))

    def read(self, columns: list[str]) -> "pd.DataFrame":
        """Return ``columns`` (N rows) as text without spaces at its ends, "" where there is nothing."""
        import pandas as pd

        wanted = [self._names[column] for column in dict.fromkeys(columns)]
        with self._readable():
            frame = self._read_parquet(wanted) if self.parquet else self._frame()[wanted]
            frame = frame.rename(columns={self._names[column]: column for column in columns})
            if len(frame) > MOST_ROWS:
                raise UserError(f"{self.path} has {len(frame):,} rows; {MOST_ROWS:,} at most are read")
            return pd.DataFrame({name: frame[name].fillna("").str.strip() for name in frame})

    def _look(self, start: bytes) -> list[str]:
        """Find the encoding and the separator of text that begins with ``start``, and return the columns' names."""
        if start.startswith(b"PK\x03\x04") or start.startswith(b"\xd0\xcf\x11\xe0"):
            raise UserError(f"{self.path} is a spreadsheet or an archive: save it as CSV, in UTF-8")
        if b"\0" in start and not start.startswith(UTF_16):
            raise UserError(f"{self.path} is no table of text: a .csv, .tsv or .parquet file is expected")
        self.encoding = "utf-16" if start.startswith(UTF_16) else self._encoding()
        with open(self.path, encoding=self.encoding, newline="") as file:
            line = file.readline(1 << 20)
        if not line.strip():
            raise UserError(f"{self.path} is empty: a first line with the columns' names is expected")
        found = {separator: len(next(csv.reader([line], delimiter=separator))) for separator in SEPARATORS}
        self.separator = max(found, key=lambda separator: found[separator])
        return self._frame(nrows=0).columns.tolist()

    def _encoding(self) -> str:
        for encoding in ENCODINGS:
            try:
                with open(self.path, encoding=encoding, newline="") as file:
                    while file.read(1 << 22):
                        pass
                return encoding
            except UnicodeDecodeError:
                continue
        raise AssertionError("every file is latin-1")

    def _frame(self, **options) -> "pd.DataFrame":
        import pandas as pd

        with open(self.path, encoding=self.encoding, newline="") as file:
            # All columns are read, since pandas passes over surplus fields where it reads only some.
            frame = pd.read_csv(file, sep=self.separator, dtype=str, na_filter=False, skipinitialspace=True, **options)
        if not isinstance(frame.index, pd.RangeIndex):  # what pandas makes of rows that begin so
            raise ValueError("its first row has more fields than the first line has names")
        return frame

    def _parquet(self):
        try:
            import pyarrow.parquet
        except ImportError as error:
            raise UserError(f"{self.path} needs pyarrow: pip install pyarrow (or pip install '.[sources]')") from error
        return pyarrow.parquet.ParquetFile(self.path)

    def _read_parquet(self, wanted: list[str]) -> "pd.DataFrame":
        import pandas as pd
        import pyarrow

        file, types = self._parquet(), pyarrow.types
        if file.metadata.num_rows > MOST_ROWS:
            raise UserError(f"{self.path} has {file.metadata.num_rows:,} rows; {MOST_ROWS:,} at most are read")
        found = {}
        for name, column in zip(wanted, file.read(columns=wanted).select(wanted).columns, strict=True):
            kind = column.type.value_type if types.is_dictionary(column.type) else column.type
            if types.is_nested(kind) or types.is_binary(kind):
                raise UserError(f"{self.path}: the column {name!r} holds {kind}, where text or numbers are expected")
            values = column.to_pylist()
            found[name] = ["" if value is None or value != value else str(value) for value in values]
        return pd.DataFrame(found, dtype=str)

    def _readable(self):
        return _Readable(self.path)


class _Readable:
    """Turns what reading ``path`` may raise into a UserError that says what was expected."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self):
        return self

    def __exit__(self, kind, error, _):
        import pandas as pd

        if isinstance(error, OSError):
            raise UserError(f"can't read {self.path}: {error.strerror or error}") from error
        known = (ValueError, LookupError, pd.errors.ParserError, csv.Error)
        if isinstance(error, known) or type(error).__module__.startswith("pyarrow"):
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{self.path} can't be read as a table ({reason}): one line for each image is expected")


def row_numbers(which: np.ndarray) -> str:
    """Return the first 20 rows marked in ``which`` (N,) bool as text, counted from 1 beneath the columns' names."""
    rows = np.flatnonzero(which) + 1
    return ", ".join(map(str, rows[:20])) + (f" and {len(rows) - 20:,} more" if len(rows) > 20 else "")
