"""Whole groups in one split or fold: how many, of which classes, and none across."""

import numpy as np
import pytest

from backbench import UserError, grouped


def pure(counts):
    """Labels and groups of images: ``counts`` (classes, groups) images in each group of a class."""
    labels = np.repeat(np.arange(len(counts)), [sum(row) for row in counts])
    return labels, np.repeat(np.arange(np.size(counts)), np.ravel(counts))


def test_groups_are_numbered_and_counted_by_class():
    assert grouped.numbered(np.array(["b", "a", "b"]), 3).tolist() == [1, 0, 1]
    assert grouped.numbered(None, 3).tolist() == [0, 1, 2]
    labels, groups = np.array([0, 0, 0, 2, 2]), np.array([5, 5, 7, 7, 9])
    assert grouped.per_class(labels, groups).tolist() == [2, 0, 2]


@pytest.mark.parametrize("many", [0, grouped.MANY])
def test_a_fold_has_whole_groups_of_all_classes(many, monkeypatch):
    monkeypatch.setattr(grouped, "MANY", many)
    labels, groups = pure(np.full((3, 10), 4))
    fold = grouped.folds(labels, groups, 5, seed=1)
    assert np.bincount(fold * 3 + labels).tolist() == [8] * 15
    assert len(grouped.crossing(groups, fold)) == 0
    assert (fold == grouped.folds(labels, groups, 5, seed=1)).all()
    assert (fold != grouped.folds(labels, groups, 5, seed=2)).any()


def test_images_alone_are_scikit_learns_stratified_folds():
    from sklearn.model_selection import StratifiedKFold

    labels = np.arange(60) % 3
    fold = grouped.folds(labels, np.arange(60), 4, seed=7)
    for number, (_, test) in enumerate(StratifiedKFold(4, shuffle=True, random_state=7).split(labels, labels)):
        assert np.flatnonzero(fold == number).tolist() == test.tolist()


def test_many_groups_of_several_classes_count_as_the_most_frequent(monkeypatch):
    monkeypatch.setattr(grouped, "MANY", 0)
    labels, groups = np.array([0, 0, 1, 1, 1, 0] * 10), np.repeat(np.arange(20), 3)
    fold = grouped.folds(labels, groups, 5, seed=0)
    assert np.bincount(fold).tolist() == [12] * 5  # two groups of either kind in each
    assert np.bincount(fold, weights=labels).tolist() == [6] * 5


@pytest.mark.parametrize("seed", range(5))
def test_about_the_share_is_held_out(seed):
    labels, groups = pure(np.full((4, 20), 3))
    held = grouped.held_out(labels, groups, 0.2, seed=seed)
    assert np.bincount(labels[held]).tolist() == [12] * 4
    assert len(grouped.crossing(groups, held)) == 0


def test_few_groups_and_one_that_is_most_of_all():
    labels = np.tile([0, 1], 300)
    groups = np.repeat([0, 1, 2, 3], [450, 50, 50, 50])
    held = grouped.held_out(labels, groups, 0.2, seed=0)
    assert held.sum() == 50  # a quarter was wanted, three quarters can't be spared


def test_no_class_is_held_out_whole():
    labels, groups = pure([[3] * 10, [3] * 10])
    labels, groups = np.append(labels, [2] * 6), np.append(groups, [99] * 6)  # a class of one group
    for seed in range(20):
        held = grouped.held_out(labels, groups, 0.2, seed=seed)
        assert not held[labels == 2].any()
        assert held.any()
    labels, groups = pure([[5], [5], [5]])
    assert not grouped.held_out(labels, groups, 0.2, seed=0).any()


def test_what_crosses():
    groups, split = np.array(["a", "a", "b", "b", "c"]), np.array([0, 0, 1, 2, 2], np.int8)
    assert grouped.crossing(groups, split).tolist() == ["b"]


def test_groups_that_are_classes_can_not_be_split():
    labels = np.repeat([0, 1, 2], 10)
    with pytest.raises(UserError, match="the images of each class are all of one group"):
        grouped.draw(labels, labels.astype(str), seed=42)


@pytest.mark.parametrize("seed", range(4))
def test_seventy_ten_and_twenty_percent(seed):
    labels, group = np.arange(600) % 3, np.repeat([f"p{i}" for i in range(60)], 10)
    split = grouped.draw(labels, group, seed=seed)
    sizes = np.bincount(split * 3 + labels).reshape(3, 3) / 200
    assert np.abs(sizes - [[0.7], [0.1], [0.2]]).max() < 0.05
    assert all(len({*split[group == one]}) == 1 for one in {*group})
    assert (split == grouped.draw(labels, group, seed=seed)).all()
