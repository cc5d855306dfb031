"""The benchmarks measure what they say: both sides' gaps, on a problem small enough for a test."""

import json
import subprocess
import sys

import pytest

from benchmarks.probe import GAP, OURS, TOLERANCES, Problem, memory
from tests.conftest import ROOT


def test_both_sides_are_held_to_the_same_gap():
    problem = Problem(400, 24, 5)
    seconds, gap = problem.ours(1.0, problem.tolerance(problem.ours, OURS, 1.0))
    assert seconds > 0
    assert -1e-7 <= gap <= GAP
    assert -1e-7 <= problem.theirs(1.0, problem.tolerance(problem.theirs, TOLERANCES, 1.0))[1] <= GAP
    for fit in (problem.ours, problem.theirs):
        assert fit(1.0, 1e-1)[1] > GAP  # or the measure would be blind
    assert len(problem.path()[1]) > 4


def test_streaming_takes_less_memory(tmp_path):
    figures = {}
    memory(figures, (100_000, 256, 4), tmp_path)
    assert 0 < figures["memory_streamed"] < figures["memory"]


@pytest.mark.parametrize("n", [10, 1000])
def test_synthetic_features_are_those_of_a_relu(n):
    from benchmarks.synthetic import clusters

    x, labels = clusters(n, 8, 3)
    assert x.min() == 0
    assert x.dtype == "float32"
    assert set(labels) <= {0, 1, 2}


def test_the_training_step_is_measured_beside_the_bare_pass():
    command = [sys.executable, "benchmarks/finetune.py", "--quick", "--rounds", "1", "--json", "--model", "test_resnet"]
    figures = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout)
    rates = [figures[f"{way}_images_per_second"] for way in ("bare", "step", "fed")]
    assert min(rates) > 0
    assert figures["step_share"] > figures["fed_share"] / 3  # noise apart, feeding only adds


def test_the_cifar_networks_steps_are_measured_beside_the_references():
    command = [sys.executable, "benchmarks/cnn.py", "--quick", "--rounds", "1", "--json", "--batch", "8"]
    figures = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout)
    # airbench94's 0.28 PFLOP: 8 epochs of 50,000 pictures, 118 million multiply-adds forward, about three times that.
    assert figures["reference_pflop"] == pytest.approx(8 * 50_000 * 6 * 118e6 / 1e15, rel=0.05)
    assert 0 < figures["pflop_over_reference"] < 1
    assert figures["ours_seconds"] > 0
    assert 0 < figures["input_share"] < 1
    assert "convolution" in " ".join(one["operation"] for one in figures["layers"])
