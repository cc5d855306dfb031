"""Writing: interrupted anywhere, nothing is lost and nothing half-written is taken for whole."""

import os
import resource
import signal
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import numpy as np
import pytest

from backbench import UserError
from backbench.cache import features, schema
from backbench.cache.features import FeatureFileError, open_file
from backbench.cache.writer import Writer, check_existing, write
from tests.conftest import IDENTITY, ROOT

N, D = 4000, 256


def values(n=N, d=D):
    return np.random.default_rng(3).normal(size=(n, d)).astype("f4")


def writer(path, n=N, d=D, **changes):
    settings = {
        "identity": IDENTITY,
        "labels": np.arange(n) % 4,
        "split": np.arange(n) % 3,
        "ids": [f"{i:05d}" for i in range(n)],
        "class_names": list("abcd"),
        "dim": d,
        "dtype": "float32",
    }
    return Writer(path, **settings | changes)


def test_a_new_file_is_allocated_in_full_and_named_part(tmp_path):
    with writer(tmp_path / "a.h5"):
        pass
    part = tmp_path / "a.h5.part"
    assert sorted(tmp_path.iterdir()) == [part]
    assert part.stat().st_blocks * 512 >= N * D * 4
    with pytest.raises(FeatureFileError, match="unfinished: 4,000 of 4,000"):
        open_file(part)
    with open_file(part, partial=True) as file:
        assert not file.complete


def test_rows_may_come_in_any_order_and_stop_anywhere(tmp_path):
    x = values()
    order = np.random.default_rng(0).permutation(N)
    for some in np.array_split(order, 3):
        with writer(tmp_path / "a.h5") as w:
            assert set(some) <= set(w.pending)
            w.rows(some, x[some])
            left = len(w.pending)
    assert left  # marks come with the commit, which leaving the context is
    with writer(tmp_path / "a.h5") as w:
        w.finish(device="test")
    with open_file(tmp_path / "a.h5") as file:
        assert np.array_equal(file.features, x)
        assert file.measured["device"] == "test"
    assert features.verify(tmp_path / "a.h5") is None


def test_finish_refuses_while_rows_are_pending(tmp_path):
    with writer(tmp_path / "a.h5") as w, pytest.raises(ValueError, match="4000 rows are pending"):
        w.finish(device="test")


def test_skipped_rows_hold_nan_and_say_so(tmp_path):
    x = values(10, 4)
    with writer(tmp_path / "a.h5", 10, 4) as w:
        w.skip(np.array([3, 7]))
        rest = np.array([0, 1, 2, 4, 5, 6, 8, 9])
        w.rows(rest, x[rest])
        w.finish(device="test")
    with open_file(tmp_path / "a.h5") as file:
        assert np.flatnonzero(file.done == schema.SKIPPED).tolist() == [3, 7]
        assert np.isnan(file.features[[3, 7]]).all()
        assert file.ids[8] == "00008"
        assert np.array_equal(file.features[rest], x[rest])


def test_look_names_every_difference_and_the_way_out(tmp_path):
    path = tmp_path / "a.h5"
    assert check_existing(path, IDENTITY) == ("new", None)
    with writer(path, 10, 4) as w:
        assert check_existing(path, IDENTITY)[0] == "partial"
        w.rows(np.arange(10), values(10, 4))
        w.finish(device="test")
    other = IDENTITY | {"weights_sha256": "1" * 64, "transform": {"input_size": [3, 288, 288], "crop_pct": 0.95}}
    with pytest.raises(FeatureFileError) as caught:
        check_existing(path, other)
    assert "weights_sha256" in str(caught.value)
    assert "transform.input_size: the file has [3, 224, 224], this run [3, 288, 288]" in str(caught.value)
    assert "crop_pct" not in str(caught.value)
    assert "--overwrite" in str(caught.value)
    assert check_existing(path, other, overwrite=True) == ("new", None)


def test_versions_count_only_while_a_file_is_unfinished(tmp_path):
    newer = IDENTITY | {"versions": {**IDENTITY["versions"], "torch": "3.0"}}
    with writer(tmp_path / "a.h5", 10, 4) as w:
        w.commit()
        with pytest.raises(FeatureFileError, match=r"versions\.torch"):
            check_existing(tmp_path / "a.h5", newer)
        w.rows(np.arange(10), values(10, 4))
        w.finish(device="test")
    assert check_existing(tmp_path / "a.h5", newer)[0] == "complete"


