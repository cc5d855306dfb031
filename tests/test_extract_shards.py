"""A data set's rows shared out to shards, processes and a cluster: always the same file."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import backbench.cache.cli
import backbench.extract.cli
from backbench import UserError
from backbench.cache import features, locking, schema, shards
from backbench.cache.features import open_file
from backbench.data import contents, registry
from backbench.extract import shards as sharing
from backbench.extract.plan import Settings
from backbench.extract.run import UnreadableImages
from tests.brake import Brake
from tests.test_extract_run import images  # noqa: F401 - a fixture

MODEL = "test_resnet"


def invoke(main, *args, code=0):
    result = CliRunner().invoke(main, list(map(str, args)))
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def extract_(tmp_path, images):  # noqa: F811
    """``extract_(place, ...)``: the command on 36 images in 9 batches, with its cache in ``place``."""

    def extract_(place, *args, code=0):
        line = ["--dataset", f"folder:{images}", "--weights", "random", "--batch-size", 4, "--model", MODEL]
        line += ["--cache-dir", tmp_path / place, "--results-dir", tmp_path / "results", "--device", "cpu"]
        return invoke(backbench.extract.cli.main, *line, *args, code=code)

    extract_.path = lambda place: schema.default_path(tmp_path / place, "folder-images", MODEL)
    return extract_


PLAIN = ("--precision", "float32", "--compile", "off")


def same(a, b):
    with open_file(a) as one, open_file(b) as two:
        assert one.features.tobytes() == two.features.tobytes()
        assert one.ids == two.ids
        assert schema.checksum(one.arrays()) == schema.checksum(two.arrays())
    assert features.verify(b) is None


@pytest.mark.parametrize("count", [1, 2, 5, 9])
def test_shards_in_any_number_and_order_join_to_a_single_runs_file(extract_, count):
    extract_("one", *PLAIN)
    for number in np.random.default_rng(count).permutation(count) + 1:
        extract_("many", *PLAIN, "--shard", f"{number}/{count}")
    invoke(backbench.cache.cli.main, "merge", extract_.path("many"))
    same(extract_.path("one"), extract_.path("many"))
    assert "already complete" in extract_("many", *PLAIN, "--shard", f"1/{count}")
    assert "already complete" in extract_("many", *PLAIN)
    assert {*os.listdir(extract_.path("many").parent)} - {contents.FILE} == {f"{MODEL}.h5"}


def test_all_shards_take_the_format_of_the_first(extract_):
    extract_("many", "--shard", "2/3", "--precision", "bfloat16", "--compile", "off")
    extract_("many", "--shard", "1/3")
    said = extract_("many", "--shard", "3/3", "--precision", "float32", code=1)
    assert "precision: the file has 'bfloat16', this run 'float32'" in said
    extract_("many", "--shard", "3/3", "--precision", "float32", "--overwrite")
    said = invoke(backbench.cache.cli.main, "merge", extract_.path("many"), code=1)
    assert "precision" in said
    assert "--precision bfloat16 --compile off" in said
    extract_("many", "--shard", "3/3", "--precision", "bfloat16", "--compile", "off", "--overwrite")
    invoke(backbench.cache.cli.main, "merge", extract_.path("many"))
    with open_file(extract_.path("many")) as file:
        assert file.identity["precision"] == "bfloat16"


def test_a_whole_run_does_not_begin_anew_beside_its_shards(extract_):
    extract_("many", *PLAIN, "--shard", "2/3")
    said = extract_("many", *PLAIN, code=1)
    assert "begun in 3 shards" in said
    assert "cache merge" in said
    extract_("many", *PLAIN, "--overwrite")


def test_layers_and_views_are_shared_out_like_any(extract_):
    how = (*PLAIN, "--layer", "1", "--layer", "last", "--pool", "avg", "--views", 3)
    extract_("one", *how)
    extract_("workers", *how, "--workers", 2)
    for number in (2, 1, 3):
        extract_("many", *how, "--shard", f"{number}/3")
    made = sorted(path.name for path in extract_.path("one").parent.iterdir())
    assert len(made) == 2
    invoke(backbench.cache.cli.main, "merge", extract_.path("many").parent)
    for name in made:
        for place in ("many", "workers"):
            same(extract_.path("one").with_name(name), extract_.path(place).with_name(name))
    assert "--views-as rows can't be combined" in extract_(
        "many", *PLAIN, "--views", 2, "--views-as", "rows", "--shard", "1/2", code=2
    )


@pytest.mark.parametrize("wrong", ["0/3", "4/3", "3", "1/0", "a/b"])
def test_a_shard_is_part_k_of_n(extract_, wrong):
    assert "K/N is expected" in extract_("many", "--shard", wrong, code=2)


def test_what_does_not_go_together_is_said(extract_):
    assert "can't be combined with --workers" in extract_("many", "--shard", "1/2", "--workers", 2, code=2)
    assert "36 images in batches of 4 can't be cut into 10 shards" in extract_("many", "--shard", "1/10", code=2)
    extract_("many", *PLAIN, "--shard", "1/2")
    said = extract_("many", *PLAIN, "--batch-size", 2, "--shard", "2/2", code=1)
    assert "shard.batch_size: the file has 4, this run 2" in said


def test_unreadable_images_of_all_workers_come_in_one_list(extract_, images):  # noqa: F811
    for name in ("ant/01.png", "cat/11.png"):
        (images / name).write_bytes(b"x" * (images / name).stat().st_size)
    said = extract_("many", *PLAIN, "--workers", 2, code=1)
    assert said.count("Error") == 1
    assert "2 of the images" in said
    assert "ant/01.png" in said
    assert "cat/11.png" in said
    extract_("many", *PLAIN, "--workers", 3, "--on-error", "skip")  # two shards were begun: they go on as two
    with open_file(extract_.path("many")) as file:
        skipped = np.flatnonzero(file.done == schema.SKIPPED)
        assert [file.ids[i] for i in skipped] == ["ant/01.png", "cat/11.png"]


SINGLY = ("--model", MODEL, "--weights", "random", "--batch-size", "1", "--device", "cpu")


def start(tmp_path, place, log, brake):
    command = [sys.executable, "-m", "backbench.extract", *SINGLY, *PLAIN, "--dataset", f"folder:{tmp_path / 'images'}"]
    command += ["--workers", "2", "--cache-dir", place]
    how = {"stdout": log, "stderr": log, "env": brake.environment, "start_new_session": True}
    return subprocess.Popen(command, cwd=tmp_path, **how)


def worker_of(shard, alive, *, rows, other_than=None):
    """Wait until a shard has this many rows; the id of the process that writes it."""
    while alive():
        if shards.rows_done(shard) >= rows and (lock := locking.lock_of(shard)).exists():
            words = lock.read_text().split()
            if len(words) == 4 and int(words[1]) != other_than:
                return int(words[1])
        time.sleep(0.02)
    raise AssertionError("it ended before it could be stopped")


def gone(pid):
    """Wait until there is no such process, or only what its parent hasn't yet asked for."""
    stat = Path(f"/proc/{pid}/stat")
    for _ in range(600):
        try:
            if stat.read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in /proc")
