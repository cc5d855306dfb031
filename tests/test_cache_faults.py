"""Power cuts and full disks, as far as they can be imitated: no row is marked that isn't there."""

import os
import resource

import numpy as np
import pytest

from backbench import UserError
from backbench.cache import features, schema
from backbench.cache.features import open_file
from backbench.cache.writer import Writer
from tests.conftest import IDENTITY

N, D, BATCH = 60, 8, 4


class Recorded(Writer):
    """A Writer that notes every write, and how many of them were synced when."""

    def _write(self, dataset, position, values):
        self.writes.append((self._offset[dataset] + int(position) * values.itemsize, values.tobytes()))
        super()._write(dataset, position, values)


def start(path, kind=Writer):
    small = {"labels": np.arange(N) % 4, "split": np.arange(N) % 3, "ids": [f"{i:02d}" for i in range(N)]}
    return kind(path, identity=IDENTITY, **small, class_names=list("abcd"), dim=D, dtype="f4")


def finish(path, x):
    with start(path) as w:
        index = w.pending
        w.rows(index, x[index])
        w.finish(device="cpu")
    assert features.verify(path) is None
    with open_file(path) as file:
        assert np.array_equal(file.features, x)


def test_whatever_writes_a_power_cut_drops_no_row_is_marked_that_is_not_there(tmp_path, rng, monkeypatch):
    """Everything before a sync is on disk; of what came after, any part may be, whatever its order: 200 such disks."""
    x = rng.normal(size=(N, D)).astype("f4")
    synced = []
    sync = os.fsync
    with start(tmp_path / "a.h5", Recorded) as w:
        w.writes = []
        created = w.part.read_bytes()
        monkeypatch.setattr(os, "fsync", lambda handle: (sync(handle), synced.append(len(w.writes))))
        for first in range(0, N, BATCH):
            index = np.arange(first, first + BATCH)
            w.rows(index, x[index])
            if first % 3 == 0:
                w.commit()
        writes = list(w.writes)
    monkeypatch.undo()
    lost = 0
    for trial in range(200):
        cut = int(rng.integers(len(writes) + 1))  # power goes after this many writes
        safe = max((n for n in synced if n <= cut), default=0)
        disk = bytearray(created)
        for i in [*range(safe), *rng.permutation(np.arange(safe, cut))]:
            at, content = writes[i]
            if i >= safe:  # of a write that wasn't synced none, a torn part, or all
                content = content[: int(rng.choice([0, len(content) // 2, len(content)]))]
            disk[at : at + len(content)] = content
        part = tmp_path / f"{trial}.h5.part"
        part.write_bytes(disk)
        with open_file(part, partial=True) as file:
            marked = file.done == schema.DONE
            assert np.array_equal(file.features[marked], x[marked])
            lost += cut > 0 and not marked.any()
        if trial % 20 == 0:
            finish(tmp_path / f"{trial}.h5", x)
    assert lost < 200


def test_a_disk_that_fills_in_the_middle_costs_no_row(tmp_path, rng):
    """As where a file system can't reserve: writes beyond a limit fail, and later there is room again."""
    x = rng.normal(size=(N, D)).astype("f4")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with start(tmp_path / "a.h5") as w:
        w.rows(np.arange(8), x[:8])
        w.commit()
        resource.setrlimit(resource.RLIMIT_FSIZE, (w._offset["features"] + 20 * D * 4, before[1]))
        try:
            with pytest.raises(UserError, match=r"no space is left there.*same command again"):
                w.rows(np.arange(8, N), x[8:])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    with open_file(tmp_path / "a.h5.part", partial=True) as file:
        assert np.flatnonzero(file.done == schema.DONE).tolist() == list(range(8))
    finish(tmp_path / "a.h5", x)
