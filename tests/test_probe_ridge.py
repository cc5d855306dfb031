"""Ridge regression: scikit-learn's, for every penalty, and chosen as said."""

import json
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge as SklearnRidge
from sklearn.linear_model import RidgeClassifier

from probe import ridge
from probe.parts import Data, Part
from probe.ridge import GRID, Ridge
from tests.toy import clusters, join, mapped, split


def standardised(part, train):
    deviation = train.features.std(axis=0, dtype=float)
    return (part.features - train.features.mean(axis=0, dtype=float)) / np.where(deviation > 1e-5, deviation, 1)


def test_by_hand():
    """Images at -1 and 1: Gram matrix 2, target 2 for the second class, so W = 2 / (2 + alpha)."""
    part = Part(np.array([[-1], [1]], "f4"), np.array([0, 1]))
    with patch.object(ridge, "GRID", (1.0,)):
        head = Ridge(Data(part, part, part), n_classes=2, seed=0)
    assert head.head.weights.tolist() == [[-0.5], [0.5]]
    assert head.head.intercept.tolist() == [0, 0]
    assert head.scores(np.array([[3]], "f4")).tolist() == [[-1.5, 1.5]]
    assert head.chosen == "alpha=2"


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(6, 60),
    d=st.integers(1, 40),
    k=st.integers(2, 5),
    share=st.sampled_from([1e-9, 1e-6, 1e-3, 1.0]),
    constant=st.booleans(),
    rare=st.booleans(),
    block=st.sampled_from([3, 4096]),
)
def test_the_head_is_scikit_learns(n, d, k, share, constant, rare, block):
    """Fewer images than features, constant columns, two classes, a class of one image, any blocks."""
    both = clusters(n, d, k, seed=n * d)
    if constant:
        both.features[:, 0] = 7.3
    if rare:
        both.labels[1:] = np.maximum(both.labels[1:], 1)
    data = split(both, 2 * n // 3)
    with patch.multiple(ridge, GRID=(share,), BLOCK=block):
        head = Ridge(data, n_classes=k, seed=0)
    signs = 2 * np.eye(k)[both.labels] - 1
    z = standardised(both, data.train)
    expected = SklearnRidge(head.protocol["alpha"], solver="svd").fit(z, signs)
    size = np.abs(expected.coef_).max()
    np.testing.assert_allclose(head.head.weights, expected.coef_, rtol=1e-6, atol=1e-5 * size + 1e-12)
    np.testing.assert_allclose(head.head.intercept, expected.intercept_, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(head.scores(both.features), expected.predict(z), rtol=1e-3, atol=1e-3)
    assert head.converged


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("d", [5, 150])
def test_every_penalty_is_judged_as_scikit_learns_classifier_would_be(k, d):
    data = split(clusters(180, d, k, spread=4.0), 120)
    head = Ridge(data, n_classes=k, seed=0)
    z, z_val = (standardised(part, data.train) for part in data[:2])
    alphas = [tried["alpha"] for tried in head.protocol["alpha_tried"]]
    np.testing.assert_allclose(alphas, np.array(GRID) * (z**2).sum(), rtol=6e-3)
    fits = [RidgeClassifier(alpha, solver="svd").fit(z, data.train.labels) for alpha in alphas]
    accuracies = [fit.score(z_val, data.val.labels) for fit in fits]
    assert [tried["val_top1"] for tried in head.protocol["alpha_tried"]] == pytest.approx(accuracies)
    best = int(np.argmax(accuracies))  # the first of equals, and GRID begins with the strongest
    assert head.protocol["alpha"] == alphas[best]
    assert head.protocol["alpha_at_edge"] is (best in (0, 44))
    assert head.val_top1 == pytest.approx(accuracies[best])
    # val's scores are of a head that has not seen val
    expected = fits[best].decision_function(z_val)
    np.testing.assert_allclose(head.val_scores[:, 1] if k == 2 else head.val_scores, expected, rtol=1e-4, atol=1e-5)
    refitted = RidgeClassifier(alphas[best], solver="svd").fit(standardised(data.final, data.train), data.final.labels)
    assert head.train_top1 == pytest.approx(refitted.score(z, data.train.labels))
    json.dumps(head.protocol, allow_nan=False)


def test_of_equals_the_strongest_is_taken_and_the_edge_is_told():
    head = Ridge(split(clusters(60, 5, 3, spread=0.01), 42), n_classes=3, seed=0)
    assert {tried["val_top1"] for tried in head.protocol["alpha_tried"]} == {1.0}
    assert head.protocol["alpha"] == head.protocol["alpha_tried"][0]["alpha"] == 42 * 5
    assert head.chosen == "alpha=210"
    assert head.protocol["alpha_at_edge"] is True


def test_a_mapped_file_gives_the_same_head(tmp_path):
    data = split(clusters(90, 12, 3, spread=3.0), 60)
    here = Ridge(data, n_classes=3, seed=0)
    with patch.object(ridge, "BLOCK", 7):
        there = Ridge(mapped(data, tmp_path / "f"), n_classes=3, seed=0)
    assert here.chosen == there.chosen
    np.testing.assert_allclose(here.head.weights, there.head.weights, rtol=1e-9)
    np.testing.assert_allclose(here.val_scores, there.val_scores, rtol=1e-4, atol=1e-5)
    assert (here.val_top1, here.train_top1) == (there.val_top1, there.train_top1)


def test_a_final_that_does_not_begin_with_train_gives_the_same_head(tmp_path):
    data = split(clusters(90, 12, 3, spread=3.0), 60)
    usual, other = (
        Ridge(data._replace(final=f), n_classes=3, seed=0) for f in (data.final, join(data.val, data.train))
    )
    np.testing.assert_allclose(usual.head.weights, other.head.weights, rtol=1e-9)
    there = mapped(data, tmp_path / "f")  # its labels begin like train's, its rows don't
    other = Ridge(there._replace(final=there.final[np.r_[60:90, 0:60]]), n_classes=3, seed=0)
    np.testing.assert_allclose(usual.head.weights, other.head.weights, rtol=1e-9)
    alone = Ridge(data._replace(final=data.train), n_classes=3, seed=0)
    np.testing.assert_array_equal(alone.scores(data.val.features), alone.val_scores)
    assert [head.protocol["refit_on"] for head in (usual, alone)] == ["train+val", "train"]


def test_train_is_multiplied_once(tmp_path):
    """Where final begins with train, in memory or mapped, only the rest of it is added."""
    data = split(clusters(90, 12, 3), 60)
    for parts in (data, mapped(data, tmp_path / "f")):
        with patch.object(Ridge, "_sums", autospec=True, side_effect=Ridge._sums) as sums:
            Ridge(parts, n_classes=3, seed=0)
        assert [len(call.args[1]) for call in sums.call_args_list] == [60, 30]


def test_a_class_without_images_is_never_the_answer():
    data = split(clusters(60, 5, 3, spread=5.0), 40)
    head = Ridge(data, n_classes=5, seed=0)
    scores = head.scores(1e3 * np.random.default_rng(0).normal(size=(500, 5)).astype("f4"))
    assert scores.argmax(axis=1).max() <= 2


def test_a_head_that_does_not_solve_its_problem_says_so():
    data = split(clusters(60, 5, 3), 40)
    with patch.object(ridge._Problem, "solve", lambda self, alpha: 0.99 * self.target):
        head = Ridge(data, n_classes=3, seed=0)
    assert head.converged is False
    assert head.protocol["gradient_share"] > ridge.TOLERANCE
