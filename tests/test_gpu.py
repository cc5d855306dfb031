"""What a GPU computes is what the CPU computes, and runs there are stopped and go on as here. Only where there is one.

Runs are compared within rounding, not to the bit: which algorithm a GPU takes may change from run to run.
"""

import json
import subprocess
import sys
import time

import numpy as np
import pytest

from backbench.cache.features import open_file
from backbench.cache.schema import PENDING, part_path
from tests.brake import Brake
from tests.conftest import ROOT

pytestmark = pytest.mark.gpu

MODEL = ("--model", "test_resnet", "--weights", "random", "--dataset", "digits")
PLAIN = ("--precision", "float32", "--compile", "off")


@pytest.fixture
def extracted(run, tmp_path, gpu):
    """``extracted(device)``: the feature file of the digits by a small backbone in float32."""

    def extracted(device: str):
        where = ("--cache-dir", device, "--results-dir", f"{device}-rows", "--device", device)
        done = run("extract", *MODEL, *PLAIN, *where, env=gpu)
        assert done.returncode == 0, done.stderr
        return tmp_path / device / "digits" / "test_resnet.h5"

    return extracted


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Between the rows of two arrays (N, D), centred by the mean of the first."""
    a, b = a - a.mean(0), b - a.mean(0)
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_features_are_the_cpus(extracted):
    with open_file(extracted("cuda")) as ours, open_file(extracted("cpu")) as theirs:
        assert ours.ids == theirs.ids
        assert "cpu" not in ours.measured["device"]
        assert cosines(np.array(theirs.features), np.array(ours.features)).min() > 0.9999


def test_the_format_that_is_chosen_agrees_with_float32(run, tmp_path, gpu, extracted):
    done = run("extract", *MODEL, "--device", "cuda", "--compile", "off", "--cache-dir", "auto", "--json", env=gpu)
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)
    assert found["precision"] in ("float32", "bfloat16", "float16")
    with open_file(tmp_path / found["path"]) as ours, open_file(extracted("cuda")) as exact:
        assert cosines(np.array(exact.features), np.array(ours.features)).mean() > 0.99


def test_a_killed_run_goes_on_and_keeps_what_it_had(run, tmp_path, gpu, extracted):
    where = ("--cache-dir", "killed", "--results-dir", "rows", "--device", "cuda", "--batch-size", "8")
    command = [sys.executable, "-m", "backbench.extract", *MODEL, *PLAIN, *where]
    path = tmp_path / "killed" / "digits" / "test_resnet.h5"
    brake = Brake(tmp_path)
    brake.at(400)
    around = gpu | {"PYTHONPATH": brake.environment["PYTHONPATH"]}
    process = subprocess.Popen(command, cwd=tmp_path, env=around, stderr=subprocess.DEVNULL)
    while process.poll() is None and done_in(part_path(path)) < 400:
        time.sleep(0.02)
    process.kill()
    process.wait()
    with open_file(part_path(path), partial=True) as file:
        had, before = file.done != PENDING, np.array(file.features)
    assert 0 < had.sum() < len(had)
    done = run("extract", *MODEL, *PLAIN, *where, env=gpu)
    assert done.returncode == 0, done.stderr
    with open_file(path) as ours, open_file(extracted("cuda")) as unbroken:
        assert np.array_equal(ours.features[had], before[had])
        assert cosines(np.array(unbroken.features), np.array(ours.features)).min() > 0.9999


def done_in(path) -> int:
    """The rows that are done in an unfinished file; 0 while there is none."""
    if not path.exists():
        return 0
    try:
        with open_file(path, partial=True) as file:
            return int((file.done != PENDING).sum())
    except Exception:  # it is being made
        return 0


HALVED = """
import torch
from backbench.extract import backbones
from backbench.extract.engine import Engine

