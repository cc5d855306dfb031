"""Figures of a head on other classes' images, worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backbench.data.maps import Groups
from backbench.generalize import figures as elsewhere
from backbench.predict.predictors import Scores
from backbench.reference import Reference

BIKES = Groups(["bike", "mug"], np.array([0, 0, 1, -1]), np.array([1, -1, 0]))
"""Source: mountain bike, touring bike, mug, yo-yo. Target: mug, tulip, bike."""

CLASSES = ["mountain bike", "touring bike", "mug", "yo-yo"]


def logits(*shares):
    return np.log(np.array(shares, np.float32))


def test_a_group_has_the_probability_of_its_classes():
    """0.3 + 0.3 of bikes is more than 0.35 of mug, which alone is the highest single class."""
    scores = logits([0.3, 0.3, 0.35, 0.05])
    np.testing.assert_allclose(np.exp(elsewhere.collapse(scores, BIKES, mapped=False)), [[0.6, 0.35, 0.05]], rtol=1e-6)
    np.testing.assert_allclose(np.exp(elsewhere.collapse(scores, BIKES, mapped=True)), [[0.6, 0.35]], rtol=1e-6)


@given(st.lists(st.lists(st.floats(-50, 50), min_size=4, max_size=4), min_size=1, max_size=5))
def test_single_classes_keep_their_logits_and_shares_their_sum(rows):
    scores = np.array(rows, np.float32)
    alone = Groups(["a", "b", "c", "d"], np.arange(4), np.arange(4))
    assert (elsewhere.collapse(scores, alone, mapped=True) == scores).all()
    whole = np.logaddexp.reduce(scores.astype(float), axis=1)
    np.testing.assert_allclose(np.logaddexp.reduce(elsewhere.collapse(scores, BIKES, mapped=False), axis=1), whole)


def test_two_poor_guesses_do_not_add_up_to_a_good_one():
    """Ridge's scores, near -1 for what a class is not: two bikes at -0.6 are no better than one mug at -0.1.

    At the head's temperature of 0.2 the probabilities are in the ratio exp(-3) twice to exp(-0.5): 0.0996 to 0.6065.
    Added as if they were logits the bikes had ln(2 exp(-0.6)) = 0.093.
    """
    scores = np.array([[-0.6, -0.6, -0.1, -1.0]])
    found = elsewhere.collapse(scores, BIKES, mapped=True, t=0.2)
    assert found.argmax() == 1
    np.testing.assert_allclose(np.exp(found / 0.2), [[2 * np.exp(-3), np.exp(-0.5)]])
    assert elsewhere.collapse(scores, BIKES, mapped=True)[0, 0] == pytest.approx(np.log(2) - 0.6)


@given(st.lists(st.lists(st.floats(-5, 5), min_size=4, max_size=4), min_size=1, max_size=5), st.floats(0.05, 20))
def test_calibrated_figures_are_those_of_the_summed_probabilities(rows, t):
    scores = np.array(rows)
    labels = np.zeros(len(rows), int)  # of the source: mountain bikes; of the target: mugs
    sides = [Scores(scores, of, [str(i) for i in labels], {}) for of in (labels, labels)]
    figures, beside = elsewhere.assess(*sides, BIKES, CLASSES, t=t)
    for name, label, at in (("", 1, t), ("source_", 0, t)):
        p = np.exp(scores / at - np.logaddexp.reduce(scores / at, axis=1, keepdims=True))
        summed = np.stack([p[:, 0] + p[:, 1], p[:, 2], p[:, 3]], axis=1)
        assert figures[f"{name}nll_scaled"] == pytest.approx(-np.log(summed[:, label]).mean(), rel=1e-6, abs=1e-9)
        if not name:
            np.testing.assert_allclose(beside["confidence"], summed.max(axis=1), atol=1e-4)
        p = np.exp(scores - np.logaddexp.reduce(scores, axis=1, keepdims=True))  # before scaling: at T = 1
        summed = np.stack([p[:, 0] + p[:, 1], p[:, 2], p[:, 3]], axis=1)
        assert figures[f"{name}nll"] == pytest.approx(-np.log(summed[:, label]).mean(), rel=1e-6, abs=1e-9)


def test_both_readings_by_hand():
    """Target: a bike said to be a yo-yo, but a bike before a mug; a mug that is right; a tulip that doesn't count."""
    target = Scores(
        logits([0.2, 0.1, 0.1, 0.6], [0.1, 0.1, 0.7, 0.1], [0.25] * 4), np.array([2, 0, 1]), ["b", "m", "t"], {}
    )
    source = Scores(
        logits([0.8, 0.1, 0.05, 0.05], [0.1, 0.1, 0.7, 0.1], [0.1, 0.1, 0.1, 0.7]),
        np.array([1, 2, 3]),
        ["1", "2", "3"],
        {},
    )
    figures, beside = elsewhere.assess(source, target, BIKES, CLASSES, t=1.0)
    assert (figures["n"], figures["n_source"]) == (2, 2)  # the yo-yo of the source has no counterpart
    assert (figures["top1"], figures["top1_mapped_classes"]) == (0.5, 1.0)
    assert (figures["source_top1"], figures["source_top1_mapped_classes"]) == (
        1.0,
        1.0,
    )  # touring said as mountain is a bike
    assert (figures["drop"], figures["drop_mapped"], figures["relative_drop"]) == (0.5, 0.0, 0.5)
    # Sure of the yo-yo by 0.6, wrongly, and of the mug by 0.7, rightly: two bins of one image each.
    assert figures["ece"] == pytest.approx((0.6 + 0.3) / 2)
    assert figures["nll"] == pytest.approx(-(np.log(0.3) + np.log(0.7)) / 2)
    assert beside["class_names"] == ["bike", "mug", "yo-yo"]
    assert (beside["predicted"], beside["labels"]) == ([2, 1], [0, 1])
    assert beside["source"]["right"] == [1, 1]
    assert figures["most_confident_errors"] == [{"id": "b", "label": "bike", "predicted": "yo-yo", "confidence": 0.6}]


