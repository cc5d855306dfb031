"""Calibration and errors by class: by hand, against plain formulas, by simulation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backbench import accuracy as metrics
from backbench import calibration
from backbench.accuracy import Scored

LOGITS = np.log([[0.9, 0.06, 0.04], [0.5, 0.3, 0.2], [0.2, 0.7, 0.1], [0.4, 0.35, 0.25]])
LABELS = np.array([0, 0, 2, 0])


def draw(n, k, *, seed, sharp=6.0):
    """Scores whose softmax is the true probability of the labels drawn from it."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(n, k)) * sharp / 2
    p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    return scores, (p.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1).clip(max=k - 1)


def test_nll_by_hand_and_however_large_the_scores():
    assert calibration.nll(LOGITS, LABELS) == pytest.approx(-np.log([0.9, 0.5, 0.1, 0.4]).mean())
    assert calibration.nll(np.array([[2000.0, 1000.0]], "f4"), np.array([1])) == pytest.approx(1000)


def test_ece_by_hand():
    # Two bins: 0.5 and 0.4 in (0, 0.5], both right: |1 - 0.45| * 2/4; 0.9 right and 0.7 wrong: |0.5 - 0.8| * 2/4.
    assert calibration.ece(Scored(LOGITS, LABELS), bins=2) == pytest.approx(0.55 / 2 + 0.3 / 2)
    found = calibration.reliability(Scored(LOGITS, LABELS), bins=2)
    assert found["n"] == [2, 2]
    assert found["confidence"] == pytest.approx([0.45, 0.8])
    assert found["accuracy"] == [1, 0.5]
    assert calibration.reliability(Scored(LOGITS[:1], LABELS[:1]), bins=2) == {
        "n": [0, 1],
        "confidence": [None, pytest.approx(0.9)],
        "accuracy": [None, 1],
    }


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(1, 80))
def test_nll_and_ece_are_guos_sums(seed, k, n):
    scores, labels = draw(n, k, seed=seed)
    p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    assert calibration.nll(scores, labels) == pytest.approx(-np.log(p[np.arange(n), labels]).mean())
    total = 0.0
    for m in range(15):
        inside = (p.max(1) > m / 15) & (p.max(1) <= (m + 1) / 15)
        if inside.any():
            total += inside.mean() * abs((p.argmax(1) == labels)[inside].mean() - p.max(1)[inside].mean())
    assert calibration.ece(Scored(scores, labels)) == pytest.approx(total)


def test_temperature_is_the_least_of_its_objective():
    from scipy.optimize import minimize_scalar

    for seed, n, times in [(0, 40, 1), (1, 300, 5), (2, 2000, 0.2)]:
        scores, labels = draw(n, 5, seed=seed)
        scores *= times

        def objective(log_t, scores=scores, labels=labels, n=n):
            scaled = scores / np.exp(log_t)
            logs = scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True))
            return (
                n * calibration.nll(scaled, labels) - logs.mean()
            )  # the added image: of any class, of any one's scores

        best = minimize_scalar(objective, bounds=(-4, 4), method="bounded", options={"xatol": 1e-9})
        assert calibration.temperature(scores, labels) == pytest.approx(np.exp(best.x), rel=1e-4)


def test_temperature_undoes_a_scale_and_leaves_true_probabilities_alone():
    scores, labels = draw(20_000, 8, seed=0)
    t = calibration.temperature(scores, labels)
    assert t == pytest.approx(1, rel=0.03)
    assert calibration.temperature(7 * scores, labels) == pytest.approx(7 * t, rel=1e-4)


def test_temperature_is_bounded_where_val_says_nothing():
    labels = np.arange(30) % 3
    sure = 10 * np.eye(3)[labels]
    assert 0.5 < calibration.temperature(sure, labels) < 5  # no error in 30 images is no proof of none in 30,000
    assert calibration.temperature(1e6 * sure, labels) == pytest.approx(100, rel=1e-4)
    assert calibration.temperature(1e-6 * sure, labels) == pytest.approx(0.01, rel=1e-4)
    wrong = calibration.temperature(sure, (labels + 1) % 3)
    assert wrong == pytest.approx(100, rel=1e-4)
    for constant in (0.0, -3.5):
        assert 0.01 <= calibration.temperature(np.full((4, 3), constant), np.array([0, 1, 2, 0])) <= 100


