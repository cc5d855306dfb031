"""What val says of new images: sets and p-values, by hand and by simulation."""

from unittest.mock import patch

import numpy as np
import pytest

from backbench import UserError, reference
from backbench.reference import Reference, energy

P = np.array([[0.3, 0.5, 0.2], [0.05, 0.05, 0.9]])


def test_of_val_by_hand():
    found = Reference.of_val(P, np.log(P), np.array([2, 0]), distance=np.array([3.0, 1]))
    assert {name: scores.dtype for name, scores in found.scores.items()} == dict.fromkeys(reference.NAMES, np.float32)
    np.testing.assert_allclose(found.scores["lac"], [0.8, 0.95], rtol=1e-6)
    np.testing.assert_allclose(found.scores["raps"], [1.2, 1.05], rtol=1e-6)
    np.testing.assert_allclose(found.scores["energy"], [0, 0], atol=1e-7)
    assert found.scores["distance"].tolist() == [3, 1]
    assert len(found) == 2
    assert "distance" not in Reference.of_val(P, np.log(P), np.array([2, 0])).scores


def test_energy_by_hand_and_without_overflow():
    logits = np.array([[0, 0], [np.log(3), 0], [1e4, 1e4], [-1e4, -1e4]], "f4")
    np.testing.assert_allclose(
        energy(logits), -np.log([2, 4, 1, 1]) - [0, 0, 1e4 + np.log(2), np.log(2) - 1e4], rtol=1e-6
    )
    assert energy(np.empty((0, 3))).shape == (0,)


def test_sets_are_of_the_level_and_all_classes_where_val_is_too_small(rng):
    labels = rng.integers(0, 3, 19)
    p = rng.dirichlet(np.ones(3), 19)
    found = Reference.of_val(p, np.log(p), labels)
    for kind in ("lac", "raps"):
        assert found.sets(P, level=0.95, kind=kind).shape == (2, 3)
        assert found.sets(P, level=0.951, kind=kind).all()
        assert found.sets(p, level=0.95, kind=kind)[np.arange(19), labels].all()  # the 19th smallest of 19
    assert not found.sets(P, level=0.1).all()
    assert (found.sets(P, level=0.5) == found.sets(P, level=0.5, kind="lac")).all()
    with pytest.raises(UserError, match="'energy' is no kind of prediction sets"):
        found.sets(P, level=0.5, kind="energy")


def test_p_values_are_of_the_score_asked_for():
    found = Reference.of_val(P, np.log(P), np.array([2, 0]), distance=np.array([3.0, 1]))
    assert found.p_known("distance", np.array([0, 2, 4.0])).tolist() == [1, 2 / 3, 1 / 3]
    assert found.p_known("energy", np.array([-1.0, 1])).tolist() == [1, 1 / 3]
    with pytest.raises(UserError, match="'distance' is not among the scores of val that are kept here: energy"):
        Reference.of_val(P, np.log(P), np.array([2, 0])).p_known("distance", np.ones(1))
    with pytest.raises(UserError, match="'lac' is not among"):
        found.p_known("lac", np.ones(1))


def test_blocks_change_nothing(rng):
    p, labels = rng.dirichlet(np.ones(4), 50), rng.integers(0, 4, 50)
    whole = Reference.of_val(p, np.log(p), labels)
    with patch.object(reference, "BLOCK", 28):
        blocked = Reference.of_val(p, np.log(p), labels)
    for name, scores in whole.scores.items():
        np.testing.assert_array_equal(scores, blocked.scores[name])


def test_of_new_images_like_vals_so_many_are_called_strange_as_is_said(rng):
    """2,000 draws of 99 images of val: the share of new ones with a p-value of 0.05 at most."""
    called = []
    for _ in range(2000):
        scores = rng.normal(size=109).astype("f4")
        found = Reference({"distance": scores[:99], "lac": scores[:99]})
        called.append((found.p_known("distance", scores[99:]) <= 0.05).mean())
    assert np.mean(called) == pytest.approx(0.05, abs=4 * np.std(called) / 2000**0.5)