def test_a_killed_worker_is_replaced_and_a_stopped_run_goes_on(tmp_path, images):  # noqa: F811
    """Ctrl-C; then a worker killed and, when another has its place, their parent; then to the end: a single run's."""
    whole = schema.default_path(tmp_path / "many", "folder-images", MODEL)
    first, brake = shards.path_of(whole, 1, 2), Brake(tmp_path)
    with (tmp_path / "log").open("w") as log:
        brake.at(1)
        process = start(tmp_path, "many", log, brake)
        pid = worker_of(first, lambda: process.poll() is None, rows=1)
        os.killpg(process.pid, signal.SIGINT)  # to all of them, as a terminal does
        assert process.wait() == 130
        assert gone(pid)
        assert shards.rows_done(first) == 1
        brake.at(2)
        process = start(tmp_path, "many", log, brake)
        pid = worker_of(first, lambda: process.poll() is None, rows=2)
        os.kill(pid, signal.SIGKILL)
        brake.at(3)
        pid = worker_of(first, lambda: process.poll() is None, rows=3, other_than=pid)
        process.kill()
        process.wait()
        assert gone(pid)
        brake.release()
        assert start(tmp_path, "many", log, brake).wait() == 0
    said = (tmp_path / "log").read_text()
    assert "died (exit code -9), so another process goes on" in said
    assert said.count("the same command goes on") == 1
    assert "Traceback" not in said
    single(tmp_path, images)
    same(schema.default_path(tmp_path / "one", "folder-images", MODEL), whole)
    assert {*os.listdir(whole.parent)} - {contents.FILE} == {whole.name}


def single(tmp_path, images, place="one", *args):  # noqa: F811
    line = [*SINGLY, *PLAIN, "--dataset", f"folder:{images}", "--results-dir", tmp_path / "results"]
    return invoke(backbench.extract.cli.main, *line, "--cache-dir", tmp_path / place, *args)


def test_on_a_dask_cluster_a_killed_worker_is_replaced(tmp_path, images, monkeypatch):  # noqa: F811
    distributed = pytest.importorskip("dask.distributed")
    single(tmp_path, images)
    whole, brake = schema.default_path(tmp_path / "many", "folder-images", MODEL), Brake(tmp_path)
    monkeypatch.setenv("PYTHONPATH", brake.environment["PYTHONPATH"])
    killed = []

    def kill():
        killed.append(worker_of(shards.path_of(whole, 1, 2), lambda: True, rows=1))
        os.kill(killed[0], signal.SIGKILL)
        brake.release()

    brake.at(1)
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1") as dask:
        killer = threading.Thread(target=kill)
        killer.start()
        said = single(tmp_path, images, "many", "--scheduler", dask.scheduler_address)
        killer.join()
    assert killed
    assert "folder-images" in said
    same(schema.default_path(tmp_path / "one", "folder-images", MODEL), whole)


def test_a_machine_that_sees_other_files_says_which(tmp_path, images):  # noqa: F811
    whole = registry.load(f"folder:{images}", data_root=tmp_path)
    place, settings = tmp_path / "m.h5.shard-1-of-2", Settings(device=None)
    task = sharing.Task(whole.part(0, 8), MODEL, "last", "default", 1.0, "random", place, "cpu", settings)
    error = sharing.work(task)
    assert f"does not see the cache folder {tmp_path}" in str(error)
    images.rename(tmp_path / "elsewhere")
    with locking.lock(tmp_path / "m.h5"):
        error = sharing.work(task)
    assert f"does not see the images in {images}" in str(error)


def test_faults_of_workers_come_back_whole():
    import pickle

    error = UnreadableImages("toy", [f"{i}: bad" for i in range(50)])
    error = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert len(error.reasons) == 50
    assert "and 30 more" in str(error)
    with pytest.raises(UserError, match=r"^same$"):
        sharing._stop([UserError("same"), None, UserError("same")], "toy")


def test_the_row_of_a_shared_run_is_one(extract_, tmp_path):
    from backbench import rows

    said = extract_("many", *PLAIN, "--workers", 1, "--json")
    found, _ = json.JSONDecoder().raw_decode(said[said.index("[\n") :])
    (row,) = rows.read(tmp_path / "results")
    assert (row["n"], found[0]["n"]) == (36, 36)
