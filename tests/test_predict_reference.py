"""What trained heads and checkpoints keep of val, and how strange they find images."""

import json
import shutil

import numpy as np
import pytest
import torch

from backbench import UserError
from backbench.cache.features import open_file
from backbench.calibration import probabilities
from backbench.predict import find
from backbench.probe import head
from backbench.reference import Reference, energy
from backbench.training import checkpoint
from tests import trained, tuning


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Heads and a checkpoint of ant, bee and cat, of 5 val images a class."""
    return trained.build(tmp_path_factory.mktemp("reference"), "logistic", "knn")


@pytest.fixture
def run(home, tmp_path):
    """A copy of the checkpoint's folder, to be changed."""
    return shutil.copytree(home / "runs" / "images" / "tiny", tmp_path / "run")


def edit(folder, **changes):
    path = folder / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_checkpoint_keeps_what_its_network_says_of_val(home):
    found = find.at(home / "runs" / "images" / "tiny")
    imageset = tuning.imageset(home / "images")

    said = found.scores_on(imageset, cache_dir=home / "cache", device=torch.device("cpu"))
    val = [i for i, id in enumerate(said.ids) if id.startswith("val/")]
    assert len(val) == len(found.reference) == 15
    scores, labels = said.scores[val], said.labels[val]
    expected = Reference.of_val(
        probabilities(scores, found.temperature), scores / found.temperature, labels
    )  # batches of other sizes round otherwise
    for name in ("lac", "raps", "energy"):
        np.testing.assert_allclose(found.reference.scores[name], expected.scores[name], atol=1e-4)
    assert "distance" not in found.reference.scores
    name, strange = found.strangeness(scores, scores)
    assert name == "energy"
    np.testing.assert_allclose(strange, found.reference.scores["energy"], atol=1e-4)


@pytest.mark.parametrize("method", ["logistic", "knn"])
def test_a_head_keeps_what_val_says_and_measures_distance(home, method):
    found = find.at(home / "heads" / "folder-images" / f"test_resnet-{method}")
    assert {name: len(scores) for name, scores in found.reference.scores.items()} == dict.fromkeys(
        ("lac", "raps", "energy", "distance"), 15
    )
    with open_file(home / "cache" / "folder-images" / "test_resnet.h5") as file:
        features, labels = file.features[file.split == 1], file.labels[file.split == 1]
    scores = found.saved.head.scores(features)
    name, strange = found.strangeness(scores, features)
    assert name == "distance"
    np.testing.assert_array_equal(strange, found.reference.scores["distance"])
    # The head was refitted with val, which it now knows better than what it says of val.
    assert (1 - probabilities(scores, found.temperature)[np.arange(15), labels]).mean() < found.reference.scores[
        "lac"
    ].mean()


def test_what_an_earlier_version_kept_says_nothing_of_new_images(home, run, tmp_path):
    edit(run, reference=None)
    assert find.at(run).reference is None
    about = json.loads((run / "model.json").read_text())
    del about["reference"]
    (run / "model.json").write_text(json.dumps(about))
    assert find.at(run).reference is None
    saved = head.load(home / "heads" / "folder-images" / "test_resnet-logistic")
    saved._replace(reference=None, outliers=None).save(tmp_path / "head")
    found = find.at(tmp_path / "head")
    assert found.reference is None
    x = np.random.default_rng(0).normal(size=(3, saved.head.dim)).astype("f4")
    name, strange = found.strangeness(saved.head.scores(x), x)
    assert name == "energy"
    np.testing.assert_array_equal(strange, energy(saved.head.scores(x) / found.temperature))


GOOD = {name: [0.5, 0.25] for name in ("lac", "raps", "energy")}


@pytest.mark.parametrize(
    ("held", "says"),
    [
        ([], "are not lists of numbers"),
        ("lac", "are not lists of numbers"),
        ({}, "named ; lac, raps, energy, distance were expected"),
        (GOOD | {"lac": ["x"]}, "are not lists of numbers"),
        (GOOD | {"lac": [[0.5], []]}, "are not lists of numbers"),
        (GOOD | {"lac": {"0": 1}}, "are not lists of numbers"),
        (GOOD | {"lac": [10**400, 1]}, "are not lists of numbers"),
        (GOOD | {"lac": None}, r"lac of shape \(\)"),
        (GOOD | {"lac": [0.5]}, r"raps of shape \(2,\) and dtype float32; \(1,\) finite"),
        (GOOD | {"lac": [[0.5, 0.25]]}, r"lac of shape \(1, 2\)"),
        (GOOD | {"raps": [1e300, 0]}, "finite numbers"),
        (GOOD | {"energy": [float("nan"), 0]}, "finite numbers"),
        ({name: [] for name in GOOD}, "finite numbers"),
        (GOOD | {"other": [0, 1]}, "named energy, lac, other, raps"),
    ],
)
def test_scores_that_are_none_are_refused(run, held, says):
    edit(run, reference=held)
    with pytest.raises(UserError, match=f"model.json is damaged: .*{says}"):
        checkpoint.read_about(run)


def test_every_digit_is_kept_in_json():
    found = Reference({name: np.random.default_rng(0).normal(size=50).astype("f4") for name in GOOD})
    again = Reference.of_lists(json.loads(json.dumps(found.lists())))
    for name, scores in found.scores.items():
        np.testing.assert_array_equal(again.scores[name], scores)
