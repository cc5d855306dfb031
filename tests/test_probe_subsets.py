"""Parts of a feature file: the same rows from memory and from the map, and their moments."""

import numpy as np
import pytest

from backbench.probe.subsets import Subset, class_sums, moments
from tests.toy import clusters, mapped, split


def test_blocks_slices_and_loading_agree(tmp_path):
    data = split(clusters(100, 7, 3), 70)
    there = mapped(data, tmp_path / "x")
    for a, b in zip(data, there, strict=True):
        assert a.in_memory
        assert not b.in_memory
        for one, two in ((a, b), (a[3:20], b[3:20]), (a[np.array([5, 1])], b[np.array([5, 1])]), (a, b.loaded())):
            assert len(one) == len(two)
            assert one.labels.tolist() == two.labels.tolist()
            x, y = (np.concatenate([block for _, block in p.blocks(16)]) for p in (one, two))
            np.testing.assert_array_equal(x, y)
    assert [at for at, _ in there.train.blocks(32)] == [slice(0, 32), slice(32, 64), slice(64, 70)]


def test_moments_are_exact_far_from_zero_and_block_by_block():
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(9000, 3)) * [1e-3, 1, 50] + [1000, 0, -5]).astype("f4")
    mean, scale = moments(Subset(x, np.zeros(9000, int)))
    np.testing.assert_allclose(mean, x.astype(float).mean(0), rtol=1e-12)
    np.testing.assert_allclose(scale, x.astype(float).std(0), rtol=1e-9)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
def test_a_constant_feature_keeps_scale_one(value):
    _, scale = moments(Subset(np.full((50, 2), value, "f4"), np.zeros(50, int)))
    assert scale.tolist() == [1, 1]


def test_class_sums_by_hand():
    x, labels = np.array([[1.0, 2], [3, 4], [5, 6]]), np.array([2, 0, 2])
    assert class_sums(x, labels, n_classes=4).tolist() == [[3, 4], [0, 0], [6, 8], [0, 0]]
    assert class_sums(x, labels, n_classes=3, weights=[1, 2, 3]).tolist() == [[6, 8], [0, 0], [16, 20]]
