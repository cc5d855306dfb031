"""Equal images: found by their features, counted in the row, named, and left out of a second top-1."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from backbench import details, duplicates
from backbench.cache import equal, schema
from backbench.cache.features import open_file
from backbench.report.cli import main as report
from backbench.statistics import interval
from tests.test_probe_cli import probe, toy  # noqa: F401


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.integers(0, 6), min_size=1, max_size=30),
    dim=st.sampled_from([1, 5, 16, 17, 40]),
    skipped=st.sets(st.integers(0, 29)),
)
def test_groups_are_what_comparing_all_pairs_gives(rows, dim, skipped):
    """Rows of seven kinds that differ in one feature only, which may be one that isn't sampled."""
    kinds = np.zeros((7, dim), np.float32)
    kinds[np.arange(7), np.arange(7) % dim] = np.arange(7)
    done = np.array([schema.SKIPPED if i in skipped else schema.DONE for i in range(len(rows))])
    x = kinds[rows]
    x[done == schema.SKIPPED] = np.nan
    group = equal.groups(x, done == schema.DONE)
    for i in range(len(rows)):
        same = [j for j in range(len(rows)) if done[i] == done[j] == schema.DONE and x[i].tobytes() == x[j].tobytes()]
        assert np.flatnonzero((group == group[i]) & (group >= 0)).tolist() == (same if len(same) > 1 else [])


def test_contradicting_are_all_images_of_a_group_with_two_classes():
    group = np.array([4, -1, 4, 7, 7, -1, 9, 9, 9])
    labels = np.array([0, 1, 1, 2, 2, 0, 3, 3, 0])
    assert np.flatnonzero(duplicates._contradicting(group, labels)).tolist() == [0, 2, 6, 7, 8]


@pytest.fixture
def file(tmp_path):
    """A file of 120 train, 60 val and 60 test images: test 180 equals train 0, 181 val 121, 186 equals 182,
    and train 5 train 6, which is of another class."""
    toy(tmp_path / "plain.h5", spread=2.5)
    with open_file(tmp_path / "plain.h5") as found:
        x = found.features[:].copy()
    for copy, of in ((180, 0), (181, 121), (186, 182), (6, 5)):
        x[copy] = x[of]
    return toy(tmp_path / "a.h5", features=x)


def test_a_row_counts_them_and_gives_top1_without_them(probe, file, tmp_path):  # noqa: F811
    result = probe("--features", file, "--method", "ridge", "--json")
    (row,) = json.loads(result.stdout)
    kept = details.read(tmp_path / "results", row["details"])
    right = np.equal(kept["predicted"], kept["labels"])
    assert row["top1"] == pytest.approx(right.mean())
    assert (row["n_test_duplicates"], row["n_contradicting"]) == (2, 2)
    names = ("top1_without_duplicates", "top1_without_duplicates_low", "top1_without_duplicates_high")
    low, high = interval(right[2:].sum(), 58)
    assert [row[name] for name in names] == pytest.approx([right[2:].mean(), low, high])
    assert (
        "2 of 60 test images equal an image of train or val: 0180.jpg (class 0) = 0000.jpg (class 0)," in result.stderr
    )
    assert "2 images equal one of another class: 0005.jpg (class 1) = 0006.jpg (class 2)." in result.stderr
    shown = CliRunner().invoke(report, ["details", "resnet18", "--results-dir", str(tmp_path / "results")]).stdout
    assert "2 test images equal an image of train or val: top-1 without them" in shown
    assert "2 images equal an image of another class" in shown


def test_of_few_shots_only_copies_of_what_was_drawn_count(probe, file):  # noqa: F811
    (row,) = json.loads(probe("--features", file, "--method", "centroid", "--shots", "1", "--json").stdout)
    drawn = row["n_train"] + row["n_val"]
    assert drawn == 8
    assert row["n_test_duplicates"] < 2


def test_without_any_nothing_is_said(probe, tmp_path):  # noqa: F811
    result = probe("--features", toy(tmp_path / "a.h5"), "--method", "ridge", "--json")
    (row,) = json.loads(result.stdout)
    assert (row["n_test_duplicates"], row["n_contradicting"], row["top1_without_duplicates"]) == (0, 0, None)
    assert "equal" not in result.stderr


def test_no_more_than_five_pairs_are_named(probe, tmp_path):  # noqa: F811
    toy(tmp_path / "plain.h5")
    with open_file(tmp_path / "plain.h5") as found:
        x = found.features[:].copy()
    x[180:240] = x[:60]  # the classes take turns, so that the copies are of the same ones
    result = probe("--features", toy(tmp_path / "a.h5", features=x), "--method", "ridge", "--json")
    assert "60 of 60 test images equal" in result.stderr
    assert result.stderr.count(" = ") == 5
    assert json.loads(result.stdout)[0]["top1_without_duplicates"] is None
