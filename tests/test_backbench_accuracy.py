"""Accuracies and intervals, worked out by hand and by simulation."""

import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st

from backbench import accuracy as metrics
from backbench import calibration
from backbench.accuracy import top_k
from backbench.statistics import interval, wilson

SCORES = np.array(
    [
        [0.9, 0.1, 0.0],  # 0: right
        [0.2, 0.5, 0.3],  # 0: wrong, third
        [0.1, 0.8, 0.1],  # 1: right
        [0.5, 0.5, 0.0],  # 1: a tie with class 0 earns nothing
        [0.4, 0.3, 0.3],  # 2: a tie behind the first
    ]
)
LABELS = np.array([0, 0, 1, 1, 2])


def test_top_k_by_hand():
    assert metrics.top_k(SCORES, LABELS, k=1).tolist() == [True, False, True, False, False]
    assert metrics.top_k(SCORES, LABELS, k=2).tolist() == [True, False, True, True, False]
    assert metrics.top_k(SCORES, LABELS, k=3).all()


def test_constant_scores_earn_nothing():
    assert not metrics.top_k(np.zeros((4, 3)), np.array([0, 1, 2, 0]), k=1).any()


def test_wilson_by_hand():
    # 8 of 10: centre (0.8 + 0.1921) / 1.3841 = 0.7167, half 1.96 / 1.3841 * sqrt(0.016 + 0.0096) = 0.2266
    low, high = wilson(8, 10)
    assert (low, high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    assert wilson(10, 10)[1] == 1
    assert wilson(0, 10)[0] == 0


def test_balanced_by_hand():
    # class 0: 4 of 4; class 2: 2 of 4; class 1 isn't there. Mean 3/4; the guess is n = 4 / (1/4 + 1/4) = 8. Variance
    # (1/4 / 3) / 4 = 1/48, times 8 and over 3/4 * 1/4 is 8/9. Freedom (1/2)^2 / (2 / 16 / 3) = 6, of which a quarter
    # errs: 1 + (8/9 - 1) 1.5 / (1.5 + 4) = 32/33 of the guess' variance.
    right, labels = np.array([1, 1, 1, 1, 1, 1, 0, 0], bool), np.repeat([0, 2], 4)
    n = 8 * 33 / 32
    for limits in (interval, wilson):
        assert metrics.balanced(right, labels, limits=limits) == pytest.approx((0.75, *limits(0.75 * n, n)))
    # The small class is the harder one: 1 of 2 against 8 of 8. Variance (1/4 / 1 + 0) / 4 = 1/16 is more than
    # 3/16 / (4 / (1/2 + 1/8)) = 1/34, so n = 3/16 / (1/16) = 3.
    right, labels = np.array([1, 0, *[1] * 8], bool), np.repeat([0, 1], [2, 8])
    assert metrics.balanced(right, labels) == pytest.approx((0.75, *interval(2.25, 3)))


def test_balanced_of_classes_of_one_image_by_hand():
    # 3 of 4 right, one image a class: the variance among them is 1/4, or 1/16 of the mean; the guess of n is 4, whose
    # variance 3/16 / 4 is less. n = 3/16 / (1/16) = 3.
    right = np.array([1, 1, 1, 0], bool)
    assert metrics.balanced(right, np.arange(4)) == pytest.approx((0.75, *interval(2.25, 3)))
    # One such class, and it errs, beside 4 of 4: half of the mean hangs on one image, whose variance counts as 1.
    found = metrics.balanced(np.array([1, 1, 1, 1, 0], bool), np.array([0, 0, 0, 0, 1]))
    assert found == pytest.approx((0.5, *interval(0.5, 1)))


def test_one_class_present_and_no_error_is_the_plain_interval():
    assert metrics.balanced(np.ones(4, bool), np.full(4, 2)) == pytest.approx((1, *interval(4, 4)))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 7), st.integers(1, 60))
def test_every_interval_holds_its_figure(seed, k, n):
    rng = np.random.default_rng(seed)
    figures = metrics.figures(metrics.Scored(rng.normal(size=(n, k)), rng.integers(0, k, n)))
    for name in ("top1", "top5", "balanced"):
        assert 0 <= figures[f"{name}_low"] <= figures[name] <= figures[f"{name}_high"] <= 1
    assert figures["top1"] <= figures["top5"]
    assert figures["top5"] == 1 or k > 5


@pytest.mark.parametrize("accuracy", [0.6, 0.9, 0.97])
@pytest.mark.parametrize(
    "sizes", [np.full(20, 15), np.arange(4, 64, 6), np.array([20, 20])], ids=["20x15", "4..58", "2x20"]
)
def test_balanced_covers_its_truth(accuracy, sizes):
    """Over 2,000 draws the interval holds the truth at least 94 times in 100."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    truth = np.clip(accuracy + 0.05 * rng.normal(size=len(sizes)), 0, 1)
    held = 0
    for _ in range(2000):
        _, low, high = metrics.balanced(rng.random(len(labels)) < truth[labels], labels)
        held += low <= truth.mean() <= high
    assert held >= 1880


def test_softmax_by_blocks_is_that_of_all_at_once(rng, monkeypatch):
    scores, labels = rng.normal(size=(100, 7)).astype("f4") * 30, rng.integers(0, 7, 100)
    whole = metrics.Scored(scores, labels).softmax(2.0)
    monkeypatch.setattr(metrics, "BLOCK", 20)
    for part, all_at_once in zip(metrics.Scored(scores, labels).softmax(2.0), whole, strict=True):
        assert (part == all_at_once).all()
    logs = scipy.special.log_softmax(scores.astype(float) / 2, axis=1)
    np.testing.assert_allclose(whole[0], -logs[np.arange(100), labels], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(whole[1], np.exp(logs).max(axis=1), rtol=1e-6)


def test_what_is_computed_once_is_kept(rng, monkeypatch):
    scored, calls = metrics.Scored(rng.normal(size=(50, 4)), rng.integers(0, 4, 50)), []
    monkeypatch.setattr(metrics, "top_k", lambda *a, **k: calls.append(k) or top_k(*a, **k))
    metrics.figures(scored)
    calibration.assess(scored, t=2.0)
    assert calls == [{"k": 1}, {"k": 4}]
