"""What can befall a run: afterwards nothing computed is lost or wrong, and the message names the way on."""

import ast
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from backbench.cache import features, locking, schema
from backbench.cache.features import open_file
from backbench.extract.preprocess import Reader
from tests.conftest import ROOT
from tests.test_extract_run import MODEL, extract, images  # noqa: F401 - fixtures


def done(path):
    with open_file(path, partial=True) as file:
        return file.done.copy(), np.array(file.features)


@pytest.mark.parametrize("how", [(), ("--on-error", "skip")])
def test_a_folder_that_vanishes_stops_the_run_and_loses_nothing(extract, images, tmp_path, monkeypatch, how):  # noqa: F811
    """Renamed, as an unmounted folder would be, while the third of five batches is about to be read."""
    read = Reader.read

    def vanish(reader, images_, *args, **how):
        if images_[0] == 16:
            images.rename(tmp_path / "gone")
        return read(reader, images_, *args, **how)

    with monkeypatch.context() as patch:
        patch.setattr(Reader, "read", vanish)
        said = extract(*how, code=1).output
    assert "can't be reached any more" in said
    assert "run the same command again" in said
    assert ".png" not in said
    marks, rows = done(schema.part_path(extract.path))
    assert marks.tolist() == [schema.DONE] * 16 + [schema.PENDING] * 20
    assert "does not exist" in extract(*how, code=1).output
    (tmp_path / "gone").rename(images)
    extract(*how)
    marks, again = done(extract.path)
    assert (marks == schema.DONE).all()
    assert np.array_equal(again[:16], rows[:16])
    assert features.verify(extract.path) is None


def start(tmp_path, *args):
    line = [
        "-m",
        "backbench.extract",
        "--model",
        MODEL,
        "--dataset",
        "digits",
        "--weights",
        "random",
        "--device",
        "cpu",
        *args,
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([sys.executable, *line], cwd=tmp_path, **pipes)


def test_of_runs_begun_at_the_same_instant_one_computes_and_the_others_wait_or_refuse(tmp_path):
    waiting = [start(tmp_path, "--if-busy", "wait") for _ in range(2)]
    path = schema.default_path(tmp_path / "cache", "digits", MODEL)
    while not locking.lock_of(path).exists() and waiting[0].poll() is None:
        time.sleep(0.02)
    refusing = start(tmp_path)
    said = refusing.communicate()[0]
    if refusing.returncode:  # else it came when all was done
        assert "is being written by another run, process" in said
        assert "--if-busy wait" in said
    outputs = [process.communicate()[0] for process in waiting]
    assert [process.returncode for process in waiting] == [0, 0], outputs
    assert sorted("already complete" in output for output in outputs) == [False, True]
    assert sum("waiting for process" in output for output in outputs) == 1
    assert features.verify(path) is None
    assert os.listdir(path.parent) == [path.name]


def test_a_clock_that_jumps_changes_nothing(extract, monkeypatch):  # noqa: F811
    """The wall clock goes back an hour at every look, as with a battery gone; rates and seconds are of the other."""
    wall = time.time()
    looks = iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: wall - 3600 * next(looks))
    extract()
    with open_file(extract.path) as file:
        assert 0 < file.measured["seconds"] < 600
        assert np.isfinite(file.measured["images_per_second"])
    assert features.verify(extract.path) is None


@pytest.mark.parametrize("room", ["backbench", "cache", "data", "extract", "probe"])
def test_the_wall_clock_decides_nothing(room):
    """But in extract/trials.py, whether speeds that were timed a month ago are timed again."""
    for path in {*(ROOT / room).glob("*.py")} - {ROOT / "extract" / "trials.py"}:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) != ("time", "time"), f"{path} asks for the time of day"
