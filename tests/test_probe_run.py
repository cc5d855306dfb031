"""Many probes: few shots, learning curves, several processes, a cluster, little memory, heads to keep."""

import csv
import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from backbench import details, rows, statistics
from backbench.cache.features import open_file
from backbench.probe import parallel
from backbench.probe import run as probe_run
from backbench.probe.run import Task, few, part
from tests.conftest import IDENTITY, ROOT
from tests.test_probe_cli import probe, toy  # noqa: F401 - probe is a fixture

FIGURES = ("top1", "top5", "balanced", "val_top1", "chosen", "nll")


def test_few_shots_are_nested_balanced_and_drawn_by_the_seed(tmp_path):
    with open_file(toy(tmp_path / "a.h5")) as file:
        train = part(file, 0)
        one, five = (few(train, shots, seed=3) for shots in (1, 5))
        assert np.bincount(one.labels).tolist() == [1] * 4
        assert np.bincount(five.labels).tolist() == [5] * 4
        assert set(one.rows) <= set(five.rows) <= set(train.rows)
        assert set(few(train, 5, seed=4).rows) != set(five.rows)
        assert len(few(train, 1000, seed=3)) == len(train)


def test_shots_and_seeds_give_a_row_each(probe, tmp_path):  # noqa: F811
    toy(tmp_path / "a.h5", spread=2.0)
    args = ("--features", tmp_path / "a.h5", "--method", "logistic", "--method", "centroid")
    found = json.loads(probe(*args, "--shots", "1,5", "--seeds", "3", "--json").stdout)
    assert [(r["method"], r["shots"], r["seed"]) for r in found] == [
        (method, shots, seed) for method in ("logistic", "centroid") for shots in (1, 5) for seed in (42, 43, 44)
    ]
    assert {r["n_train"] for r in found} == {4, 20}
    assert {r["n_test"] for r in found} == {60}
    mean = {s: np.mean([r["top1"] for r in found if r["shots"] == s]) for s in (1, 5)}
    assert mean[1] < mean[5]
    table = probe(*args, "--shots", "1").stdout
    assert table.splitlines()[0].split()[3:5] == ["shots", "seed"]


def test_what_cannot_go_together_is_a_usage_error(probe, tmp_path):  # noqa: F811
    toy(tmp_path / "a.h5")
    said = probe("--features", tmp_path, "--seeds", "3", "--method", "knn", "--save", tmp_path / "h", code=2).stderr
    assert "--seeds repeats the draw of --shots" in said
    assert "--save" not in said  # of kNN too
    said = probe("--features", tmp_path, "--shots", "3", "--save", tmp_path / "h", code=2).stderr
    assert "--save keeps heads fitted on all images: it doesn't go with --shots" in said
    for shots in ("0", "1,x", ""):
        assert "--shots" in probe("--features", tmp_path, "--shots", shots, code=2).stderr
    assert "not a size" in probe("--features", tmp_path, "--memory-limit", "lots", code=2).stderr


def test_the_learning_curve_goes_beside_the_row(probe, tmp_path):  # noqa: F811
    toy(tmp_path / "a.h5", spread=3.0, n=480)
    (row,) = json.loads(probe("--features", tmp_path / "a.h5", "--curve", "0.05,0.5,1", "--json").stdout)
    curve = details.of(tmp_path / "results", row)["curve"]
    assert [point["n_train"] for point in curve] == [12, 120, 240]
    assert curve[0]["top1"] < curve[2]["top1"]
    assert all(point["top1_low"] <= point["top1"] <= point["top1_high"] for point in curve)


def test_intervals_are_named_in_the_row(probe, tmp_path):  # noqa: F811
    toy(tmp_path / "a.h5", spread=3.0)
    args = ("--features", tmp_path / "a.h5", "--json")
    ways = (), ("--intervals", "bootstrap"), ("--intervals", "wilson")
    beta, bootstrap, score = (json.loads(probe(*args, *how).stdout)[0] for how in ways)
    assert beta["top1"] == bootstrap["top1"] == score["top1"]
    assert (beta["top1_low"], beta["balanced_high"]) == (bootstrap["top1_low"], bootstrap["balanced_high"])
    assert 0 < abs(beta["top1_low"] - score["top1_low"]) < 0.05
    told = [row["protocol"]["intervals"] for row in (beta, bootstrap, score)]
    assert told[0] == statistics.INTERVALS
    assert "Bayesian bootstrap" in told[1]
    assert "Wilson" in told[2]


