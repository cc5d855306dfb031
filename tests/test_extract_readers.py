"""Processes that read images: the same pixels as threads of one process, and no trace of them when a run ends."""

import os
import pickle
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from backbench.cache import locking, schema
from backbench.cache.features import open_file
from backbench.data import decode, registry
from backbench.extract import backbones, readers, views
from backbench.extract.cli import main
from backbench.extract.preprocess import Preprocessor, Reader
from tests.brake import Brake

N = 400


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """400 images of several sizes and formats: one can't be read, and one is there twice."""
    path = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for k in range(2):
        (path / f"{k}").mkdir()
        for i in range(N // 2):
            noise = rng.integers(0, 256, (5, 4, 3), dtype=np.uint8)
            size = tuple(rng.integers(30, 120, 2).tolist())
            Image.fromarray(noise).resize(size).save(path / f"{k}" / f"{i:03d}.{'jpg' if i % 3 else 'png'}")
    (path / "0" / "010.jpg").write_bytes(b"no image")
    (path / "1" / "199.jpg").write_bytes((path / "0" / "001.jpg").read_bytes())
    return path


@pytest.fixture
def at():
    return Preprocessor(backbones.create("test_resnet", weights="random"))


def smaller(at):
    other = Preprocessor(backbones.create("test_resnet", weights="random"))
    other.size, other.shorter = (96, 96), 110
    return other


def read(imageset, ways, *, count, several=1, size=32, cpu="cpu"):
    """Pixels by key, levels of the first, and faults, of all rows in turn."""
    rows = views.rows(imageset, several)
    groups = np.array_split(np.arange(len(rows)), range(size, len(rows), size))
    pixels, levels, faults = {key: [] for key in ways}, [], []
    how = {"size": size, "readers": count, "seed": 1, "seen": (), "device": torch.device(cpu), "left": len(rows)}
    with ThreadPoolExecutor(2) as pool:
        asked = ((group, tuple(ways)) for group in groups)
        with readers.batches(asked, imageset, rows, ways, pool=pool, **how) as found:
            for batch in found:
                for key in ways:
                    pixels[key].append(batch.pixels[key].clone())
                levels.append(batch.levels[next(iter(ways))].copy())
                faults += map(str, batch.faults)
    return {key: torch.cat(each) for key, each in pixels.items()}, np.concatenate(levels), faults


@pytest.mark.parametrize(("several", "start"), [(1, "fork"), (3, "fork"), (1, "spawn")])
def test_processes_read_what_one_reads(folder, at, monkeypatch, several, start):
    monkeypatch.setattr(readers, "START", start)
    ways = {("a",): at, ("b",): smaller(at)}
    one, two = registry.load(f"folder:{folder}", data_root="."), registry.load(f"folder:{folder}", data_root=".")
    alone, levels, faults = read(one, ways, count=0, several=several)
    shared, levels_, faults_ = read(two, ways, count=2, several=several)
    assert faults == faults_
    assert sum("010.jpg" in fault for fault in faults) == 1
    assert np.array_equal(one.contents, two.contents)
    first = slice((N - 1) * several)  # the last is there twice, and need not be decoded by who has decoded the other
    assert np.array_equal(levels[first], levels_[first])
    for key in ways:
        assert torch.equal(alone[key][first], shared[key][first])
    direct, _ = Reader(one, seed=1).read(np.arange(8), np.zeros(8, int), [at])
    assert torch.equal(alone[("a",)][::several][:8], direct[0])


def test_batches_stay_in_place_while_another_is_fetched(folder, at):
    imageset = registry.load(f"folder:{folder}", data_root=".")
    rows = views.rows(imageset)
    groups = np.array_split(np.arange(N), range(16, N, 16))
    with ThreadPoolExecutor(1) as pool:
        how = {"size": 16, "readers": 2, "seed": 0, "seen": (), "device": torch.device("cpu"), "left": N, "pool": pool}
        with readers.batches(((one, (0,)) for one in groups), imageset, rows, {0: at}, **how) as found:
            before = None
            for batch in found:
                time.sleep(0.01)  # the processes fill what they may
                if before is not None:
                    assert torch.equal(before[0].pixels[0], before[1])
                before = batch, batch.pixels[0].clone()


def test_few_batches_are_read_ahead_where_memory_is_short(folder, at, monkeypatch):
    made = []

    class Noted(readers._Slots):
        def __init__(self, *args, **how):
            made.append(how["number"])
            super().__init__(*args, **how)

    monkeypatch.setattr(readers, "_Slots", Noted)
    imageset = registry.load(f"folder:{folder}", data_root=".")
    for batches, number in ((100, 8 * readers.AHEAD + readers.HELD), (12, 8 + readers.HELD), (5, 3 + readers.HELD)):
        room = batches * 32 * 3 * 160 * 160 / readers.ROOM
        monkeypatch.setattr(readers, "memory", lambda device, room=room: int(room) + 1)
        read(imageset, {0: at}, count=8)
        assert made.pop() == number


def test_compiled_backbones_may_read_beyond_the_last_batch(at):
    """They load whole vectors: with the next page out of bounds, one crashed."""
    slots = readers._Slots({0: (4, 160, 160, 3)}, number=3, forked=True)
    assert slots.memory[0].nbytes >= slots.pixels[0].nbytes + 512
    assert slots.pixels[0].data_ptr() == slots.memory[0].data_ptr()


def test_a_network_that_is_down_is_known_from_another_process():
    error = decode.UnreadableImage("a.jpg", "stale")
    error.__cause__ = OSError(116, "Stale file handle")
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert (str(again), again.__cause__.errno) == (str(error), 116)


def line(folder, place, *more):
    words = ("--model", "test_resnet", "--weights", "random", "--precision", "float32", "--compile", "off")
    where = ("--dataset", f"folder:{folder}", "--cache-dir", place, "--results-dir", place, "--on-error", "skip")
    return [str(word) for word in (*words, "--batch-size", 20, "--device", "cpu", *where, *more)]


def path(folder, place):
    return schema.default_path(place, f"folder-{folder.name}", "test_resnet")


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    """The features by threads of one process."""
    place = tmp_path_factory.mktemp("whole")
    done = CliRunner().invoke(main, line(folder, place, "--readers", 0))
    assert done.exit_code == 0, done.output
    with open_file(path(folder, place)) as file:
        return schema.checksum(file.arrays())


def test_features_are_the_same_with_any_number_of_readers(folder, tmp_path, whole):
    done = CliRunner().invoke(main, line(folder, tmp_path, "--readers", 3))
    assert done.exit_code == 0, done.output
    assert "010.jpg" in done.output
    with open_file(path(folder, tmp_path)) as file:
        assert schema.checksum(file.arrays()) == whole


def test_a_reader_that_dies_stops_the_run_and_costs_nothing_else(folder, tmp_path, monkeypatch, whole):
    read = Reader.read

    def die(reader, images, *args, **how):
        if 200 in images:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(reader, images, *args, **how)

    with monkeypatch.context() as patch:
        patch.setattr(Reader, "read", die)
        done = CliRunner().invoke(main, line(folder, tmp_path, "--readers", 2))
    assert done.exit_code == 1, done.output
    assert "a process that reads images" in done.output
    assert "Use fewer --readers" in done.output
    with open_file(schema.part_path(path(folder, tmp_path)), partial=True) as file:
        assert (file.done != schema.PENDING).sum() >= 20
    done = CliRunner().invoke(main, line(folder, tmp_path))
    assert done.exit_code == 0, done.output
    with open_file(path(folder, tmp_path)) as file:
        assert schema.checksum(file.arrays()) == whole


def children(process) -> list[int]:
    with open(f"/proc/{process.pid}/task/{process.pid}/children") as file:
        return [int(one) for one in file.read().split()]


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc")
def test_killed_in_any_way_it_leaves_no_process_and_goes_on_to_the_same_bits(folder, tmp_path, whole):
    """SIGTERM and SIGINT reach the whole process group, as from a terminal or a batch system."""
    brake = Brake(tmp_path)
    place = tmp_path / "cache"
    command = [sys.executable, "-m", "backbench.extract", *line(folder, place, "--readers", 2)]
    with (tmp_path / "log").open("w+") as log:
        for rows, how in ((20, signal.SIGKILL), (60, signal.SIGTERM), (100, signal.SIGINT)):
            brake.at(rows)
            process = subprocess.Popen(
                command, stdout=log, stderr=log, env=brake.environment, cwd=tmp_path, start_new_session=True
            )
            while not (part := schema.part_path(path(folder, place))).exists() or done(part) < rows:
                assert process.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.02)
            readers_ = children(process)
            assert len(readers_) == 2
            if how == signal.SIGKILL:
                process.kill()
            else:
                os.killpg(process.pid, how)
            assert process.wait() == {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}[how]
            for _ in range(200):
                if not any(map(alive, readers_)):
                    break
                time.sleep(0.05)
            assert not any(map(alive, readers_))
        brake.release()
        assert subprocess.run(command, stdout=log, stderr=log, env=brake.environment, cwd=tmp_path).returncode == 0
    said = (tmp_path / "log").read_text()
    assert said.count("the same command goes on") == 2
    assert "Traceback" not in said
    assert "being written" not in said
    with open_file(path(folder, place)) as file:
        assert schema.checksum(file.arrays()) == whole


def done(part) -> int:
    with open_file(part, partial=True) as file:
        return int((file.done != schema.PENDING).sum())


def test_a_lock_ends_with_the_run_that_holds_it_though_a_process_it_forked_lives_on(tmp_path):
    ours, theirs = os.pipe()
    if (run := os.fork()) == 0:
        with locking.lock(tmp_path / "f.h5"):
            if (reader := os.fork()) == 0:
                os.write(theirs, f"{os.getpid()}".encode())
                time.sleep(60)
                os._exit(0)
            time.sleep(1)
            os._exit(reader != 0)  # as when it is killed
    reader = int(os.read(ours, 20))
    try:
        os.waitpid(run, 0)
        assert alive(reader)
        with locking.lock(tmp_path / "f.h5"):
            pass
    finally:
        os.kill(reader, signal.SIGKILL)
