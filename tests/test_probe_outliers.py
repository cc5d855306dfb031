"""The distance to what a head knows: by hand, on real images, and on features that are hard to bear."""

from unittest.mock import patch

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

from backbench import conformal
from backbench.probe import outliers
from backbench.probe.outliers import Outliers
from backbench.probe.subsets import Subset
from tests.toy import clusters, mapped, split


def test_by_hand():
    """Class means along (1, 0) and (3, 4): an image at 45 degrees from the first is nearer to the second."""
    train = Subset(np.array([[1, 1], [3, -1], [3, 4]], "f4"), np.array([0, 0, 2]))
    found = Outliers.of_train(train)
    np.testing.assert_allclose(found.directions, [[1, 0], [0.6, 0.8]], rtol=1e-6)
    x = np.array([[7, 0], [2, 2], [-5, 0], [0, 0]], "f4")
    np.testing.assert_allclose(found.distance(x), [0, 1 - 1.4 / np.sqrt(2), 1.6, 1], atol=1e-6)
    assert found.distance(x).dtype == np.float32
    assert found.distance(x[:0]).shape == found.over(Subset(x[:0], np.zeros(0, int))).shape == (0,)


def test_real_images_of_classes_never_seen_are_strange_and_others_as_often_as_is_said():
    """Digits 0 to 6 are known. Over 60 draws of val a share of test of 1, 5 and 10 % is called unknown."""
    x, labels = load_digits(return_X_y=True)
    known, order = labels < 7, np.random.default_rng(0)
    new = x[~known].astype("f4")
    x, labels = x[known].astype("f4"), labels[known]
    rates, areas = [], []
    for _ in range(60):
        at = order.permutation(len(x))
        train, val, test = at[:500], at[500:699], at[699:]
        found = Outliers.of_train(Subset(x[train], labels[train]))
        of_val, of_test, of_new = (found.distance(some) for some in (x[val], x[test], new))
        p = conformal.p_values(of_val, of_test)
        rates.append([(p <= rate).mean() for rate in (0.01, 0.05, 0.1)])
        areas.append(roc_auc_score(np.repeat([0, 1], [len(of_test), len(of_new)]), [*of_test, *of_new]))
    error = np.std(rates, axis=0) / 60**0.5
    assert (np.abs(np.mean(rates, axis=0) - (0.01, 0.05, 0.1)) < 4 * error).all()
    assert np.mean(areas) > 0.85


def test_an_image_of_train_is_nearer_than_a_new_one_so_that_val_must_not_be_in_it(rng):
    x, labels = rng.normal(size=(40, 300)).astype("f4"), np.arange(40) % 10
    found = Outliers.of_train(Subset(x, labels))
    assert found.distance(x).max() < found.distance(rng.normal(size=(40, 300)).astype("f4")).min()


@pytest.mark.parametrize(
    "x",
    [
        np.zeros((6, 4)), np.ones((6, 4)), np.full((6, 4), 1e-30), np.full((6, 4), 1e30), -np.ones((6, 1)),
        np.random.default_rng(0).normal(size=(6, 5000)), np.eye(6), np.eye(6, dtype="f2"),
    ],
)  # fmt: skip
def test_features_that_are_constant_wide_or_far_from_1_break_nothing(x):
    x = x.astype(x.dtype if x.dtype == np.float16 else "f4")
    for labels in (np.arange(6), np.zeros(6, int), np.arange(6) // 2):
        found = Outliers.of_train(Subset(x, labels))
        assert not Outliers.faults(found.arrays(), x.shape[1])
        distance = found.distance(x)
        assert ((distance > -1e-6) & (distance < 2 + 1e-6)).all()


def test_a_mapped_file_and_blocks_change_nothing(tmp_path):
    data = split(clusters(50, 8, 3), 40)
    here = Outliers.of_train(data.train)
    with patch.object(outliers, "BLOCK", 7):
        there = Outliers.of_train(mapped(data, tmp_path / "f").train)
        np.testing.assert_allclose(here.directions, there.directions, rtol=1e-6)
        np.testing.assert_allclose(
            here.over(mapped(data, tmp_path / "f").val), there.distance(data.val.features), atol=1e-6
        )
