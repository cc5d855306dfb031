"""The classifier and the checkpoint: the probe's head folded in, mixed with the start, loaded by timm."""

import json

import numpy as np
import pytest
import timm
import torch

from backbench import UsageError, UserError
from backbench.cache.features import open_file
from backbench.extract import backbones
from backbench.extract.plan import Settings
from backbench.finetune import initialize, strategies
from backbench.finetune import model as models
from backbench.finetune.recipe import make
from backbench.probe.head import LinearHead
from backbench.probe.predict import predict
from backbench.probe.run import Settings as Probing
from backbench.probe.run import Task, probe
from backbench.training import checkpoint, classifier
from backbench.training.evaluate import logits
from tests import tuning


def head(d, k, seed=0):
    rng = np.random.default_rng(seed)
    mean, scale = rng.normal(size=d), rng.uniform(0.5, 2, size=d)
    return LinearHead(mean, scale, rng.normal(size=(k, d)), rng.normal(size=k))


def saved(tmp_path, name="test_resnet"):
    """A checkpoint of random weights, and the model."""
    backbone = backbones.create(name, weights="random")
    model, arguments = models.build(backbone, 3, seed=1)
    torch.nn.init.normal_(model.get_classifier().weight)
    about = {
        "model": name, "timm_name": name, "arguments": arguments, "classes": ["a", "b", "c"],
        "transform": {k: list(v) if isinstance(v, tuple) else v for k, v in backbone.config.items()}
        | {"exif": "ignore"},
        "pooling": "avg", "recipe": {"name": "simple", "strategy": "full"}, "seed": 42, "precision": "float32",
        "dataset": "toy", "dataset_digest": "d", "identity": {}, "ended": "all epochs", "row": {},
    }  # fmt: skip
    checkpoint.save(tmp_path, model.state_dict(), about)
    return model


def test_a_folded_head_by_hand():
    """x = (3, 5), mean (1, 1), scale (2, 4): standardised (1, 1); W = (1, 2) and (3, -1), b = (10, 20): 13 and 22."""
    model = torch.nn.Module()
    model.fc = torch.nn.Linear(2, 2)
    model.get_classifier = lambda: model.fc
    weights = np.array([[1.0, 2], [3, -1]])
    classifier.fold(LinearHead(np.ones(2), np.array([2.0, 4]), weights, np.array([10.0, 20])), model)
    assert model.fc(torch.tensor([[3.0, 5]])).tolist() == [[13, 22]]


def test_with_the_probes_head_a_model_says_what_probe_predict_says(tmp_path):
    imageset = tuning.imageset(tuning.pictures(tmp_path / "images"))
    backbone = backbones.create("test_resnet", weights="random")
    model, _ = models.build(backbone, 3, seed=0)
    path, cpu = tmp_path / "f.h5", torch.device("cpu")
    initialize.put(imageset, backbone, model, path, Settings(device=cpu, precision="float32"))
    rows = np.flatnonzero(imageset.split == 2)
    ours = logits(model, imageset, backbone, rows, tuning.accelerator())
    found, _ = initialize.probed(imageset, backbone, path, Settings(device=cpu, precision="float32"))
    with open_file(path) as file:
        np.testing.assert_allclose(ours, found.scores(file.features[rows]), atol=1e-3)
        found.save(tmp_path / "head", classes=file.class_names, identity=file.identity, method="logistic", row={})
        said = dict(zip(*predict(tmp_path / "head", path)[:2], strict=True))
        assert [imageset.class_names[k] for k in ours.argmax(1)] == [said[imageset.ids[i]] for i in rows]
        # The probe's own is fitted on val too: lp-ft's must not be, or val would choose the start for ever.
        _, _, own = probe(file, Task(path, "logistic", 42), Probing(keep=True))
        assert not np.allclose(own.head.weights, found.weights)


@pytest.mark.parametrize(
    "name", ["test_resnet", "test_vit", "test_efficientnet", "test_convnext", "test_byobnet", "test_vit3", "test_nfnet"]
)
def test_timm_loads_the_checkpoint(name, tmp_path):
    model = saved(tmp_path, name).eval()
    theirs = timm.create_model(name, num_classes=3, checkpoint_path=tmp_path / "model.safetensors").eval()
    images = torch.randn(2, *model.pretrained_cfg["input_size"])
    with torch.inference_mode():
        assert torch.equal(theirs(images), model(images))
        assert torch.equal(checkpoint.load(tmp_path).model(images), theirs(images))
        backbone = checkpoint.as_backbone(checkpoint.load(tmp_path / "model.safetensors"))
        assert backbone.model(images).shape == (2, backbone.num_features)


def test_a_fresh_head_says_nothing_yet():
    for name in ("test_efficientnet", "test_vit"):
        backbone = backbones.create(name, weights="random")
        model, _ = models.build(backbone, 3, seed=0)
        with torch.inference_mode():
            assert model(torch.randn(2, *backbone.config["input_size"])).abs().max() == 0


def test_mixed_by_hand():
    first = {"w": torch.tensor([0.0, 4]), "n": torch.tensor(3)}
    last = {"w": torch.tensor([2.0, 8]), "n": torch.tensor(5)}
    assert models.mixed(first, last, 0.25)["w"].tolist() == [0.5, 5]
    assert models.mixed(first, last, 0.0)["w"].tolist() == [0, 4]
    assert models.mixed(first, last, 1.0)["w"].tolist() == [2, 8]
    assert models.mixed(first, last, 0.5)["n"] == 5


