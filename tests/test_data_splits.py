"""Split rules: counts by hand, properties, and the same membership on every machine."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backbench import UserError
from backbench.data import splits

COUNTS = Path(__file__).with_name("caltech256_counts.tsv")

sizes_of_classes = st.lists(st.integers(2, 60), min_size=2, max_size=6)


def members(sizes):
    """ids and labels of classes with these sizes."""
    ids = [f"{c}/{i}" for c, n in enumerate(sizes) for i in range(n)]
    return ids, np.repeat(np.arange(len(sizes)), sizes)


@pytest.mark.parametrize(
    ("n", "counts"),
    [
        (1, (0, 0, 1)),
        (2, (1, 0, 1)),  # int(1.4), int(1.6) - 1
        (4, (2, 1, 1)),  # int(2.8), int(3.2) - 2
        (10, (7, 0, 3)),  # 10 * (0.7 + 0.1) = 7.999999999999999, so the class of ten has no val image
        (80, (56, 7, 17)),  # 63.99999999999999
        (100, (70, 10, 20)),  # the product rounds to 80.0 here
        (800, (560, 80, 160)),
    ],
)
def test_caltech_counts(n, counts):
    assert splits.caltech_counts(n) == counts


def test_caltech256_gives_the_published_sizes():
    rows = [line.split("\t") for line in COUNTS.read_text().splitlines()[1:]]
    sizes = [int(n) for _, name, n in rows if name != "clutter"]
    assert len(sizes) == 256
    ids, labels = members(sizes)
    split = splits.caltech_rule(ids, labels, seed=42)
    assert np.bincount(split).tolist() == [20_729, 2_971, 6_080]


def test_cifar_gives_the_published_sizes_and_sklearns_membership():
    from sklearn.model_selection import train_test_split

    before = np.repeat([2, 0], [10_000, 50_000]).astype(np.int8)
    split = splits.cifar_rule(before, seed=42)
    assert np.bincount(split).tolist() == [43_750, 6_250, 10_000]
    _, val = train_test_split(np.arange(50_000), test_size=0.125, random_state=42)
    assert np.array_equal(np.flatnonzero(split == 1), np.sort(val) + 10_000)
    assert (before != 1).all()


@given(sizes_of_classes, st.integers(0, 2**32 - 1))
def test_caltech_rule_splits_every_class_by_its_counts(sizes, seed):
    ids, labels = members(sizes)
    split = splits.caltech_rule(ids, labels, seed=seed)
    counts = splits.split_counts(labels, split, len(sizes))
    assert [tuple(row) for row in counts.tolist()] == [splits.caltech_counts(n) for n in sizes]


@given(sizes_of_classes, st.integers(0, 99), st.randoms(use_true_random=False))
def test_membership_does_not_depend_on_the_order_of_the_listing(sizes, seed, random):
    ids, labels = members(sizes)
    split = splits.caltech_rule(ids, labels, seed=seed)
    order = list(range(len(ids)))
    random.shuffle(order)
    again = splits.caltech_rule([ids[i] for i in order], labels[order], seed=seed)
    assert np.array_equal(again, split[order])


@given(sizes_of_classes, st.integers(0, 99))
def test_a_class_splits_the_same_whatever_other_classes_there_are(sizes, seed):
    ids, labels = members(sizes)
    split = splits.caltech_rule(ids, labels, seed=seed)
    first = labels == 0
    alone = splits.caltech_rule(ids[: sizes[0]], labels[first], seed=seed)
    assert np.array_equal(alone, split[first])


@given(sizes_of_classes, sizes_of_classes, st.integers(0, 99))
def test_val_from_train_takes_an_eighth_of_each_class_and_leaves_test_alone(train, test, seed):
    (train_ids, train_labels), (test_ids, test_labels) = members(train), members(test)
    ids = [f"train/{id}" for id in train_ids] + [f"test/{id}" for id in test_ids]
    labels = np.concatenate([train_labels, test_labels])
    before = np.repeat([0, 2], [len(train_ids), len(test_ids)]).astype(np.int8)
    split = splits.val_from_train(ids, labels, before, seed=seed)
    assert np.array_equal(split == 2, before == 2)
    assert np.bincount(labels[split == 1], minlength=len(train)).tolist() == [
        max(n // 8, 1 if n > 1 else 0) for n in train
    ]


def test_seeds_differ_and_are_kept():
    ids, labels = members([50, 50])
    a, b, again = (splits.caltech_rule(ids, labels, seed=seed) for seed in (1, 2, 1))
    assert np.array_equal(a, again)
    assert not np.array_equal(a, b)


def test_golden_order():
    # By hand: sha256sum of '42:a', '42:b', '42:c', '42:d' begins with 97, c5, 6e, d7
    assert splits.shuffled(["a", "b", "c", "d"], seed=42) == [2, 0, 1, 3]


def test_the_same_in_another_process_with_another_hash_seed():
    program = "from backbench.data import registry; print(registry.load('digits', data_root='.', seed=7).digest)"
    digests = set()
    for hash_seed in ("0", "1"):
        environment = os.environ | {"PYTHONHASHSEED": hash_seed}
        run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
        digests.add(run.stdout)
        assert len(run.stdout.strip()) == 64, run.stderr
    assert len(digests) == 1


def check(labels, split, names):
    splits.check(np.array(labels, np.int64), np.array(split, np.int8), names, rule="THE RULE")


def test_check_accepts_whole_and_test_only_splits():
    check([0, 0, 0, 1, 1], [0, 1, 2, 0, 2], ["a", "b"])  # b has no val image
    check([0, 1], [2, 2], ["a", "b"])


@pytest.mark.parametrize(
    ("labels", "split", "names", "expected"),
    [
        ([0, 0, 0], [0, 1, 2], ["a"], ["one class, 'a', where at least two"]),
        ([], [], [], ["found no class where at least two"]),
        ([0, 0, 0], [0, 1, 2], ["a", "b"], ["1 class (b) without images"]),
        ([0, 0, 0, 1, 2], [0, 1, 2, 2, 2], ["a", "b", "c"], ["2 classes (b (1), c (1)) with too few images: THE RULE"]),
        ([0, 0, 0, 1, 1], [0, 1, 2, 2, 1], ["a", "b"], ["1 class (b (2)) with too few images: THE RULE"]),
        ([0, 0, 0, 1], [0, 1, 2, 0], ["a", "b"], ["1 class (b (1)) with too few"]),
        ([0, 0, 1, 1], [0, 2, 0, 2], ["a", "b"], ["no images in val (train / val / test: 2 / 0 / 2): THE RULE"]),
        ([0, 0, 1, 1], [0, 1, 0, 1], ["a", "b"], ["no images in test (train / val / test: 2 / 2 / 0)"]),
        ([0, 0, 1], [0, 2, 2], ["a", "b"], ["1 class (b (1)) with too few", "no images in val"]),
    ],
)
def test_check_names_every_fault(labels, split, names, expected):
    with pytest.raises(UserError) as caught:
        check(labels, split, names)
    assert len(caught.value.faults) == len(expected)
    for fault, words in zip(caught.value.faults, expected, strict=True):
        assert words in fault


def test_cifar_rule_needs_two_training_images():
    with pytest.raises(UserError, match="train holds 1 images"):
        splits.cifar_rule(np.array([2, 0], np.int8), seed=42)


def test_rules_are_told_as_they_are():
    """What a user is told of the smallest class with a val image is true of the rule."""
    assert "11 in some class for val" in splits.CALTECH_RULE
    assert all(splits.caltech_counts(n)[1] > 0 for n in range(11, 2000))
    assert "3 in some class for val" in splits.FOLDER_RULE
    assert all(splits.folder_counts(n)[1] > 0 for n in range(3, 2000))