device = torch.device("cuda")
model = backbones.create("test_resnet", weights="random").from_pixels.to(device, memory_format=torch.channels_last)
batch = torch.randint(0, 256, (2048, 3, 160, 160), dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
batch = batch.to(device)
with torch.inference_mode():
    wanted = torch.cat([Engine(model, device, "float32")(part) for part in batch.split(64)])
    torch.cuda.empty_cache()
    room = torch.cuda.memory_reserved() + (400 << 20)  # 2048 images in float32 are 630 MB
    torch.cuda.set_per_process_memory_fraction(room / torch.cuda.get_device_properties(0).total_memory)
    engine = Engine(model, device, "float32")
    found = engine(batch)
print(engine.most, torch.allclose(found, wanted, rtol=1e-3, atol=1e-4))
"""


def test_out_of_memory_halves_the_batch_and_loses_nothing(gpu):
    done = subprocess.run([sys.executable, "-c", HALVED], cwd=ROOT, env=gpu, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    most, same = done.stdout.split()
    assert 0 < int(most) < 2048
    assert same == "True"
    assert "ran out of memory" in done.stderr


EVALUATED = """
import numpy as np, torch
from backbench.probe.softmax.objective import Objective, Rows
from backbench.probe.softmax.torch_objective import TorchObjective
from backbench.probe.subsets import moments
from tests.toy import clusters

part = clusters(9000, 32, 5, seed=1)
rows = Rows(part, *moments(part), limit=1 << 30)
weights = np.random.default_rng(0).normal(size=(5, 33)).astype(np.float32)
gpu = TorchObjective(rows, 5, device=torch.device("cuda"))
ours, theirs = gpu.evaluate(gpu.native(weights)), Objective(rows, 5, dtype=np.float64).evaluate(weights)
assert ours.slope.device.type == "cuda"
print(abs(ours.loss / theirs.loss - 1), abs(ours.slope.cpu().numpy() - theirs.slope).max())
"""


def test_the_objective_is_numpys(gpu):
    done = subprocess.run([sys.executable, "-c", EVALUATED], cwd=ROOT, env=gpu, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loss, slope = map(float, done.stdout.split())
    assert loss < 1e-5
    assert slope < 1e-5


def test_a_probe_is_the_cpus(run, tmp_path, gpu, rng):
    labels = np.arange(600) % 5
    x = (rng.normal(size=(5, 32))[labels] + 1.5 * rng.normal(size=(600, 32))).astype(np.float32)
    np.savez(tmp_path / "clouds.npz", x=x, labels=labels)
    found = {}
    for device in ("cuda", "cpu"):
        done = run("probe", "--features", "clouds.npz", "--device", device, "--json", "--results-dir", device, env=gpu)
        assert done.returncode == 0, done.stderr
        (found[device],) = json.loads(done.stdout)
    ours, theirs = found["cuda"], found["cpu"]
    assert ours["converged"]
    assert ours["protocol"]["C"] == theirs["protocol"]["C"]
    assert ours["protocol"]["objective"] == theirs["protocol"]["objective"]
    assert ours["top1"] == pytest.approx(theirs["top1"], abs=1 / 60)
    assert ours["nll"] == pytest.approx(theirs["nll"], rel=1e-3)


def test_a_fine_tuned_backbone_classifies_as_on_the_cpu(run, tmp_path, gpu):
    how = (*MODEL, "--epochs", "1", "--precision", "float32", "--device", "cuda", "--workers", "2", "--json")
    done = run("finetune", "simple", *how, env=gpu)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert row["top1"] > 0.2  # of ten classes
    (checkpoint,) = (tmp_path / "runs" / "digits").iterdir()
    answers = {}
    for device in ("cuda", "cpu"):
        where = (checkpoint, ROOT / "docs" / "new-digits", "--device", device, "--cache-dir", device, "--json")
        done = run("__main__", "predict", *where, env=gpu)
        assert done.returncode == 0, done.stderr
        answers[device] = json.loads(done.stdout)
    assert same(answers["cuda"], answers["cpu"])


def same(a, b) -> bool:
    """Whether two values of JSON are equal, their numbers within a thousandth."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return abs(a - b) < 1e-3 if isinstance(a, float) else a == b
