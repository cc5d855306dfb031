"""The folder of a head of nearest neighbours, and what val and train say of new images in any head's."""

import json
from unittest.mock import patch

import numpy as np
import pytest
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from backbench import UserError
from backbench.probe import head as head_module
from backbench.probe.head import ABOUT, TENSORS, KnnHead, load
from backbench.probe.outliers import Outliers
from backbench.reference import NAMES, Reference
from tests.test_probe_head import forge, head, save


def neighbours(n=9, d=4, k=3, dtype="f2") -> KnnHead:
    rng = np.random.default_rng(0)
    return KnnHead(rng.normal(size=(n, d)).astype(dtype), np.arange(n) % k, 5, k)


def beside(d=4, m=7):
    """What val and train say of new images."""
    rng = np.random.default_rng(1)
    scores = {name: rng.uniform(size=m).astype("f4") for name in NAMES}
    return {"reference": Reference(scores), "outliers": Outliers(rng.normal(size=(3, d)).astype("f4"))}


@pytest.mark.parametrize("dtype", ["f2", "f4"])
def test_a_head_of_neighbours_is_stored_as_it_is(tmp_path, dtype):
    whole = neighbours(dtype=dtype)
    found = load(save(tmp_path / "h", whole, method="knn", **beside()))
    assert (found.head.bank.dtype, found.head.k, found.head.n_classes, found.head.dim) == (dtype, 5, 3, 4)
    np.testing.assert_array_equal(found.head.bank, whole.bank)
    np.testing.assert_array_equal(found.head.labels, whole.labels)
    x = np.random.default_rng(2).normal(size=(20, 4)).astype("f4")
    np.testing.assert_array_equal(found.head.scores(x), whole.scores(x))
    np.testing.assert_allclose(np.exp(found.head.scores(x)).sum(axis=1), 1, rtol=1e-6)
    for name, scores in beside()["reference"].scores.items():
        np.testing.assert_array_equal(found.reference.scores[name], scores)
    np.testing.assert_array_equal(found.outliers.directions, beside()["outliers"].directions)


@pytest.mark.parametrize("found", [head(), neighbours()], ids=["linear", "neighbours"])
def test_what_was_loaded_can_be_stored_again(tmp_path, found):
    first = load(save(tmp_path / "a", found, **beside()))
    first.save(tmp_path / "b")
    assert (tmp_path / "a" / TENSORS).read_bytes() == (tmp_path / "b" / TENSORS).read_bytes()
    assert (tmp_path / "a" / ABOUT).read_bytes() == (tmp_path / "b" / ABOUT).read_bytes()


def test_a_head_of_schema_1_is_read_and_says_nothing_of_new_images(tmp_path):
    path = save(tmp_path / "h") / ABOUT
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 1}))
    found = load(tmp_path / "h")
    np.testing.assert_array_equal(found.head.weights, head().weights)
    assert (found.reference, found.outliers) == (None, None)


@pytest.mark.parametrize(
    ("name", "array", "says"),
    [
        ("bank", np.zeros((9, 4)), r"bank has shape \(9, 4\) and dtype float64"),
        ("bank", np.zeros((0, 4), "f4"), r"bank has shape \(0, 4\)"),
        ("bank", np.zeros(9, "f4"), r"bank has shape \(9,\)"),
        ("bank", np.full((9, 4), np.inf, "f4"), "finite"),
        ("labels", np.arange(8) % 3, r"labels of shape \(8,\); one of 3 classes for each of 9"),
        ("labels", np.arange(9), "one of 3 classes"),
        ("labels", np.arange(9) - 1, "one of 3 classes"),
        ("labels", np.zeros(9, "f4"), "labels of shape"),
        ("labels", None, "holds bank, k; bank, labels, k were expected"),
        ("k", np.array([0]), r"k is \[0\] of shape \(1,\); one number in 1..9"),
        ("k", np.array([10]), r"k is \[10\]"),
        ("k", np.array([5.0]), r"k is \[5.0\]"),
        ("k", np.zeros(0, int), r"of shape \(0,\)"),
        ("k", np.array(5), r"of shape \(\)"),
        ("weights", np.zeros((3, 4)), "holds bank, k, labels, weights"),
        ("reference.lac", np.zeros(6, "f4"), r"lac of shape \(6,\)|raps of shape \(7,\)"),
        ("reference.lac", np.zeros(7), "dtype float64"),
        ("reference.raps", np.full(7, np.nan, "f4"), "raps of shape .* finite"),
        ("reference.raps", None, "named distance, energy, lac; lac, raps, energy, distance were expected"),
        ("reference.other", np.zeros(7, "f4"), "named distance, energy, lac, other, raps"),
        ("reference.distance", None, "but not the other"),
        ("outliers.directions", None, "but not the other"),
        (
            "outliers.directions",
            np.zeros((3, 5), "f4"),
            r"directions \(3, 5\) float32; finite directions \(classes, 4\)",
        ),
        ("outliers.directions", np.zeros((0, 4), "f4"), "finite directions"),
        ("outliers.directions", np.full((3, 4), np.nan, "f4"), "finite directions"),
        ("outliers.more", np.zeros((3, 4), "f4"), "finite directions"),
    ],
)
def test_tensors_that_make_no_head_of_neighbours_are_refused(tmp_path, name, array, says):
    whole = load_tensors((save(tmp_path / "h", neighbours(), **beside()) / TENSORS).read_bytes()) | {name: array}
    forged = save_tensors({key: value for key, value in whole.items() if value is not None})
    with pytest.raises(UserError, match=says):
        load(forge(tmp_path / "h", forged))


def test_a_head_too_large_to_be_read_is_not_stored(tmp_path):
    with (
        patch.dict(head_module.LARGEST, {TENSORS: 100}),
        pytest.raises(UserError, match="it takes 152 bytes, and 100 at most are read"),
    ):
        save(tmp_path / "h", neighbours())
    assert not (tmp_path / "h").exists()
