"""Prediction sets in the rows of a probe: by an independent way, and where there are none."""

import json
import math

import numpy as np
import pytest

import backbench as bb
from backbench import accuracy, coverage, details, rows
from tests.conftest import IDENTITY
from tests.test_probe_cli import probe, toy  # noqa: F401 - probe is a fixture
from tests.test_probe_folds import features

SPLIT = np.repeat([0, 1, 2], [150, 60, 90])


EXACT = {"grid": (0.1,), "path_tolerance": 1e-9, "tolerance": 1e-9}


@pytest.mark.parametrize(("method", "options"), [("logistic", EXACT), ("knn", {}), ("centroid", {})])
def test_the_rows_coverage_is_that_of_its_own_heads_probabilities(method, options):
    """By hand: LAC's sets of the head that is kept, with the threshold of a head that was fitted on train alone."""
    given = features(300, spread=2.0, split=SPLIT)
    result = bb.probe(given, method, **options)
    p, labels = result.head.predict_proba(given.features[SPLIT == 2]), given.labels[SPLIT == 2]
    alone = bb.probe(given, method, shots=1000, **options).head  # all there are, and not refitted on val
    alone.temperature = result.row["temperature"]
    val = alone.predict_proba(given.features[SPLIT == 1])
    scores = sorted((1 - val[np.arange(60), given.labels[SPLIT == 1]]).tolist())
    for level in (90, 95):
        threshold = scores[math.ceil(61 * level / 100) - 1]
        sets = [{k for k in range(3) if 1 - one[k] <= threshold + 1e-6} | {int(one.argmax())} for one in p]
        covered = np.array([label in one for label, one in zip(labels, sets, strict=True)])
        assert result.row[f"coverage_lac_{level}"] == covered.mean()
        assert result.row[f"set_size_lac_{level}"] == np.mean([*map(len, sets)])
        by_class = result.details["prediction_sets"][f"lac_{level}"]["coverage"]
        assert by_class == [covered[labels == k].mean() for k in range(3)]
    assert result.row["coverage_raps_90"] > 0.8
    assert result.row["coverage_lac_95_low"] < result.row["coverage_lac_95"] <= result.row["coverage_lac_95_high"]
    assert result.row["protocol"]["prediction_sets"] == coverage.PROTOCOL


def test_intervals_are_by_groups():
    given = features(300, spread=2.0, split=SPLIT, per_group=5)
    row = bb.probe(given, "centroid").row
    n = round(row["coverage_lac_90"] * 90)
    assert (row["coverage_lac_90_low"], row["coverage_lac_90_high"]) != accuracy.interval(n, 90)
    assert row["coverage_lac_90_low"] < row["coverage_lac_90"] < row["coverage_lac_90_high"]


def test_few_shots_and_folds_have_none():
    given = features(300, spread=2.0, split=SPLIT)
    for how in ({"shots": 5}, {"folds": 3}):
        result = bb.probe(given, "centroid", **how)
        assert not result.row.keys() & {*coverage.KEYS}
        assert "prediction_sets" not in (result.details or {}).keys() | result.row["protocol"].keys()


def test_a_val_that_is_too_small_for_a_level_is_told_of_once(probe, tmp_path):  # noqa: F811
    split = np.repeat([0, 1, 2], [160, 12, 68])
    toy(tmp_path / "a.h5", split=split)
    done = probe("--features", tmp_path / "a.h5", "--method", "centroid", "--method", "ridge", "--json")
    assert done.stderr.count("Val has 12 images, too few for prediction sets: they take 19 for 95 %.") == 1
    for row in json.loads(done.stdout):
        assert 0 < row["coverage_lac_90"] <= 1
        assert row["coverage_lac_95"] is row["set_size_raps_95"] is row["coverage_raps_95_low"] is None
        assert details.of(tmp_path / "results", row)["prediction_sets"].keys() == {"lac_90", "raps_90"}
    enough = probe("--features", toy(tmp_path / "b.h5", identity=IDENTITY | {"model": "b"}), "--method", "centroid")
    assert "too few" not in enough.stderr
    assert all(rows.read(tmp_path / "results")[-1][key] is not None for key in coverage.KEYS)