def test_one_error_in_a_small_val_does_not_decide():
    """Over 100 draws of 40 val images with calibrated scores, scaling costs at most 0.15 nats on test."""
    worst = -np.inf
    for seed in range(100):
        scores, labels = draw(2040, 4, seed=seed, sharp=(15, 30)[seed % 2])
        t = calibration.temperature(scores[:40], labels[:40])
        worst = max(worst, calibration.nll(scores[40:] / t, labels[40:]) - calibration.nll(scores[40:], labels[40:]))
    assert worst < 0.15  # 2.4 by the NLL of val alone


def test_predicted_is_the_highest_score_and_a_tie_is_no_hit():
    scores = np.array([[1, 3, 2], [2, 2, 1], [2, 2, 1], [0, 1, 1], [5, 5, 5]], "f4")
    labels = np.array([1, 0, 1, 0, 0])
    assert Scored(scores, labels).predicted.tolist() == [1, 1, 0, 1, 1]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 5), st.integers(1, 40))
def test_predicted_agrees_with_top_1(seed, k, n):
    rng = np.random.default_rng(seed)
    scores, labels = rng.integers(0, 4, (n, k)), rng.integers(0, k, n)
    said = Scored(scores, labels).predicted
    assert ((said == labels) == metrics.top_k(scores, labels, k=1)).all()
    assert (scores[np.arange(n), said] == scores.max(axis=1)).all()


def test_classes_and_confusions_by_hand():
    labels, said = np.array([0, 0, 0, 1, 1, 3, 3, 3]), np.array([0, 1, 1, 1, 0, 3, 2, 0])
    accuracy, n = calibration.per_class(said, labels, n_classes=5)
    assert n.tolist() == [3, 2, 0, 3, 0]
    np.testing.assert_allclose(accuracy, [1 / 3, 1 / 2, np.nan, 1 / 3, np.nan])
    assert calibration.confusions(said, labels) == [[0, 1, 2], [1, 0, 1], [3, 0, 1], [3, 2, 1]]
    assert calibration.confusions(said, labels, most=1) == [[0, 1, 2]]
    assert calibration.confusions(labels, labels) == []


def test_classes_and_confusions_are_sklearns():
    from sklearn.metrics import confusion_matrix

    rng = np.random.default_rng(0)
    labels, said = rng.integers(0, 6, 500), rng.integers(0, 6, 500)
    matrix = confusion_matrix(labels, said)
    assert calibration.per_class(said, labels, n_classes=6)[0] == pytest.approx(matrix.diagonal() / matrix.sum(axis=1))
    found = calibration.confusions(said, labels, most=100)
    assert [matrix[a, b] for a, b, _ in found] == [n for *_, n in found]
    assert sum(n for *_, n in found) == (labels != said).sum()


def test_votes_become_logits_of_the_same_order():
    # Shares 3/4, 1/4 and 0 of 4 neighbours, and one neighbour's vote in thirds: (4 * 3/4 + 1/3) / 5
    logits = calibration.log_shares(np.array([[0.3, 0.1, 0.0], [0.0, 0.0, 0.0]]), k=4)
    np.testing.assert_allclose(np.exp(logits), [[2 / 3, 4 / 15, 1 / 15], [1 / 15] * 3])


def test_assess_keeps_what_a_reader_needs():
    val, test = draw(200, 3, seed=0), draw(300, 3, seed=1)
    figures, kept = calibration.assess(Scored(3 * test[0], test[1]), val=Scored(3 * val[0], val[1]))
    assert figures["temperature"] == pytest.approx(3, rel=0.3)
    assert figures["nll_scaled"] < figures["nll"]
    assert figures["ece_scaled"] < figures["ece"]
    assert all(type(value) is float for value in figures.values())
    assert np.mean(np.array(kept["predicted"]) == kept["labels"]) == metrics.figures(Scored(*test))["top1"]
    bins = kept["calibration"]["after"]
    told = np.dot(bins["n"], [mean or 0 for mean in bins["confidence"]]) / sum(bins["n"])
    assert np.mean(kept["confidence"]) == pytest.approx(told, abs=1e-4)
    assert kept["labels"] == test[1].tolist()
    assert sum(kept["calibration"]["before"]["n"]) == sum(kept["per_class"]["n"]) == 300
    assert calibration.ece(Scored(test[0] * 3 / figures["temperature"], test[1])) == figures["ece_scaled"]
