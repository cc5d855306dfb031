"""Accuracies and intervals, worked out by hand and by simulation."""

import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st

from backbench import accuracy as metrics
from backbench import calibration
from backbench.accuracy import Scored, between_groups, figures, top_k
from backbench.statistics import Z, interval, wilson

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


def test_limits_between_groups_by_hand():
    """Ten groups of five images, six of them right throughout: the images say no more than the groups."""
    groups, labels = np.repeat(np.arange(10), 5), np.zeros(50, int)
    right = groups < 6
    # The variance of the groups' mean is .6 * .4 / 9, that of 9 images. 10^.75 * 50^.25 = 14.95 were guessed, and the
    # larger variance is believed. Student's t of 9 degrees of freedom: (1.95996 / 2.26216)^2 = .75067.
    low, high = interval(0.6 * 9 * 0.75067, 9 * 0.75067)
    assert between_groups(right, labels, groups) == pytest.approx((low, high), abs=1e-5)
    alone = interval(30, 50)
    assert low < alone[0] < alone[1] < high
    names = np.array([f"patient {g}" for g in groups])
    assert between_groups(right, labels, names) == between_groups(right, labels, groups)


def test_limits_between_groups_of_balanced_classes_by_hand():
    """Two classes of three and two groups; each group of a class of a size, so that their means are compared."""
    labels, groups = np.repeat([0, 1], [12, 8]), np.repeat(np.arange(5), 4)
    right = np.isin(np.arange(20), [0, 1, 2, 3, 4, 5, 8, 12, 13, 14, 15, 16])
    # Class 0: groups 1, 1/2, 1/4: mean 7/12, variance of the mean .0486; class 1: 1, 1/4: 5/8, .1406. Their mean's:
    variance = (np.var([1, 0.5, 0.25], ddof=1) / 3 + np.var([1, 0.25], ddof=1) / 2) / 4
    value = (7 / 12 + 5 / 8) / 2
    # The groups are as 1 / (3 / 6^2 + 2 / 4^2) = 4.8 equal ones, and each class has its mean: 2.8 degrees of freedom.
    size = value * (1 - value) / variance * (Z / scipy.special.stdtrit(2.8, 0.975)) ** 2
    assert between_groups(right, labels, groups) == pytest.approx(interval(value * size, size), abs=1e-5)


def test_limits_between_groups_without_errors_have_a_width():
    groups, labels = np.repeat(np.arange(10), 20), np.zeros(200, int)
    # 10^.75 * 200^.25 * .75067 = 15.876 images, and of Beta(n + 1/2, 1) the quantile of 2.5 %.
    low, high = between_groups(np.ones(200, bool), labels, groups)
    assert (low, high) == (pytest.approx(0.025 ** (1 / 16.376), abs=1e-4), 1.0)  # of 200 images alone 0.98
    low, high = between_groups(np.zeros(200, bool), labels, groups)
    assert (low, high) == (0.0, pytest.approx(1 - 0.025 ** (1 / 16.376), abs=1e-4))


def test_limits_between_groups_cover_where_those_of_single_images_do_not():
    """30 patients of 20 images whose accuracies spread (correlation .4): a small simulation; 2,000 draws are 94 %."""
    rng, groups, labels = np.random.default_rng(5), np.repeat(np.arange(30), 20), np.zeros(600, int)
    covered = np.zeros(2)
    for _ in range(200):
        p = rng.beta(0.9 * 1.5, 0.1 * 1.5, 30)
        right = rng.random(600) < p[groups]
        for i, (low, high) in enumerate((between_groups(right, labels, groups), interval(right.sum(), 600))):
            covered[i] += low <= 0.9 <= high
    assert covered[0] >= 0.92 * 200
    assert covered[1] < 0.6 * 200


def test_figures_with_groups_differ_in_their_limits_alone():
    rng = np.random.default_rng(0)
    scored = Scored(rng.random((60, 3)), np.arange(60) % 3)
    alone, grouped = figures(scored), figures(scored, groups=np.repeat(np.arange(12), 5))
    assert alone.keys() == grouped.keys()
    for name in ("top1", "top5", "balanced"):
        assert alone[name] == grouped[name]
        assert grouped[f"{name}_low"] <= grouped[name] <= grouped[f"{name}_high"]
    assert grouped["top1_low"] != alone["top1_low"]
