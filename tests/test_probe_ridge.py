"""Ridge regression: scikit-learn's, for every penalty, and chosen as said."""

import json
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge as SklearnRidge

from backbench.calibration import nll, temperature
from backbench.data.splits import caltech_counts
from backbench.probe import ridge
from backbench.probe.ridge import GRID, Ridge
from backbench.probe.subsets import Splits, Subset
from tests.toy import clusters, join, mapped, split


def standardised(part, train):
    deviation = train.features.std(axis=0, dtype=float)
    return (part.features - train.features.mean(axis=0, dtype=float)) / np.where(deviation > 1e-5, deviation, 1)


def test_by_hand():
    """Images at -1 and 1: Gram matrix 2, target 2 for the second class, so W = 2 / (2 + alpha)."""
    part = Subset(np.array([[-1], [1]], "f4"), np.array([0, 1]))
    with patch.object(ridge, "GRID", (1.0,)):
        head = Ridge(Splits(part, part, part), n_classes=2, seed=0)
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


@pytest.mark.parametrize("refit", [True, False])
def test_every_penalty_is_judged_by_heads_fitted_without_the_image(refit):
    """scikit-learn's, fitted anew without each image; where val isn't refitted on, it is judged as it is."""
    data = split(clusters(40, 30, 3, spread=4.0), 30)
    data.train.labels[:] = np.where(data.train.labels == 2, 0, data.train.labels)
    data.train.labels[5] = 2  # alone of its class in train: only val's say something of it
    data = data if refit else data._replace(final=data.train)
    with patch.object(ridge, "GRID", GRID[2::6]):
        head = Ridge(data, n_classes=3, seed=0)
    z = standardised(data.final, data.train)
    labels, signs = data.final.labels, 2 * np.eye(3)[data.final.labels] - 1
    alphas = [tried["alpha"] for tried in head.protocol["alpha_tried"]]
    np.testing.assert_allclose(alphas, np.array(GRID[2::6]) * ((z - z.mean(axis=0)) ** 2).sum(), rtol=6e-3)
    losses = []
    for tried in head.protocol["alpha_tried"]:

        def fit(which, alpha=tried["alpha"]):
            return SklearnRidge(alpha, solver="svd").fit(z[which], signs[which])

        judged = [i for i in range(len(z)) if refit or i != 5]
        scores = np.concatenate([fit(np.arange(len(z)) != i).predict(z[[i]]) for i in judged])
        own = labels[judged]
        if not refit:
            scores = np.concatenate([scores, fit(np.arange(len(z))).predict(standardised(data.val, data.train))])
            own = np.concatenate([own, data.val.labels])
        assert tried["top1"] == pytest.approx((scores.argmax(axis=1) == own).mean())
        losses.append(nll(scores / temperature(scores, own), own))
    found = [tried["cross_entropy"] for tried in head.protocol["alpha_tried"]]
    np.testing.assert_allclose(found, losses, rtol=1e-5)
    best = int(np.argmin(losses))
    assert head.protocol["alpha"] == alphas[best]
    assert head.protocol["alpha_at_edge"] is (best in (0, len(alphas) - 1))
    assert f"of {len(own)} images of train{'+val' if refit else ', and of val'}" in head.protocol["chosen_on"]
    # val's scores are of a head that has not seen val
    z_train, z_val = (standardised(part, data.train) for part in data[:2])
    alone = SklearnRidge(alphas[best], solver="svd").fit(z_train, 2 * np.eye(3)[data.train.labels] - 1)
    np.testing.assert_allclose(head.val_scores, alone.predict(z_val), rtol=1e-4, atol=1e-5)
    assert head.val_top1 == pytest.approx((alone.predict(z_val).argmax(axis=1) == data.val.labels).mean())
    json.dumps(head.protocol, allow_nan=False)


def test_classes_without_a_val_image_are_learnt():
    """Two classes of 40 images and four of 6, which the Caltech rule gives 4 in train, none in val and 2 in test.

    Every penalty has all of val right: by val alone the strongest was taken, under which no small class ever wins.
    """
    sizes = np.array([40, 40, 6, 6, 6, 6])
    rng, centres = np.random.default_rng(0), 2 * np.random.default_rng(1).normal(size=(6, 20))

    def drawn(counts):
        labels = np.repeat(np.arange(6), counts)
        return Subset((centres[labels] + rng.normal(size=(len(labels), 20))).astype("f4"), labels)

    train, val = (drawn([caltech_counts(n)[part] for n in sizes]) for part in (0, 1))
    assert set(val.labels) == {0, 1}
    head = Ridge(Splits(train, val, join(train, val)), n_classes=6, seed=0)
    test = drawn(50)
    right = head.scores(test.features).argmax(axis=1) == test.labels
    assert right.mean() > 0.95


@pytest.mark.parametrize("shots", [1, 2])
def test_few_shots_are_chosen_on_val_too(shots):
    """Of one image a class none can be left out: val alone decides."""
    train, val = clusters(4 * shots, 10, 4), clusters(4, 10, 4)
    head = Ridge(Splits(train, val, train), n_classes=4, seed=0)
    n = 4 if shots == 1 else 12
    assert head.protocol["chosen_on"].startswith(
        f"leave-one-out cross-entropy at its best temperature, of {n} images of train, and of val"
    )
    assert head.val_top1 == 1


def test_the_images_judged_are_bounded_and_of_all_classes():
    part = Subset(np.zeros((100, 1), "f4"), np.r_[np.arange(90) % 3, np.full(10, 3)])
    with patch.object(ridge, "JUDGED", 20):
        some = ridge._thinned(part, part.labels != 1, 4)
    assert np.bincount(some.labels).tolist() == [8, 0, 7, 3]
    assert len(ridge._thinned(part, part.labels >= 0, 1 << 14)) == 15  # 16 at most, every seventh


def test_the_edge_is_told():
    with patch.object(ridge, "GRID", (1e-9,)):
        head = Ridge(split(clusters(60, 5, 3), 42), n_classes=3, seed=0)
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
