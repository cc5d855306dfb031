"""The logistic probe: choice on val along the path, then the head."""

import numpy as np
import pytest
import torch

from backbench.probe import logistic
from backbench.probe.logistic import Logistic, balanced
from backbench.probe.softmax import solver
from backbench.probe.softmax.objective import Objective, Rows
from backbench.probe.softmax.torch_objective import MixedPrecisionObjective
from backbench.probe.subsets import Splits, Subset, moments
from tests.toy import clusters, mapped, split


def data(n=120, d=20, k=4, **how):
    return split(clusters(n, d, k, **how), 2 * n // 3)


def test_a_head_stopped_early_says_so(monkeypatch):
    of = data(n=240, d=60, spread=3.0)
    monkeypatch.setattr(solver, "EVALUATIONS", 1)
    assert Logistic(of, n_classes=4, seed=0).converged is False
    monkeypatch.undo()
    head = Logistic(of, n_classes=4, seed=0)
    assert head.converged is True
    assert head.protocol["gap_bound"] <= 2e-5


def test_standardisation_is_trains_and_scale_does_not_matter():
    of = data(n=120, d=6, k=3, spread=2.0)
    stretch = np.array([1e-3, 1, 10, 100, 1, 1], "f4")
    a = Logistic(of, n_classes=3, seed=0)
    b = Logistic(Splits(*(Subset(p.features * stretch + 5, p.labels) for p in of)), n_classes=3, seed=0)
    assert a.chosen == b.chosen
    np.testing.assert_allclose(a.head.mean, of.train.features.mean(0), rtol=1e-5)
    np.testing.assert_allclose(a.scores(of.val.features), b.scores(of.val.features * stretch + 5), atol=2e-2)


def test_penalties_are_tried_both_ways_until_val_has_turned():
    of = data(n=120, d=40, k=3, spread=6.0)
    noisy = Subset(of.val.features, np.random.default_rng(0).permutation(of.val.labels))
    for val in (of.val, noisy):
        found = Logistic(Splits(of.train, val, of.train), n_classes=3, seed=0).protocol
        values, losses = ([one[key] for one in found["C_tried"]] for key in ("C", "val_cross_entropy"))
        first = logistic.GRID.index(values[0])
        assert values == list(logistic.GRID[first : first + len(values)])
        best = int(np.argmin(losses))
        assert found["C"] == values[best]
        assert best >= logistic.TURNED or first == 0
        assert len(values) - 1 - best >= logistic.TURNED or values[-1] == logistic.GRID[-1]


@pytest.mark.parametrize("noise", [0.0, 0.3, 1.0])
def test_no_value_left_out_is_better_on_val(noise):
    """Against all 45, solved in float64: val's cross-entropy has one minimum, wherever it lies."""
    rng, of = np.random.default_rng(7), data(n=240, d=30, k=3, spread=4.0)
    for part in (of.train, of.val):
        wrong = rng.random(len(part.labels)) < noise
        part.labels[wrong] = rng.integers(0, 3, wrong.sum())
    train, val = (Rows(part, *moments(of.train), limit=1 << 30) for part in (of.train, of.val))
    chosen = logistic.path(solver.Solver(Objective(train, 3)), val, grid=logistic.GRID, tolerance=1e-4)[1]
    brute = solver.Solver(Objective(train, 3, dtype=np.float64))
    losses = [logistic.path(brute, val, grid=[c], tolerance=1e-9)[1]["val_cross_entropy"] for c in logistic.GRID]
    assert chosen["C"] == logistic.GRID[int(np.argmin(losses))]


def test_the_choice_is_the_best_on_val():
    head = Logistic(data(n=300, spread=4.0), n_classes=4, seed=0)
    tried = head.protocol["C_tried"]
    best = min(tried, key=lambda t: (t["val_cross_entropy"], t["C"]))
    assert head.protocol["C"] == best["C"]
    assert head.val_top1 == best["val_top1"]
    assert (head.val_scores.argmax(1) == data(n=300, spread=4.0).val.labels).mean() == head.val_top1


@pytest.mark.parametrize("seed", range(6))
def test_the_choice_is_that_of_exact_solutions(seed):
    """A grid so fine that neighbours' cross-entropies differ by less than a loose tolerance moves them."""
    of, grid = data(n=300, spread=4.0, seed=seed), np.logspace(-4, 1, 41)
    moments_, chosen = moments(of.train), {}
    train, val = (Rows(part, *moments_, limit=1 << 30) for part in (of.train, of.val))
    for name, objective, tolerance in (
        ("exact", Objective(train, 4, dtype=np.float64), 1e-10),
        ("numpy", Objective(train, 4), 1e-3),
        ("bfloat16", MixedPrecisionObjective(train, 4, device=torch.device("cpu")), 1e-3),
    ):
        chosen[name] = logistic.path(solver.Solver(objective), val, grid=grid, tolerance=tolerance)[1]["C"]
    assert chosen["numpy"] == chosen["bfloat16"] == chosen["exact"]


def test_few_shots_are_not_refitted_on_val():
    of = data(spread=2.0)
    head = Logistic(Splits(of.train, of.val, of.train), n_classes=4, seed=0)
    assert head.protocol["refit_on"] == "train"
    np.testing.assert_allclose(head.val_scores, head.scores(of.val.features), atol=0.2)


@pytest.mark.parametrize("limit", [0, 1 << 30])
def test_streamed_from_the_file_it_is_the_same_head(tmp_path, limit):
    of = data(n=300, spread=3.0)
    there = mapped(of, tmp_path / "x")
    for part in there:
        part.memory_limit = limit
    a, b = (Logistic(d, n_classes=4, seed=0, path_tolerance=1e-6, tolerance=1e-8) for d in (of, there))
    assert a.chosen == b.chosen
    np.testing.assert_allclose(a.scores(of.val.features), b.scores(of.val.features), atol=0.05)


def test_balanced_weights_by_hand():
    assert balanced(np.array([0, 0, 0, 2])).tolist() == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2])
    part = clusters(200, 4, 2, spread=4.0)
    rare = Subset(part.features, np.where(np.arange(200) % 10 == 1, 1, 0))
    of = split(rare, 150)
    said = [
        (Logistic(of, n_classes=2, seed=0, class_weight=w).scores(rare.features).argmax(1) == 1).sum()
        for w in ("none", "balanced")
    ]
    assert said[1] > said[0]
