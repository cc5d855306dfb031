"""Nearest class mean by cosine."""

import json
from unittest.mock import patch

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from backbench.probe import centroid
from backbench.probe.centroid import Centroid
from backbench.probe.subsets import Splits, Subset
from tests.toy import clusters, mapped, split


def test_by_hand():
    """Standardised, the images are the corners (±1, ±1); the means of the classes are (1, 0), (-1, 1), (-1, -1)."""
    corners = Subset(np.array([[3, 30], [3, 10], [1, 30], [1, 10]], "f4"), np.array([0, 0, 1, 2]))
    head = Centroid(Splits(corners, corners[:1], corners), n_classes=3, seed=0)
    half = 0.5**0.5
    np.testing.assert_allclose(head.head.weights, [[1, 0], [-half, half], [-half, -half]], atol=1e-12)
    np.testing.assert_allclose(head.scores(np.array([[4, 30]], "f4")), [[2, -half, -3 * half]], rtol=1e-6)
    assert (head.val_top1, head.train_top1, head.converged) == (1.0, 1.0, True)
    json.dumps(head.protocol, allow_nan=False)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(6, 60), d=st.integers(1, 20), k=st.integers(2, 6), block=st.sampled_from([4, 4096]))
def test_the_scores_are_cosines_times_the_length_of_the_image(n, d, k, block):
    data = split(clusters(n, d, k, seed=n * d, spread=3.0), 2 * n // 3)
    with patch.object(centroid, "BLOCK", block):
        head = Centroid(data, n_classes=k, seed=0)
    mean, deviation = data.train.features.mean(0, dtype=float), data.train.features.std(0, dtype=float)
    for part, scores in ((data.train, head.val_scores), (data.final, head.scores(data.val.features))):
        z, z_val = ((p.features - mean) / deviation for p in (part, data.val))
        for c in set(part.labels):
            m = z[part.labels == c].mean(axis=0)
            length = np.linalg.norm(m)
            # A mean that cancels to nothing has no direction.
            if length > 1e-6:
                np.testing.assert_allclose(scores[:, c], z_val @ m / length, rtol=1e-3, atol=1e-4)


def test_a_class_without_images_is_never_the_answer_and_keeps_the_head_finite():
    data = split(clusters(60, 8, 3, spread=5.0), 40)
    head = Centroid(data, n_classes=5, seed=0)
    far = 100 * np.random.default_rng(0).normal(size=(500, 8)).astype("f4")
    assert head.scores(far).argmax(axis=1).max() <= 2
    assert np.isfinite(head.head.intercept).all()
    assert np.isfinite(head.val_scores).all()


def test_a_mapped_file_gives_the_same_head(tmp_path):
    data = split(clusters(90, 12, 3, spread=3.0), 60)
    here, there = (Centroid(d, n_classes=3, seed=0) for d in (data, mapped(data, tmp_path / "f")))
    np.testing.assert_allclose(here.head.weights, there.head.weights, rtol=1e-9, atol=1e-12)
    assert (here.val_top1, here.train_top1) == (there.val_top1, there.train_top1)


def test_constant_features_break_nothing():
    part = clusters(30, 4, 3)
    part.features[:] = 2.5
    head = Centroid(split(part, 20), n_classes=3, seed=0)
    assert (head.scores(part.features) == 0).all()
    assert head.train_top1 == 0  # ties earn nothing
