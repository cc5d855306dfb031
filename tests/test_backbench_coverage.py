"""Coverage and size of prediction sets, and shares called unknown, worked out by hand and by simulation."""

import numpy as np
import pytest

from backbench import accuracy, coverage, statistics
from backbench.accuracy import Scored
from backbench.reference import Reference
from benchmarks import prediction_sets

NINE = np.array([0.1, 0.1, 0.1, 0.2, 0.2, 0.3, 0.3, 0.4, 0.6], np.float32)
"""LAC's scores of nine images of val: the threshold at 90 % is the ninth of them, 0.6, so that p of 0.4 is enough."""

VAL = Reference({"lac": NINE, "raps": np.full(9, 0.95, np.float32), "energy": NINE})

SHARES = np.array([[0.5, 0.45, 0.05], [0.7, 0.2, 0.1], [0.2, 0.5, 0.3], [0.35, 0.33, 0.32]])
"""At p of 0.4 or more, or the highest: classes 0 and 1, 0, 1, 0."""

LABELS = np.array([1, 0, 2, 0])


def test_coverage_and_size_by_hand():
    figures, kept = coverage.assess(Scored(np.log(SHARES), LABELS), VAL, t=1.0)
    assert figures["coverage_lac_90"] == 0.75
    assert figures["set_size_lac_90"] == 1.25
    ends = statistics.interval(3, 4)
    assert (figures["coverage_lac_90_low"], figures["coverage_lac_90_high"]) == pytest.approx(ends)
    by_class = kept["prediction_sets"]["lac_90"]
    assert by_class == {"coverage": [1.0, 1.0, 0.0], "size": [1.0, 2.0, 1.0]}
    # At 95 % it takes 19 images of val.
    assert {figures[key] for key in coverage.KEYS if "_95" in key} == {None}
    assert kept["prediction_sets"].keys() == {"lac_90", "raps_90"}
    assert figures.keys() == {*coverage.KEYS}


def test_probabilities_are_those_at_the_temperature():
    expected = coverage.assess(Scored(np.log(SHARES), LABELS), VAL, t=1.0)
    assert coverage.assess(Scored(0.25 * np.log(SHARES) + 7, LABELS), VAL, t=0.25) == expected


def test_a_set_covers_a_group_by_any_of_its_classes():
    """Classes 0 and 2 are one thing, 1 is another, and of images that are 1 there are none."""
    scored = Scored(np.log(SHARES), np.array([0, 0, 0, 0]))
    figures, kept = coverage.assess(scored, VAL, t=1.0, of=np.array([0, 1, 0]), n_names=2)
    assert figures["coverage_lac_90"] == 0.75
    by_class = kept["prediction_sets"]["lac_90"]
    assert by_class["coverage"][0] == 0.75
    assert np.isnan(by_class["coverage"][1])
    assert np.isnan(by_class["size"][1])
    none = coverage.assess(scored, VAL, t=1.0, of=np.array([-1, 1, -1]), n_names=2)[0]
    assert (none["coverage_lac_90"], none["set_size_lac_90"]) == (0, 1.25)


def test_many_images_are_taken_block_by_block(monkeypatch):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(50, 4)), rng.integers(4, size=50)
    reference = Reference({name: rng.random(30).astype(np.float32) for name in ("lac", "raps", "energy")})
    whole = coverage.assess(Scored(logits, labels), reference, t=0.5)
    monkeypatch.setattr(accuracy, "BLOCK", 28)
    assert coverage.assess(Scored(logits, labels), reference, t=0.5) == whole


def test_intervals_are_by_groups_where_there_are_groups():
    rng = np.random.default_rng(0)
    logits, labels, groups = rng.normal(size=(60, 3)), rng.integers(3, size=60), np.arange(60) // 6
    scored = Scored(logits, labels)
    covered = coverage.sets_of(scored, VAL, t=1.0)["lac_90"][0]
    figures, _ = coverage.assess(scored, VAL, t=1.0, groups=groups, limits=statistics.wilson)
    ends = accuracy.between_groups(covered, np.zeros(60, int), groups, limits=statistics.wilson)
    assert (figures["coverage_lac_90_low"], figures["coverage_lac_90_high"]) == ends


def test_without_a_reference_there_is_nothing():
    assert coverage.assess(Scored(np.log(SHARES), LABELS), None, t=1.0) == ({}, {})
    assert coverage.called_unknown(None, "energy", unknown_found=NINE) == {}


def test_how_large_val_must_be_is_said_where_it_is_too_small(capsys):
    assert coverage.too_small(19) == coverage.too_small(None) == ""
    assert coverage.too_small(12) == "Val has 12 images, too few for prediction sets: they take 19 for 95 %."
    assert coverage.too_small(3).endswith("they take 9 for 90 % and 19 for 95 %.")
    coverage.say("a.h5", 19)
    coverage.say("b.h5", 18)
    assert capsys.readouterr().err.startswith("b.h5: Val has 18 images")


def test_shares_that_are_called_unknown_by_hand():
    """Of 19 images of val a new one is called unknown at 5 % if it is stranger than all: p is then 1 of 20."""
    scores = np.arange(19, dtype=np.float32)
    reference = Reference({"lac": scores, "raps": scores, "energy": scores})
    found = coverage.called_unknown(
        reference, "energy", unknown_found=np.array([18.5, 20, 3]), unknown_false=np.array([17, 18, 18.1, 5]),
        source_unknown_false=np.array([]),
    )  # fmt: skip
    assert found["unknown_found_05"] == pytest.approx(2 / 3)
    assert found["unknown_false_05"] == 0.25
    assert found["unknown_false_05_low"] < 0.25 < found["unknown_false_05_high"]
    assert found.keys() <= {*coverage.UNKNOWN_KEYS}
    assert "source_unknown_false_05" not in found
    few = Reference(dict.fromkeys(reference.scores, scores[:18]))
    assert coverage.called_unknown(few, "energy", unknown_found=np.array([99.0])) == {}


def test_sets_cover_what_they_say_though_all_is_chosen_on_val():
    """The benchmark in small: standard errors are about 1.2 points, so that 4 points are more than chance."""
    (found,) = prediction_sets.simulate(16, vals=(40,), classes=(20,), seed=1)
    for name, (kind, level) in coverage.SETS.items():
        mean, error = found[f"coverage_{name}"]
        assert error < 0.02
        assert mean > level / 100 - 0.04, name
        assert abs(found[f"coverage_{name}_moved"][0]) < 0.02
        if kind == "lac":
            assert mean < level / 100 + 0.05
    assert 0.01 < found["distance_05"][0] < 0.09
