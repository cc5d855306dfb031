"""Pictures out of tables: parquet read a few megabytes at a time, arrow mapped. Needs pyarrow."""

import bisect
import itertools
import threading
from collections import deque

import numpy as np

CHUNK = 8 << 20
"""Bytes of pictures that are taken out of a parquet file at once."""

KEPT = 4
"""Such chunks are kept: threads that read a batch of neighbours are never further apart."""

STREAMS = 2
"""Parquet files open at once: a batch may lie across the end of one and the beginning of the next."""


class Rows:
    """``rows(i)``: the file of picture ``i`` in the ``column`` of tables that follow each other. Thread safe."""

    def __init__(self, paths: list[str], column: str):
        self.paths, self.column = paths, column
        self.ends: list[int] = []
        """Of each table, the number of pictures in it and all before it; filled by ``table`` in turn."""
        self._reset()

    def __getstate__(self):
        return {"paths": self.paths, "column": self.column, "ends": self.ends}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._reset()

    def __call__(self, i: int) -> bytes:
        """Raises OSError or ValueError."""
        k = bisect.bisect_right(self.ends, i)
        cell = self._cell(k, int(i) - (self.ends[k - 1] if k else 0))
        if cell.is_valid and hasattr(cell, "keys"):  # a struct of bytes and path
            cell = cell["bytes"]
        if not cell.is_valid:
            raise OSError("its row holds no picture, at most the path of one")
        return cell.as_py()


class Parquet(Rows):
    def _reset(self):
        self.lock = threading.Lock()
        self.chunks = deque(maxlen=KEPT)
        self.streams: dict[int, _Stream] = {}

    @staticmethod
    def schema(path: str):
        import pyarrow.parquet

        return pyarrow.parquet.read_schema(path)

    def table(self, k: int, label: str):
        """Table ``k``'s labels, and the bytes of each row group."""
        stream = _Stream(self.paths[k], self.column, 0)
        self.ends.append((self.ends[-1] if self.ends else 0) + stream.file.metadata.num_rows)
        labels = stream.file.read(columns=[label], use_threads=False).column(0)
        if not len(labels) == sum(stream.rows) == stream.file.metadata.num_rows:
            raise ValueError(f"{len(labels)} labels for {stream.file.metadata.num_rows} rows")
        return labels, stream.sizes

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
            self.streams[k] = stream  # the last one used is the last one closed
        if len(self.streams) > STREAMS:
            del self.streams[next(iter(self.streams))]
        return chunk


class _Chunk:
    """Cells of neighbouring rows, by row."""

    def __init__(self, first: int, cells):
        self.rows, self.cells = range(first, first + len(cells)), cells

    def __getitem__(self, row: int):
        return self.cells[row - self.rows.start]


class _Stream:
    """A parquet file's pictures from the row group of ``row`` on, forward only, whatever the row groups' size."""

    def __init__(self, path: str, column: str, row: int):
        import pyarrow.parquet

        # buffered, not ahead of time: else a whole row group, which may be the whole file, is held in memory
        self.file = pyarrow.parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
        meta = self.file.metadata
        groups = [meta.row_group(g) for g in range(meta.num_row_groups)]
        self.rows = [group.num_rows for group in groups]
        # of all columns: asked for one's, pyarrow 26 ends the process where a damaged file contradicts itself
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
        """Whether going on finds ``row`` without passing over a whole row group."""
        return row >= self.next and bisect.bisect_right(self.ends, row) <= bisect.bisect_right(self.ends, self.next)

    def until(self, row: int) -> _Chunk:
        for cells in self.cells:
            chunk = _Chunk(self.next, cells)
            self.next += len(cells)
            if row in chunk.rows:
                return chunk
        raise OSError(f"the table ends before row {row}")


class Arrow(Rows):
    def _reset(self):
        self.lock = threading.Lock()
        self.tables: dict[int, tuple] = {}

    @staticmethod
    def schema(path: str):
        import pyarrow.compute

        with pyarrow.memory_map(path) as file:
            return _opened(file).schema

    def table(self, k: int, label: str):
        """Table ``k``'s labels, and the bytes of each picture."""
        import pyarrow.compute

        batches, starts = self._table(k)
        labels, sizes = [], []
        for batch in batches:
            cells = batch.column(self.column)
            cells.validate(full=True)  # a stranger's offsets could point anywhere
            batch.column(label).validate(full=True)
            if pyarrow.types.is_struct(cells.type):
                cells = pyarrow.compute.struct_field(cells, "bytes")
            lengths = pyarrow.compute.fill_null(pyarrow.compute.binary_length(cells), 0)
            sizes += lengths.to_pylist()
            labels.append(batch.column(label))
        self.ends.append((self.ends[-1] if self.ends else 0) + int(starts[-1]))
        schema = batches[0].schema if batches else self.schema(self.paths[k])
        return pyarrow.chunked_array(labels, schema.field(label).type), sizes

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
    """The reader of an arrow file: a stream, as ``datasets`` writes it, or one with an index at its end."""
    import pyarrow

    start = file.read(6)
    file.seek(0)
    return pyarrow.ipc.open_file(file) if start == b"ARROW1" else pyarrow.ipc.open_stream(file)


def _batches(reader):
    if hasattr(reader, "num_record_batches"):
        return (reader.get_batch(b) for b in range(reader.num_record_batches))
    return reader
