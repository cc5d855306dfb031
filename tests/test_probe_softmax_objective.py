"""The softmax objective: its gradient, its parts, and the same in every arithmetic and from every place."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

from backbench.probe.softmax.array_backends import numpy
from backbench.probe.softmax.objective import Objective, Rows
from backbench.probe.softmax.torch_objective import MixedPrecisionObjective, TorchObjective, objective
from backbench.probe.subsets import moments
from tests.toy import clusters, mapped, split


def rows(part, *, weights=None, limit=1 << 30):
    return Rows(part, *moments(part), weights=weights, limit=limit)


def some_weights(k, d, seed=1):
    return np.random.default_rng(seed).normal(size=(k, d + 1))


def by_definition(of, weights, penalty):
    x = np.concatenate([x for _, x in of.blocks()]).astype(float)
    logits = x @ weights[:, :-1].T + weights[:, -1]
    each = -log_softmax(logits, axis=1)[np.arange(len(x)), of.labels]
    return of.share @ each + penalty / 2 * (weights[:, :-1] ** 2).sum()


@pytest.mark.parametrize("weighted", [False, True])
def test_value_and_gradient_are_those_of_the_definition(weighted):
    part = clusters(40, 4, 3)
    of = rows(part, weights=np.random.default_rng(2).uniform(0, 2, 40) if weighted else None)
    weights, step = some_weights(3, 4), 1e-5
    value, gradient = Objective(of, 3, dtype=np.float64).evaluate(weights).at(0.3)
    assert value == pytest.approx(by_definition(of, weights, 0.3), rel=1e-12)
    for i in np.ndindex(3, 5):
        e = np.zeros((3, 5))
        e[i] = step
        numeric = (by_definition(of, weights + e, 0.3) - by_definition(of, weights - e, 0.3)) / (2 * step)
        assert gradient[i] == pytest.approx(numeric, abs=1e-8)


def test_miss_and_stray_are_the_probabilities_given_away():
    of = rows(clusters(30, 4, 3))
    weights = some_weights(3, 4)
    point = Objective(of, 3, dtype=np.float64).evaluate(weights)
    x = np.concatenate([x for _, x in of.blocks()]).astype(float)
    p = softmax(x @ weights[:, :-1].T + weights[:, -1], axis=1)
    np.testing.assert_allclose(point.miss, 1 - p[np.arange(30), of.labels], atol=1e-12)
    p[np.arange(30), of.labels] = 0
    np.testing.assert_allclose(point.stray, p.mean(axis=0), atol=1e-12)


def test_the_start_is_the_point_without_features():
    part = clusters(31, 4, 3)  # classes of 11, 10 and 10
    found = Objective(rows(part), 3, dtype=np.float64)
    start = found.start()
    there = found.evaluate(start.weights)
    assert start.loss == pytest.approx(there.loss, rel=1e-9)
    np.testing.assert_allclose(start.slope, there.slope, atol=1e-7)
    np.testing.assert_allclose(start.miss, there.miss, atol=1e-9)
    np.testing.assert_allclose(start.stray, there.stray, atol=1e-9)
    assert np.abs(start.slope[:, -1]).max() < 1e-12  # the intercepts are at their optimum


def test_kept_and_streamed_rows_are_the_same(tmp_path):
    data = mapped(split(clusters(300, 6, 3), 200), tmp_path / "x")
    kept, streamed = rows(data.final), rows(data.final, limit=0)
    assert kept.kept is not None
    assert streamed.kept is None
    weights = some_weights(3, 6)
    a, b = (Objective(of, 3).evaluate(weights) for of in (kept, streamed))
    assert a.loss == pytest.approx(b.loss, rel=1e-6)
    np.testing.assert_allclose(a.slope, b.slope, atol=1e-6)
    np.testing.assert_allclose(kept.of(slice(0, 100))[1], streamed.of(slice(0, 100))[1][np.argsort(rank(streamed))])


def rank(streamed):
    """Where each of the first hundred rows sorted by class lies among them, in the file's order."""
    return np.argsort(np.argsort(streamed.of_class[:100]))[np.argsort(np.argsort(streamed.of_class[:100]))]