def same(a, b):
    assert len(a) == len(b)
    for one, two in zip(a, b, strict=True):
        for key in FIGURES:
            assert one[key] == pytest.approx(two[key], abs=1e-3), key


def test_several_processes_and_little_memory_give_the_same(probe, tmp_path, monkeypatch):  # noqa: F811
    for name in "abc":
        toy(tmp_path / f"{name}.h5", spread=2.0, seed=ord(name), identity=IDENTITY | {"model": name})
    args = ("--features", tmp_path, "--method", "logistic", "--method", "ridge", "--method", "knn", "--json")
    alone = json.loads(probe(*args, "--jobs", "1").stdout)
    same(alone, json.loads(probe(*args, "--jobs", "2").stdout))
    same(alone, json.loads(probe(*args, "--memory-limit", "1k").stdout))


def test_processes_share_the_cores(monkeypatch, tmp_path):
    monkeypatch.setattr(parallel, "cores", lambda: 4)
    path = toy(tmp_path / "a.h5")
    monkeypatch.setattr(parallel, "one", threads)
    tasks = [Task(path, "knn", seed) for seed in (1, 2)]
    found = [result for _, result in parallel.run(tasks, probe_run.Settings(), jobs=2, scheduler=None)]
    assert found == [(2, probe_run.Settings().memory_limit // 2)] * 2


def threads(task, settings):
    from threadpoolctl import threadpool_info

    return max(pool["num_threads"] for pool in threadpool_info()), settings.memory_limit


def test_on_a_dask_cluster(probe, tmp_path):  # noqa: F811
    distributed = pytest.importorskip("dask.distributed")
    for name in "ab":
        toy(tmp_path / f"{name}.h5", spread=2.0, seed=ord(name), identity=IDENTITY | {"model": name})
    args = ("--features", tmp_path, "--method", "ridge", "--json")
    alone = json.loads(probe(*args).stdout)
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1"
    ) as cluster:
        same(alone, json.loads(probe(*args, "--scheduler", cluster.scheduler_address).stdout))
    said = probe(*args, "--scheduler", "tcp://127.0.0.1:9", code=1).stderr
    assert "no Dask scheduler answers at tcp://127.0.0.1:9" in said


def test_a_head_is_kept_and_applied(probe, tmp_path):  # noqa: F811
    from click.testing import CliRunner

    from backbench.probe.cli import main

    path = toy(tmp_path / "set" / "net.h5", spread=2.0)
    args = ("--features", path, "--method", "logistic", "--method", "knn", "--save", tmp_path / "heads", "--json")
    found = json.loads(probe(*args).stdout)
    assert sorted(p.name for p in (tmp_path / "heads" / "set").iterdir()) == ["net-knn", "net-logistic"]
    for row in found:
        head = str(tmp_path / "heads" / "set" / f"net-{row['method']}")
        done = CliRunner().invoke(main, ["predict", "--head", head, "--features", str(path)])
        assert done.exit_code == 0, done.output
        lines = list(csv.DictReader(done.stdout.splitlines()))
        assert [line["id"] for line in lines] == [f"{i:04d}.jpg" for i in range(240)]
        test = lines[180:]
        assert np.mean([t["class"] == f"class {i % 4}" for i, t in enumerate(test)]) == pytest.approx(row["top1"])
        assert f"60 images scored: top1 {100 * row['top1']:.1f}" in done.stderr
    other = toy(tmp_path / "other.h5", identity=IDENTITY | {"model": "resnet50"})
    done = CliRunner().invoke(main, ["predict", "--head", head, "--features", str(other)])
    assert done.exit_code == 1
    assert "resnet50" in done.stderr


def test_terminated_it_keeps_the_rows_it_has(tmp_path):
    for i in range(40):
        toy(tmp_path / f"{i:02d}.h5", n=2000, d=64, k=8, spread=6.0, identity=IDENTITY | {"model": f"m{i}"})
    slowly = (  # so that it can be told to stop in time on a machine of any speed
        "import time; from backbench import rows; append = rows.append; "
        "rows.append = lambda *row: (append(*row), time.sleep(0.2)); from backbench.probe.cli import main; main()"
    )
    command = [sys.executable, "-c", slowly, "--features", tmp_path, "--results-dir", tmp_path / "results"]
    with subprocess.Popen([str(part) for part in command], cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        while not (tmp_path / "results" / rows.FILE).exists():
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        said = process.stderr.read()
    assert process.returncode == 143
    assert "What was computed is kept" in said
    assert 1 <= len(rows.read(tmp_path / "results")) < 40
