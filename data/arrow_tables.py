"""Images in tables: parquet files are read a few megabytes at a time, arrow files are mapped. Needs pyarrow."""

import bisect
import itertools
import threading
from collections import deque

import numpy as np

CHUNK = 8 << 20
"""Number of bytes of images that are read from a parquet file at once."""

KEPT = 4
"""Number of such chunks that are kept. Threads that read a batch of neighbours are never further apart."""

STREAMS = 2
"""Number of parquet files that are open at once. A batch may span the end of one and the beginning of the next."""


class Rows:
    """Images in the ``column`` of consecutive tables. ``rows(i)`` returns the encoded image ``i``. Thread safe."""

    def __init__(self, paths: list[str], column: str):
        self.paths, self.column = paths, column
        self.ends: list[int] = []
        """For each table, the number of images in it and all before it; ``table`` fills it, table by table."""
        self._reset()

    def __getstate__(self):
        return {"paths": self.paths, "column": self.column, "ends": self.ends}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._reset()

    def __call__(self, i: int) -> bytes:
        """Return the bytes of image ``i``. Raises OSError or ValueError."""
        k = bisect.bisect_right(self.ends, i)
        cell = self._cell(k, int(i) - (self.ends[k - 1] if k else 0))
        if cell.is_valid and hasattr(cell, "keys"):  # a struct of bytes and path
            cell = cell["bytes"]
        if not cell.is_valid:
            raise OSError("its row holds no image, at most the path of one")
        return cell.as_py()

    def places(self) -> list[tuple[str, int]]:
        """Return the table of each image and its row there."""
        starts = [0, *self.ends]
        return [
            (path, row)
            for path, start, end in zip(self.paths, starts, self.ends, strict=False)
            for row in range(end - start)
        ]


class Parquet(Rows):
    """Rows of parquet files."""

    def _reset(self):
        self.lock = threading.Lock()
        self.chunks = deque(maxlen=KEPT)
        self.streams: dict[int, _Stream] = {}

    @staticmethod
    def schema(path: str):
        import pyarrow.parquet

        return pyarrow.parquet.read_schema(path)

    def table(self, k: int, *columns: str):
        """Return the values of ``columns`` in table ``k``, and the size in bytes of each row group."""
        stream = _Stream(self.paths[k], self.column, 0)
        self.ends.append((self.ends[-1] if self.ends else 0) + stream.file.metadata.num_rows)
        if not columns:
            return [], stream.sizes
        read = stream.file.read(columns=[*dict.fromkeys(columns)], use_threads=False)
        if not len(read) == sum(stream.rows) == stream.file.metadata.num_rows:
            raise ValueError(f"{len(read)} labels for {stream.file.metadata.num_rows} rows")
        return [read.column(name) for name in columns], stream.sizes

    def _cell(self, k: int, row: int):
        with self.lock:
            return self._chunk(k, row)[row]

    def _chunk(self, k: int, row: int):
        for file, chunk in self.chunks:
            if file == k and row in chunk.rows:
                return chunk
        stream = self.streams.pop(k, None)
        if stream is None or not stream.reaches(row):
            stream = _Stream(self.paths[k], self.column, row)
        chunk = stream.until(row)
        self.chunks.append((k, chunk))
        if stream.next < stream.ends[-1]:
            self.streams[k] = stream  # keeps the order of use: the least recently used stream is closed first
        if len(self.streams) > STREAMS:
            del self.streams[next(iter(self.streams))]
        return chunk


class _Chunk:
    """Cells of neighbouring rows, which are looked up by row."""

    def __init__(self, first: int, cells):
        self.rows, self.cells = range(first, first + len(cells)), cells

    def __getitem__(self, row: int):
        return self.cells[row - self.rows.start]


