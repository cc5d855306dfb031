"""Heads: the optimum of the problem as stated, and neighbours counted by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from probe import logistic
from probe.knn import TEMPERATURE, Knn
from probe.logistic import Logistic, _cross_entropy, _Fit, _gradient
from probe.run import Part


def clusters(n, d, k, *, seed=0, spread=1.0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(k, d))
    labels = np.arange(n) % k
    return Part((centres[labels] + spread * rng.normal(size=(n, d))).astype("f4"), labels)


def objective(flat, x, labels, k, c):
    parameters = flat.reshape(k, -1)
    weights, intercept = parameters[:, :-1], parameters[:, -1]
    value = _cross_entropy(x @ weights.T + intercept, labels) + (weights**2).sum() / (2 * c * len(x))
    return value, _gradient(x, labels, weights, intercept, c=c).ravel()


def test_the_gradient_is_that_of_the_objective():
    x, labels = clusters(20, 4, 3)
    rng = np.random.default_rng(1)
    flat, step = rng.normal(size=15), 1e-6
    _, gradient = objective(flat, x, labels, 3, 0.7)
    for i in range(15):
        e = np.eye(15)[i] * step
        numeric = (objective(flat + e, x, labels, 3, 0.7)[0] - objective(flat - e, x, labels, 3, 0.7)[0]) / (2 * step)
        assert gradient[i] == pytest.approx(numeric, abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(8, 60),
    d=st.integers(1, 30),
    k=st.integers(2, 5),
    c=st.sampled_from([1e-4, 1e-2, 1.0, 10.0]),
    spread=st.sampled_from([0.01, 1.0, 5.0]),
    constant=st.booleans(),
)
def test_the_fit_is_the_optimum_of_the_stated_problem(n, d, k, c, spread, constant):
    """Against scipy's L-BFGS on our own objective, driven hard: few rows, separable, two classes, constant columns."""
    x, labels = clusters(n, d, k, seed=n * d, spread=spread)
    x = x.astype(float)
    if constant:
        x[:, 0] = 0.0
    fit = _Fit(x, labels, k)
    check = fit.to(c, 1e-7)
    weights, intercept = fit._both()
    ours, _ = objective(np.column_stack([weights, intercept]).ravel(), x, labels, k, c)
    options = {"maxiter": 20_000, "maxfun": 40_000, "ftol": 1e-15, "gtol": 1e-12}
    best = minimize(objective, np.zeros(k * (d + 1)), (x, labels, k, c), "L-BFGS-B", jac=True, options=options).fun
    assert ours <= best * (1 + 1e-5) + 1e-9
    assert best >= ours * (1 - check["gap_bound"]) - 1e-9  # the bound is one


def test_a_head_stopped_early_says_so(monkeypatch):
    monkeypatch.setattr(logistic, "MAX_ITERATIONS", 2)
    train, val = clusters(120, 20, 4, spread=2.0), clusters(40, 20, 4, spread=2.0)
    assert Logistic(train, val, n_classes=4, seed=0).converged is False
    monkeypatch.undo()
    head = Logistic(train, val, n_classes=4, seed=0)
    assert head.converged is True
    assert head.protocol["gradient_share"] <= 1.5e-4


def test_standardisation_is_trains_and_scale_does_not_matter():
    train, val = clusters(90, 6, 3, spread=2.0), clusters(30, 6, 3, spread=2.0)
    stretch = np.array([1e-3, 1, 10, 100, 1, 1], "f4")
    a = Logistic(train, val, n_classes=3, seed=0)
    moved = (Part(part.features * stretch + 5, part.labels) for part in (train, val))
    b = Logistic(*moved, n_classes=3, seed=0)
    assert a.chosen == b.chosen
    np.testing.assert_allclose(a.mean, train.features.mean(0), rtol=1e-5)
    np.testing.assert_allclose(a.scores(val.features), b.scores(val.features * stretch + 5), atol=2e-2)


def test_weaker_penalties_are_not_tried_once_val_has_turned():
    train, val = clusters(60, 40, 3, spread=6.0), clusters(60, 40, 3, seed=0, spread=6.0)
    noisy = Part(val.features, np.random.default_rng(0).permutation(val.labels))
    tried = Logistic(train, noisy, n_classes=3, seed=0).protocol["C_tried"]
    assert len(tried) < len(logistic.GRID)


def test_knn_by_hand():
    """Two neighbours at cosine 1 and cos 60 degrees of class 0 and 1: votes e^0 and e^(-0.5 / T)."""
    bank = np.array([[2, 0], [0.5, np.sqrt(0.75)]], "f4")
    head = Knn(Part(bank, np.array([0, 1])), Part(bank[:1], np.array([0])), n_classes=3, seed=0)
    assert head.k == 2
    votes = head.scores(np.array([[10, 0]], "f4"))
    # val joined the bank, so class 0 stands there twice at cosine 1, and both fit into k = 2
    assert votes[0].tolist() == pytest.approx([2, 0, 0])
    head.k = 3
    assert head.scores(np.array([[10, 0]], "f4"))[0].tolist() == pytest.approx([2, np.exp(-0.5 / TEMPERATURE), 0])


def test_knn_takes_the_k_that_is_best_on_val_and_leaves_an_images_own_vote_out():
    train, val = clusters(250, 8, 3, spread=1.5), clusters(60, 8, 3, spread=1.5)
    head = Knn(train, val, n_classes=3, seed=0)
    right = {}
    for k in (10, 20, 100, 200):
        unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (val.features, train.features)]
        similarity = unit[0] @ unit[1].T
        near = np.argsort(-similarity, axis=1)[:, :k]
        votes = np.zeros((60, 3))
        for i in range(60):
            np.add.at(votes[i], train.labels[near[i]], np.exp(similarity[i, near[i]] / TEMPERATURE))
        right[k] = (votes.argmax(1) == val.labels).mean()
    assert head.val_top1 == max(right.values())
    assert right[head.k] == head.val_top1
    noise = Part(np.random.default_rng(0).normal(size=(250, 8)).astype("f4"), train.labels)
    assert Knn(noise, val, n_classes=3, seed=0).train_top1 < 0.6  # 1.0 if each image voted for itself


def test_a_row_of_zeros_is_a_neighbour_to_none_but_breaks_nothing():
    train = clusters(30, 4, 2)
    train.features[3] = 0
    head = Knn(train, clusters(10, 4, 2), n_classes=2, seed=0)
    assert np.isfinite(head.scores(np.zeros((2, 4), "f4"))).all()
