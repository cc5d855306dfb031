"""Trained models as one network: heads of all kinds, and which of them are a model of timm's."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from backbench import UserError, calibration
from backbench.cache.features import open_file
from backbench.export import graph, network, sample, timm_model
from backbench.export.run import AGREE, run
from backbench.predict import find
from backbench.probe import predict
from backbench.probe.head import KnnHead
from backbench.probe.outliers import Outliers
from backbench.probe.subsets import Subset
from backbench.training import checkpoint
from tests import exportable, toy


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A head and the features it was made for."""
    head, path = exportable.head(tmp_path_factory.mktemp("made"))
    return SimpleNamespace(head=head, features=path)


def test_thresholds_by_hand():
    """Of 19 scores the 18th and the 19th: ceil(20 * 0.9) and ceil(20 * 0.95). Of 9 only the first is there."""
    scores = {"lac": np.arange(1, 20, dtype=np.float32), "distance": np.arange(1, 10, dtype=np.float32)}
    found = graph.thresholds(SimpleNamespace(reference=SimpleNamespace(scores=scores)))
    assert found == {"lac": {"0.9": 18, "0.95": 19}, "distance": {"0.9": 9, "0.95": None}}
    assert graph.thresholds(SimpleNamespace(reference=None)) is None


@pytest.mark.parametrize("k", [3, 10, 50])
def test_nearest_neighbours_vote_in_the_graph_as_in_the_probe(k):
    data = toy.split(toy.clusters(40, 8, 4), 30)
    head = KnnHead(data.final.features, data.final.labels, k, 4)
    x = toy.clusters(9, 8, 4, seed=1).features
    with torch.inference_mode():
        found = network.Nearest(head)(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found, head.scores(x), atol=1e-4)


def test_a_head_of_nearest_neighbours_is_a_graph_alone(made, tmp_path):
    with open_file(made.features) as file:
        head = KnnHead(file.features[:], file.labels[:].astype(np.int64), 5, 3)
        outliers = Outliers.of_train(Subset(head.bank, head.labels))
    given = network.trained(find.at(made.head))._replace(head=head, outliers=outliers)
    with pytest.raises(timm_model.NoForm, match="no linear layer"):
        timm_model.create(given)
    opened = graph.write(given, tmp_path / "model.onnx", SimpleNamespace(weights="", sha256="", licence=""))
    size = given.backbone.config["input_size"][1:]
    images = np.random.default_rng(3).integers(0, 256, (5, *size, 3), np.uint8)
    probabilities, _, distance = opened.run(None, {"pixels": images})
    with torch.inference_mode():
        x = given.backbone.from_pixels(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    np.testing.assert_allclose(probabilities, calibration.probabilities(head.scores(x), 0.5), atol=AGREE)
    np.testing.assert_allclose(distance, outliers.distance(x), atol=1e-5)


def test_a_mean_over_an_image_and_its_mirror_image_is_none_of_timms(tmp_path):
    head, path = exportable.head(tmp_path, views=2)
    given = network.trained(find.at(head))
    with pytest.raises(timm_model.NoForm, match="the mean over two views"):
        timm_model.create(given)
    images = sample.images(given, dataset=f"folder:{tmp_path / 'images'}", data_root=tmp_path).pixels
    with torch.inference_mode():
        found = network.Network(given)(torch.from_numpy(images))[0].numpy()
    np.testing.assert_allclose(found, given.probabilities(images), atol=AGREE)
    with open_file(path) as file:
        said = predict.predict(head, path).probability[file.split == 2]
    np.testing.assert_allclose(found.max(1), said, atol=1e-3)


def test_an_input_scaled_on_purpose_is_none_of_timms(made):
    given = network.trained(find.at(made.head))
    given = given._replace(backbone=replace(given.backbone, scale=255.0))
    with pytest.raises(timm_model.NoForm, match="the input was multiplied by 255"):
        timm_model.create(given)


def test_a_mean_over_random_crops_has_no_file(tmp_path):
    head, _ = exportable.head(tmp_path, views=3)
    with pytest.raises(UserError, match="the mean over 3 views of an image, random crops among them"):
        run(head, tmp_path / "out", data_root=tmp_path)
    assert not (tmp_path / "out").exists()


def test_a_classifier_of_several_layers_is_a_graph_alone(tmp_path, monkeypatch):
    folder = exportable.run(tmp_path)
    given = network.trained(find.at(folder))
    monkeypatch.setattr(checkpoint, "load", lambda folder: SimpleNamespace(stage="finetune", model=distilled))
    distilled = SimpleNamespace(get_classifier=lambda: (torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)))
    with pytest.raises(
        timm_model.NoForm, match=r"not a single linear layer but a tuple, so a probe's head does not fit"
    ):
        timm_model.create(given)