class _Stream:
    """The images of a parquet file from the row group of ``row`` on, read forward only, whatever the groups' size."""

    def __init__(self, path: str, column: str, row: int):
        import pyarrow.parquet

        # Without buffering, or with pre-buffering, a whole row group would be in memory, which may be the whole file.
        self.file = pyarrow.parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
        meta = self.file.metadata
        groups = [meta.row_group(g) for g in range(meta.num_row_groups)]
        self.rows = [group.num_rows for group in groups]
        # Sizes are those of all columns. Asked for one column's, pyarrow 26 crashes on some damaged files.
        self.sizes = [group.total_byte_size for group in groups]
        self.ends = [*itertools.accumulate(self.rows)]
        struct = pyarrow.types.is_struct(self.file.schema_arrow.field(column).type)
        wanted = f"{column}.bytes" if struct else column
        group = bisect.bisect_right(self.ends, row)
        self.next = self.ends[group - 1] if group else 0
        self.cells = self._cells(wanted, group)

    def _cells(self, wanted: str, group: int):
        n = max(1, CHUNK * sum(self.rows[group:]) // max(1, sum(self.sizes[group:])))
        which = range(group, len(self.rows))
        for batch in self.file.iter_batches(min(n, 1 << 16), which, columns=[wanted], use_threads=False):
            yield batch.column(0)

    def reaches(self, row: int) -> bool:
        """Whether reading on reaches ``row`` without reading over a whole row group."""
        return row >= self.next and bisect.bisect_right(self.ends, row) <= bisect.bisect_right(self.ends, self.next)

    def until(self, row: int) -> _Chunk:
        """Read on to the chunk that holds ``row``. Raises OSError where the table ends before it."""
        for cells in self.cells:
            chunk = _Chunk(self.next, cells)
            self.next += len(cells)
            if row in chunk.rows:
                return chunk
        raise OSError(f"the table ends before row {row}")


class Arrow(Rows):
    """Rows of arrow files."""

    def _reset(self):
        self.lock = threading.Lock()
        self.tables: dict[int, tuple] = {}

    @staticmethod
    def schema(path: str):
        import pyarrow.compute

        with pyarrow.memory_map(path) as file:
            return _opened(file).schema

    def table(self, k: int, *columns: str):
        """Return the values of ``columns`` in table ``k``, and the size in bytes of each image."""
        import pyarrow.compute

        batches, starts = self._table(k)
        values, sizes = {name: [] for name in columns}, []
        for batch in batches:
            cells = batch.column(self.column)
            cells.validate(full=True)  # a stranger's offsets could point anywhere
            if pyarrow.types.is_struct(cells.type):
                cells = pyarrow.compute.struct_field(cells, "bytes")
            lengths = pyarrow.compute.fill_null(pyarrow.compute.binary_length(cells), 0)
            sizes += lengths.to_pylist()
            for name in values:
                values[name].append(batch.column(name))
                values[name][-1].validate(full=True)
        self.ends.append((self.ends[-1] if self.ends else 0) + int(starts[-1]))
        schema = batches[0].schema if batches else self.schema(self.paths[k])
        return [pyarrow.chunked_array(values[name], schema.field(name).type) for name in columns], sizes

    def _table(self, k: int) -> tuple[list, np.ndarray]:
        import pyarrow.compute

        with self.lock:
            if k not in self.tables:
                batches = [*_batches(_opened(pyarrow.memory_map(self.paths[k])))]
                self.tables[k] = batches, np.cumsum([0, *(batch.num_rows for batch in batches)])
            return self.tables[k]

    def _cell(self, k: int, row: int):
        batches, starts = self._table(k)
        b = int(np.searchsorted(starts, row, "right")) - 1
        return batches[b].column(self.column)[row - int(starts[b])]


def _opened(file):
    """Open the reader of an arrow file, which is a stream, as ``datasets`` writes it, or has an index at its end."""
    import pyarrow

    start = file.read(6)
    file.seek(0)
    return pyarrow.ipc.open_file(file) if start == b"ARROW1" else pyarrow.ipc.open_stream(file)


def _batches(reader):
    if hasattr(reader, "num_record_batches"):
        return (reader.get_batch(b) for b in range(reader.num_record_batches))
    return reader