def test_wrong_heads_are_refused():
    model, _ = models.build(backbones.create("test_resnet", weights="random"), 3, seed=0)
    d = model.num_features
    with pytest.raises(UserError, match="does not fit: it maps 7 features to 3 classes"):
        classifier.fold(head(7, 3), model)
    with pytest.raises(UserError, match=f"does not fit: it maps {d} features to 4 classes"):
        classifier.fold(head(d, 4), model)
    with pytest.raises(UserError, match="not a single linear layer"):
        classifier.linear(timm.create_model("deit_tiny_distilled_patch16_224", num_classes=3))


@pytest.mark.parametrize("name", ["test_mambaout", "test_vit"])
def test_a_head_of_other_features_is_refused(name):
    """The model must be the very backbone that the head was fitted on, up to the classifier."""
    backbone = backbones.create(name, weights="random")
    model, _ = models.build(backbone, 3, seed=0)
    found, images = head(backbone.num_features, 3), torch.randn(2, *backbone.config["input_size"])
    classifier.fold(found, model)
    classifier.check_head(found, model, backbone, images)
    with torch.no_grad():
        [parameter.mul_(1.5) for parameter in model.parameters()]
    with pytest.raises(UserError, match="does not fit: with it"):
        classifier.check_head(found, model, backbone, images)


def edit(folder, **changes):
    path = folder / "model.json"
    about = json.loads(path.read_text())
    for key, value in changes.items():
        about[key] = about[key] | value if isinstance(value, dict) else value
    path.write_text(json.dumps(about))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"classes": ["a", "b", "d"]}, "different checkpoints:\n  classes"),
        ({"transform": {"mean": [0.1, 0.1, 0.1]}}, "different checkpoints:\n  transform"),
        ({"model": "test_vit"}, "different checkpoints:\n  model"),
        ({"dataset_digest": "e"}, "different checkpoints:\n  dataset_digest"),
        ({"sha256": "0"}, "Copy the two together"),
        ({"classes": ["a", "b"]}, "some of its values are invalid"),
        ({"transform": {"std": [0, 1, 1]}}, "some of its values are invalid"),
        ({"transform": {"interpolation": "../x"}}, "some of its values are invalid"),
        ({"transform": {"crop_mode": []}}, "some of its values are invalid"),
        ({"arguments": {"checkpoint_path": "/etc/passwd"}}, "some of its values are invalid"),
        ({"seed": "42"}, "damaged: missing or of a wrong type: seed"),
        ({"schema": 99}, "schema 1"),
    ],
)
def test_a_checkpoint_that_is_not_one_is_refused(changes, words, tmp_path):
    saved(tmp_path)
    edit(tmp_path, **changes)
    with pytest.raises(UserError, match=words):
        checkpoint.load(tmp_path)


def test_damaged_and_missing_files(tmp_path):
    with pytest.raises(UserError, match=r"model.json can't be read: No such file"):
        checkpoint.load(tmp_path)
    saved(tmp_path)
    path = tmp_path / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    with pytest.raises(UserError, match="not a backbench checkpoint"):
        checkpoint.load(tmp_path)
    path.write_bytes(b"")
    with pytest.raises(UserError, match="not a backbench checkpoint"):
        checkpoint.load(tmp_path)
    path.write_bytes(content)
    (tmp_path / "model.json").write_text("{")
    with pytest.raises(UserError, match="it is not JSON"):
        checkpoint.load(tmp_path)


def test_another_models_weights_are_refused(tmp_path):
    """As named and sealed, but timm has other shapes for it."""
    import safetensors.torch

    saved(tmp_path)
    about = json.loads((tmp_path / "model.json").read_text())
    other = timm.create_model("test_efficientnet", num_classes=3).state_dict()
    checkpoint.save(tmp_path, other, {k: v for k, v in about.items() if k not in ("format", "schema", "sha256")})
    with pytest.raises(UserError, match="doesn't fit test_resnet"):
        checkpoint.load(tmp_path)
    assert safetensors.torch.load_file(tmp_path / "model.safetensors").keys() == other.keys()
    (tmp_path / "model.json").unlink()
    saved(tmp_path)
    edit(tmp_path, timm_name="resnet18")
    with pytest.raises(UserError, match="timm_name"):
        checkpoint.load(tmp_path)
    with pytest.raises(UsageError):
        backbones.names.resolve(["no_such_model"])


def test_the_probes_head_begins_less_sure_and_is_kept_whole_where_it_is_chosen(tmp_path):
    """A learning rate that spoils everything: the start is chosen, and says what the probe does, as surely."""
    tuning.pictures(tmp_path / "images")
    tuning.tune(tmp_path, "--lr", "1", "--set", "clip=0", "--epochs", "1")
    about = checkpoint.read_about(tmp_path / "run")
    assert about["chosen"]["epoch"] == 0
    imageset = tuning.imageset(tmp_path / "images")
    with open_file(next((tmp_path / "cache").rglob("*.h5"))) as file:
        head, _ = initialize.probed(
            imageset, backbones.create("test_resnet", weights="random"), file.path, Settings(device=torch.device("cpu"))
        )
    made = checkpoint.load(tmp_path / "run").model.get_classifier()
    expected = head.weights / head.scale
    np.testing.assert_allclose(made.weight.detach().numpy(), expected, atol=1e-5)

    model, _ = models.build(backbones.create("test_resnet", weights="random"), 3, seed=0)
    classifier.fold(head, model)
    strategies.soften(model, make("simple", ("probe_scale=0.25",)))
    np.testing.assert_allclose(model.get_classifier().weight.detach().numpy(), expected / 4, atol=1e-6)
    strategies.soften(model, make("simple", strategy="full"))
    np.testing.assert_allclose(model.get_classifier().weight.detach().numpy(), expected / 4, atol=1e-6)