def test_a_set_covers_an_image_by_any_class_of_its_group():
    """LAC's threshold of nine images of val is 0.75: classes of 0.25 or more are in. None of it adds up to groups."""
    reference = Reference(dict.fromkeys(("lac", "raps", "energy"), np.full(9, 0.75, np.float32)))
    source = Scores(logits([0.26, 0.24, 0.49, 0.01], [0.2, 0.2, 0.59, 0.01]), np.array([1, 0]), ["1", "2"], {})
    target = Scores(
        logits([0.4, 0.3, 0.2, 0.1], [0.3, 0.2, 0.2, 0.3], [0.25] * 4), np.array([2, 0, 1]), ["b", "m", "t"], {}
    )
    figures, beside = elsewhere.assess(source, target, BIKES, CLASSES, t=1.0, reference=reference)
    # Touring is covered by mountain's 0.26 and mug's 0.5 is in, too; two bikes of 0.2 each are not in.
    assert (figures["source_coverage_lac_90"], figures["source_set_size_lac_90"]) == (0.5, 1.5)
    # Both bikes; then mountain and yo-yo, and not the mug.
    assert (figures["coverage_lac_90"], figures["set_size_lac_90"]) == (0.5, 2)
    assert figures["coverage_lac_95"] is None
    sets = beside["prediction_sets"]["lac_90"]
    assert (beside["class_names"], sets["coverage"][:2], sets["size"][:2]) == (["bike", "mug", "yo-yo"], [1, 0], [2, 2])
    assert np.isnan([sets["coverage"][2], sets["size"][2]]).all()
    figures, beside = elsewhere.assess(source, target, BIKES, CLASSES, t=1.0)
    assert not any("coverage" in key for key in figures)
    assert "prediction_sets" not in beside


def test_groups_without_an_image_are_other_classes():
    """No bike in the target: its classes are ones that a head may be wrong by."""
    target = Scores(logits([0.3, 0.3, 0.35, 0.05]), np.array([0]), ["m"], {})
    found = elsewhere.present(BIKES, target)
    assert (found.names, found.of_source.tolist(), found.of_target.tolist()) == (["mug"], [-1, -1, 0, -1], [0, -1, -1])


def test_unknown_images_by_hand():
    """Sure of the known and evenly split on the unknown: both scores tell them apart; energy alone by the level."""
    found = elsewhere.unknown(np.array([[5.0, 0, 0], [0, 6.0, 0]]), np.array([[0.0, 0, 0]]), t=1.0)
    assert (found["auroc_msp"], found["auroc_energy"], found["n_unknown"]) == (1, 1, 1)
    found = elsewhere.unknown(np.array([[1.0, 0, 0]]), np.array([[5.0, 5.0, 5.0]]), t=1.0)
    assert (found["auroc_msp"], found["auroc_energy"]) == (1, 0)


def test_unknown_images_are_told_at_the_heads_temperature():
    """Ridge is surer of (1, -1, -1) than of (0.5, -1, -1.2) only where its scores are spread: at 1 it is the same."""
    known, others = np.array([[0.0, -0.4, -0.4]]), np.array([[0.1, -0.2, -1.0]])
    assert elsewhere.unknown(known, others, t=1.0)["auroc_msp"] == 0
    assert elsewhere.unknown(known, others, t=0.1)["auroc_msp"] == 1
