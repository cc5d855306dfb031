"""Neighbours counted by hand and by brute force."""

import json
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backbench.calibration import log_shares
from backbench.probe import neighbours
from backbench.probe.head import load
from backbench.probe.knn import Knn
from backbench.probe.neighbours import TEMPERATURE
from backbench.probe.subsets import Splits, Subset
from tests.toy import clusters, join, mapped, split


def brute(queries, bank, k, n_classes):
    """Votes by sorting everything, (N, K)."""
    one, other = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (queries.astype(float), bank.features))
    similarity = one @ other.T
    votes = np.zeros((len(queries), n_classes))
    for row, s in zip(votes, similarity, strict=True):
        near = np.argsort(-s)[:k]
        np.add.at(row, bank.labels[near], np.exp((s[near] - 1) / TEMPERATURE))
    return votes


def test_by_hand():
    """Two neighbours at cosine 1 and cos 60 degrees of class 0 and 1: votes e^0 and e^(-0.5 / T)."""
    bank = np.array([[2, 0], [0.5, np.sqrt(0.75)]], "f4")
    train, val = Subset(bank, np.array([0, 1])), Subset(bank[:1], np.array([0]))
    head = Knn(Splits(train, val, join(train, val)), n_classes=3, seed=0)
    assert head.k == 2
    assert head.val_scores[0].tolist() == pytest.approx([1, np.exp(-0.5 / TEMPERATURE), 0])
    votes = head.scores(np.array([[10, 0]], "f4"))
    # val joined the bank, so class 0 stands there twice at cosine 1, and both fit into k = 2
    assert votes[0].tolist() == pytest.approx([2, 0, 0])
    head.k = 3
    assert head.scores(np.array([[10, 0]], "f4"))[0].tolist() == pytest.approx([2, np.exp(-0.5 / TEMPERATURE), 0])


def test_it_takes_the_k_that_is_best_on_val_and_leaves_an_images_own_vote_out():
    train, val = clusters(250, 8, 3, spread=1.5), clusters(60, 8, 3, spread=1.5)
    head = Knn(Splits(train, val, join(train, val)), n_classes=3, seed=0)
    right = {k: (brute(val.features, train, k, 3).argmax(1) == val.labels).mean() for k in (10, 20, 100, 200)}
    assert head.val_top1 == max(right.values())
    assert right[head.k] == head.val_top1
    assert {tried["k"]: tried["val_top1"] for tried in head.protocol["k_tried"]} == right
    np.testing.assert_allclose(head.val_scores, brute(val.features, train, head.k, 3), rtol=1e-4)
    np.testing.assert_allclose(head.scores(val.features), brute(val.features, join(train, val), head.k, 3), rtol=1e-4)
    json.dumps(head.protocol, allow_nan=False)
    noise = Subset(np.random.default_rng(0).normal(size=(250, 8)).astype("f4"), train.labels)
    # 1.0 if each image voted for itself
    assert Knn(Splits(noise, val, join(noise, val)), n_classes=3, seed=0).train_top1 < 0.6


def test_of_equals_the_smallest_k_is_taken_and_the_edge_is_told():
    head = Knn(split(clusters(90, 5, 3, spread=0.01), 60), n_classes=3, seed=0)
    assert [tried["val_top1"] for tried in head.protocol["k_tried"]] == [1.0] * 3  # 10, 20, and all 60
    assert head.chosen == "k=10"
    assert head.protocol["k_at_edge"] is True


def test_accuracy_on_train_is_that_of_each_image_asked_of_all_others():
    data = split(clusters(40, 4, 3, spread=2.0), 30)
    head = Knn(data, n_classes=3, seed=0)
    right = [
        brute(data.train.features[i : i + 1], data.final[np.arange(40) != i], head.k, 3)[0].argmax() == label
        for i, label in enumerate(data.train.labels)
    ]
    assert head.train_top1 == np.mean(right)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(3, 60),
    queries=st.integers(1, 9),
    bank=st.integers(1, 30),
    k=st.integers(1, 70),
)
def test_blocks_change_nothing(n, queries, bank, k):
    part = clusters(n, 5, 3, seed=n, spread=2.0)
    with patch.multiple(neighbours, QUERIES=queries, BANK=bank):
        found = list(neighbours.nearest(part, part, k))
    similarity, labels = (np.concatenate(a) for a in zip(*((s, who) for _, s, who in found), strict=True))
    unit = part.features / np.linalg.norm(part.features, axis=1, keepdims=True)
    everything = unit @ unit.T
    order = np.argsort(-everything, axis=1)[:, :k]
    np.testing.assert_allclose(similarity, np.take_along_axis(everything, order, axis=1), atol=1e-6)
    # Products of other shapes round otherwise: neighbours as near as that may change places.
    nearest = -np.sort(-everything, axis=1)[:, : k + 1]
    apart = (np.diff(nearest, axis=1) < -1e-5).all(axis=1)
    assert (labels == part.labels[order])[apart].all()
    assert apart.mean() > 0.5


def test_a_mapped_file_gives_the_same_bits(tmp_path):
    data = split(clusters(300, 8, 3, spread=2.0), 250)
    with patch.multiple(neighbours, QUERIES=64, BANK=50):
        here, there = (Knn(d, n_classes=3, seed=0) for d in (data, mapped(data, tmp_path / "f")))
        np.testing.assert_array_equal(here.scores(data.val.features), there.scores(data.val.features))
    np.testing.assert_array_equal(here.val_scores, there.val_scores)
    assert (here.chosen, here.val_top1, here.train_top1) == (there.chosen, there.val_top1, there.train_top1)


@pytest.mark.parametrize("dtype", ["f2", "f4"])
def test_the_head_to_be_stored_scores_as_the_method_does(tmp_path, dtype):
    """To the bit, from a mapped file and as loaded again. It keeps the file's type: half the bytes of float16."""
    data = mapped(split(clusters(90, 5, 3, spread=2.0), 60), tmp_path / "f")
    features = data.final.features.astype(dtype)
    data = Splits(*(Subset(features, part.labels, part.rows) for part in data))
    method = Knn(data, n_classes=3, seed=0)
    x = clusters(30, 5, 3, seed=1).features
    expected = log_shares(method.scores(x), k=method.k).astype("f4")
    method.head.save(tmp_path / "head", classes=["a", "b", "c"], identity={}, method="knn", row={})
    for head in (method.head, load(tmp_path / "head").head):
        assert head.bank.dtype == dtype
        np.testing.assert_array_equal(head.scores(x), expected)
        np.testing.assert_array_equal(head.over(Subset(x, np.zeros(30, int))), expected)
    assert method.head.scores(x[:0]).shape == (0, 3)


def test_a_row_of_zeros_is_a_neighbour_to_none_but_breaks_nothing():
    part = clusters(40, 4, 2)
    part.features[3] = 0
    head = Knn(split(part, 30), n_classes=2, seed=0)
    assert np.isfinite(head.scores(np.zeros((2, 4), "f4"))).all()
    assert head.scores(np.zeros((0, 4), "f4")).shape == (0, 2)