def test_overwrite_goes_on_with_its_own_unfinished_file(tmp_path):
    path = tmp_path / "a.h5"
    write(
        path, features=values(4, 2), labels=[0, 1, 0, 1], split=[0, 0, 1, 2], ids=list("wxyz"),
        class_names=["a", "b"], identity=IDENTITY,
    )  # fmt: skip
    before = path.read_bytes()
    with writer(path, 10, 4, fresh=True) as w:
        w.rows(np.arange(5), values(10, 4)[:5])
    assert path.read_bytes() == before  # the old file stands until the new one is whole
    assert check_existing(path, IDENTITY, overwrite=True)[0] == "partial"


def test_two_runs_on_one_file(tmp_path):
    with writer(tmp_path / "a.h5"), pytest.raises(UserError, match="another run"):
        writer(tmp_path / "a.h5")


WRITE_SLOWLY = textwrap.dedent("""
    import sys, numpy as np
    sys.path.insert(0, {root!r})
    from tests.test_cache_writer import writer, values
    x = values()
    with writer({path!r}) as w:
        for start in range(0, len(x), 8):
            index = np.arange(start, start + 8)
            index = index[np.isin(index, w.pending)]
            w.rows(index, x[index])
            w.commit()
            print(start, flush=True)
        w.finish(device="test")
    print("finished", flush=True)
""")


def test_killed_at_random_moments_the_file_goes_on_to_the_same_bytes(tmp_path):
    """SIGKILL after a random number of batches, ten times over, then to the end: bit for bit what was to be written."""
    path = tmp_path / "a.h5"
    code = WRITE_SLOWLY.format(root=str(ROOT), path=str(path))
    rng = np.random.default_rng(11)
    done = 0
    for _ in range(10):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(rng.integers(1, 40)):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        with open_file(schema.part_path(path), partial=True) as file:  # a killed run leaves a valid file
            now = file.done == schema.DONE
            assert now.sum() >= done
            done = now.sum()
            assert np.array_equal(file.features[now], values()[now])
    assert done > 0
    end = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert end.stdout.endswith("finished\n")
    assert features.verify(path) is None
    with open_file(path) as file:
        assert file.features.tobytes() == values().tobytes()


def test_a_kill_between_the_figures_and_the_final_name_loses_nothing(tmp_path, monkeypatch):
    with writer(tmp_path / "a.h5", 10, 4) as w:
        w.rows(np.arange(10), values(10, 4))
        monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            w.finish(device="test")
    monkeypatch.undo()
    with writer(tmp_path / "a.h5", 10, 4) as w:
        assert not len(w.pending)
        w.finish(device="test")
    assert features.verify(tmp_path / "a.h5") is None


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MB of its own, where this user may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system (root)")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_disk_too_small_is_found_before_any_work(small_disk):
    with pytest.raises(UserError, match="no space is left there"):
        writer(small_disk / "a.h5")
    assert list(small_disk.iterdir()) == []


def test_a_disk_filled_by_others_costs_no_row(small_disk):
    """The rows' place is reserved at creation, so another program's appetite can't stop the run."""
    with writer(small_disk / "a.h5", 100, 256) as w:
        junk = small_disk / "junk"
        with pytest.raises(OSError, match="No space"):
            junk.write_bytes(bytes(4_000_000))
        w.rows(np.arange(100), values(100, 256))
        w.finish(device="test")
    assert features.verify(small_disk / "a.h5") is None


def test_a_file_size_limit_is_one_message(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(UserError, match=r"can't be written.*--cache-dir"):
            writer(tmp_path / "a.h5")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_folder_that_cannot_be_made_is_one_message(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"can't be written.*--cache-dir"):
        writer(tmp_path / "file" / "a.h5")


@pytest.mark.parametrize("mode", [0o555, 0o000])
def test_a_folder_without_permission_is_one_message(mode):
    """Read-only, or not even to be looked into. Root may write anywhere, so root becomes nobody for a moment."""
    place = Path(tempfile.mkdtemp())
    place.chmod(mode)
    root = os.geteuid() == 0
    try:
        if root:
            os.seteuid(65534)
        assert check_existing(place / "a.h5", IDENTITY) == ("new", None)
        with pytest.raises(UserError, match="Permission denied"):
            writer(place / "a.h5")
    finally:
        if root:
            os.seteuid(0)
        place.chmod(0o700)
        place.rmdir()


def test_rows_are_written_outside_of_hdf5s_metadata(tmp_path):
    """Everything but the rows, their marks and the running figures stays byte for byte as created."""
    with writer(tmp_path / "a.h5", 100, 8) as w:
        created = bytearray(Path(w.part).read_bytes())
        w.rows(np.arange(100), values(100, 8))
        w.commit()
        after = bytearray(Path(w.part).read_bytes())
        for name, size in (("features", 100 * 8 * 4), ("done", 100), ("running", 40)):
            at = w._offset[name]
            created[at : at + size] = after[at : at + size] = bytes(size)
    assert created == after