@pytest.mark.parametrize("limit", [1 << 30, 0])
def test_torch_gives_the_same(limit):
    of = rows(clusters(300, 6, 3), weights=np.random.default_rng(0).uniform(0, 2, 300), limit=limit)
    weights = some_weights(3, 6)
    exact = Objective(of, 3).evaluate(weights)
    fast = TorchObjective(of, 3, device=torch.device("cpu"))
    for precision in ("float32", "float64"):
        assert fast.precision == precision
        close(fast.evaluate(fast.native(weights)), exact, 1e-6)
        assert fast.raise_precision() is (precision == "float32")


def test_bfloat16_is_as_exact_as_the_way_from_its_base_is_short():
    of = rows(clusters(300, 6, 3), weights=np.random.default_rng(0).uniform(0, 2, 300))
    weights, way = some_weights(3, 6), some_weights(3, 6, seed=2)
    fast = MixedPrecisionObjective(of, 3, device=torch.device("cpu"))
    start = fast.start()
    close(fast.evaluate(start.weights), Objective(of, 3).evaluate(numpy(start.weights)), 1e-6)
    for length in (1.0, 0.1, 0.01):
        base = fast.evaluate(fast.native(weights))
        found, exact = fast.along(base, fast.native(way))(length), Objective(of, 3).evaluate(weights + length * way)
        close(found, exact, 2e-2 * length)
        assert np.abs(numpy(found.slope) - exact.slope).max() > 1e-5 * length  # or it were not bfloat16
        off = fast.gap_error(found, 0.1)
        assert 0 < off < 1e-2 * length**2
    assert fast.gap_error(fast.evaluate(fast.native(weights)), 0.1) == 0
    assert fast.raise_precision()
    close(fast.evaluate(fast.native(weights)), Objective(of, 3).evaluate(weights), 1e-6)
    assert fast.raise_precision()
    assert fast.precision == "float64"
    assert not fast.raise_precision()


def test_bfloat16_goes_on_from_the_point_taken_and_not_from_the_ones_tried():
    of = rows(clusters(300, 6, 3))
    weights, first, second = some_weights(3, 6), some_weights(3, 6, seed=2), some_weights(3, 6, seed=3)
    fast = MixedPrecisionObjective(of, 3, device=torch.device("cpu"))
    fast.start()
    along = fast.along(fast.evaluate(fast.native(weights)), fast.native(first))
    along(1.0)
    taken = along(0.1)
    along = fast.along(taken, fast.native(second))
    along(0.5)
    close(along(0.02), Objective(of, 3).evaluate(weights + 0.1 * first + 0.02 * second), 2e-3)
    close(fast.along(taken, fast.native(first))(-0.1), Objective(of, 3).evaluate(weights), 2e-3)


def test_a_class_all_but_ruled_out_still_has_a_loss():
    """e^-200 is 0 in float32: the loss is the difference of the logits all the same."""
    of = rows(clusters(30, 4, 3))
    weights = np.zeros((3, 5))
    weights[0, -1] = 200
    exact = Objective(of, 3, dtype=np.float64).evaluate(weights).loss
    assert exact > 100
    assert TorchObjective(of, 3, device=torch.device("cpu")).evaluate(torch.from_numpy(weights).float()).loss == (
        pytest.approx(exact, rel=1e-6)
    )


def close(found, exact, within):
    assert found.loss == pytest.approx(exact.loss, abs=within)
    for name in ("slope", "miss", "stray"):
        np.testing.assert_allclose(numpy(getattr(found, name)), getattr(exact, name), atol=within)


def test_torch_is_for_large_problems_and_devices_that_are_there(monkeypatch):
    of = rows(clusters(30, 4, 3))
    assert type(objective(of, 3, device="auto")) is Objective
    monkeypatch.setattr("backbench.probe.softmax.torch_objective.WORTH_TORCH", 1)
    monkeypatch.setattr("backbench.probe.softmax.torch_objective.has_bfloat16", lambda: True)
    assert type(objective(of, 3, device="cpu")) is MixedPrecisionObjective
    of.limit = 4 * 30 * 4
    assert type(objective(of, 3, device="cpu")) is TorchObjective  # bfloat16 would need more memory
    monkeypatch.setattr("backbench.probe.softmax.torch_objective.has_bfloat16", lambda: False)
    assert type(objective(of, 3, device="cpu")) is Objective
    with pytest.raises(Exception, match="--device tpu: not on this machine"):
        objective(of, 3, device="tpu")
