"""Models that a config.json describes, hf-hub:OWNER/NAME and local-dir:PATH, through every stage."""

import json
import os

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import backbench.generalize.cli
import backbench.probe.cli
from backbench import UserError, rows
from backbench.cache.features import open_file
from backbench.extract import backbone_info, backbones, described, feature_tap
from backbench.extract.cli import main
from backbench.finetune import model
from backbench.training import checkpoint
from tests import tuning
from tests.described import folder, on_hub
from tests.test_extract_run import images  # noqa: F401 - a fixture

TIMMS = {"architecture": "test_resnet", "pretrained_cfg": {}}
"""A config.json of timm's, with its own preprocessing."""


@pytest.fixture
def extract(tmp_path, images, monkeypatch):  # noqa: F811
    """``extract(...)`` in this process, in ``tmp_path``; gives click's result."""
    monkeypatch.chdir(tmp_path)

    def extract(*args, code=0):
        line = ["--dataset", "folder:images", "--batch-size", "8", "--precision", "float32", "--compile", "off", *args]
        result = CliRunner().invoke(main, [*map(str, line)])
        assert result.exit_code == code, result.output
        return result

    return extract


def features(path):
    with open_file(path) as file:
        return np.array(file.features), file.identity


def test_a_folder_is_a_backbone_with_its_own_preprocessing(extract, tmp_path):
    """By hand: features are timm's of the same weights without the classifier, on timm's own transform."""
    model = folder(tmp_path / "models" / "mine")
    assert "local-dir:models/mine  36 images x 96 features" in extract("--model", "local-dir:./models/mine/").output
    _, identity = features(tmp_path / "cache" / "folder-images" / "local-dir-models-mine.h5")
    assert (identity["model"], identity["weights"]) == ("local-dir:models/mine",) * 2
    assert identity["transform"]["input_size"] == [3, 64, 64]
    assert identity["transform"]["mean"] == [0.5, 0.5, 0.5]
    backbone = backbones.create("local-dir:models/mine")
    assert (backbone.config["input_size"], backbone.architecture) == ((3, 64, 64), "test_resnet")
    model.reset_classifier(0)
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(backbone.model(image), model.eval()(image))
    assert identity["weights_sha256"] == backbones.digest(model)
    words = ["--features", str(tmp_path / "cache"), "--results-dir", str(tmp_path / "results"), "--json"]
    (row,) = json.loads(CliRunner().invoke(backbench.probe.cli.main, words).stdout)
    assert row["model"] == "local-dir:models/mine"


def test_layers_pools_views_and_several_in_one_pass(extract, tmp_path):
    """Folders share pixels with each other, and a model of timm's by name has its own."""
    folder(tmp_path / "one")
    folder(tmp_path / "two", seed=1)
    asked = ("--layer", "layer2", "--layer", "last", "--pool", "gem", "--views", "2")
    said = extract("--model", "local-dir:one", "--model", "local-dir:two", *asked).output
    for name in ("one", "two"):
        assert f"local-dir:{name}.layer2.gem.mean2  36 images x 48 features" in said
        assert f"local-dir:{name}.last.gem.mean2  36 images x 96 features" in said
    one, two = (features(tmp_path / f"cache/folder-images/local-dir-{n}.last.gem.mean2.h5") for n in ("one", "two"))
    assert not np.array_equal(one[0], two[0])


def test_the_folders_content_is_its_identity(extract, tmp_path):
    folder(tmp_path / "mine")
    extract("--model", "local-dir:mine")
    assert "already complete" in extract("--model", "local-dir:mine").output
    folder(tmp_path / "mine", seed=1)  # other weights, files of the same size
    assert "weights_sha256: the file has" in extract("--model", "local-dir:mine", code=1).output
    extract("--model", "local-dir:mine", "--overwrite")
    folder(tmp_path / "mine", seed=1, mean=[0.4, 0.5, 0.5])  # another preprocessing
    assert "transform.mean: the file has" in extract("--model", "local-dir:mine", code=1).output


def test_weights_of_a_file_or_random_in_a_folders_architecture(tmp_path):
    trained = folder(tmp_path / "mine", seed=3)
    torch.save({"state_dict": trained.state_dict()}, tmp_path / "w.pth.tar")
    own = backbones.create(f"local-dir:{tmp_path / 'mine'}")
    from_file = backbones.create(f"local-dir:{tmp_path / 'mine'}", weights=str(tmp_path / "w.pth.tar"))
    random = backbones.create(f"local-dir:{tmp_path / 'mine'}", weights="random")
    assert own.weights_sha256 == from_file.weights_sha256 != random.weights_sha256
    assert own.config == from_file.config == random.config
    assert (from_file.weights, random.weights) == ("file w.pth.tar", "random, seed 42")
    for backbone, weights in ((own, "auto"), (from_file, str(tmp_path / "w.pth.tar")), (random, "random")):
        backbone_info.remember(tmp_path, backbone, "last", "default", weights=weights, seed=42)
    assert not (tmp_path / backbone_info.FILE).exists()  # the folder may change: it is looked at each time


def test_a_repository_on_the_hub_from_extract_to_report(tmp_path, images, run):  # noqa: F811
    on_hub(tmp_path / "home", "me/net-18")
    environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    line = ("--dataset", "folder:images", "--precision", "float32", "--compile", "off", "--model", "hf_hub:me/net-18")
    done = run("extract", *line, env=environment)
    assert done.returncode == 0, done.stderr
    _, identity = features(tmp_path / "cache" / "folder-images" / "hf-hub-me-net-18.h5")
    assert identity["model"] == identity["weights"] == "hf-hub:me/net-18"
    assert run("probe", "--features", "cache", "--save", "heads").returncode == 0
    assert (tmp_path / "heads" / "folder-images" / "hf-hub-me-net-18-logistic").is_dir()
    assert [row["model"] for row in rows.read(tmp_path / "results")] == ["hf-hub:me/net-18"] * 2
    shown = run("report")
    assert "hf-hub:me/net-18" in shown.stdout
    again = run("extract", *line, env=environment)
    assert "already complete" in again.stdout
    assert run("report", "page").returncode == 0


def test_arguments_of_the_architecture_are_the_configs(tmp_path):
    folder(tmp_path / "vit", "test_vit", model_args={"img_size": [64, 64], "init_values": 0.1}, input_size=[3, 64, 64])
    backbone = backbones.create(f"local-dir:{tmp_path / 'vit'}")
    assert backbone.arguments == {"img_size": [64, 64], "init_values": 0.1}
    assert "blocks.0.ls1.gamma" in backbone.model.state_dict()
    assert feature_tap.tap(backbone) is backbone
    tuned, arguments = model.build(backbone, 3, seed=0)
    assert "blocks.0.ls1.gamma" in tuned.state_dict()
    assert arguments == backbone.arguments | {"num_classes": 3}
    about = {"arguments": arguments, "classes": ["a", "b", "c"], "recipe": {"name": "simple", "strategy": "full"}}
    about |= {"transform": backbone.config | {"exif": "ignore"}, "precision": "float32"}
    assert checkpoint._sound(rows.plain(about))  # as model.json is checked when it is read


def test_a_map_that_is_not_pooled_has_the_features_that_pooling_gives(tmp_path):
    """resnet's own pooling is the mean over positions: with global_pool "" --pool avg gives the same."""
    folder(tmp_path / "pooled")
    folder(tmp_path / "map", model_args={"global_pool": ""})
    pooled, unpooled = (backbones.create(f"local-dir:{tmp_path / name}") for name in ("pooled", "map"))
    with pytest.raises(UserError, match=r"it gives \(1, 96, 2, 2\), not \(1, 96\).*: --pool avg, --pool gem\."):
        feature_tap.tap(unpooled)
    image = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        ours = feature_tap.tap(unpooled, pool="avg").model(image)
        torch.testing.assert_close(ours, pooled.model(image))


def test_an_encoder_that_does_not_pool_says_how_it_can(extract, tmp_path):
    """As models of pathology are on the hub: their config has global_pool "" and their authors say what to take."""
    folder(tmp_path / "enc", "test_vit", model_args={"global_pool": "", "img_size": 64})
    said = extract("--model", "local-dir:enc", code=1).output
    assert "local-dir:enc doesn't pool its features: for an image it gives (1, 17, 64), not (1, 64)" in said
    assert "Choose one of: --pool avg, --pool gem, --pool cls, --pool avg+cls." in said
    assert not [*(tmp_path / "cache").rglob("*.h5*")]
    for pool, width in (("avg", 64), ("cls", 64), ("avg+cls", 128)):
        label = f"local-dir:enc.last.{pool}  36 images x {width} features"
        assert label in extract("--model", "local-dir:enc", "--pool", pool).output


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"input_size": [1, 64, 64]}, r"input_size is \(1, 64, 64\)"),
        ({"input_size": [3, 100_000, 64]}, r"input_size is \(3, 100000, 64\)"),
        ({"mean": [0.5], "std": [0, 1, 1]}, r"mean is \(0\.5,\), std is \(0, 1, 1\)"),
        ({"interpolation": "random"}, "interpolation is 'random'"),
    ],
)
def test_preprocessing_that_can_not_be_right(tmp_path, changed, said):
    folder(tmp_path, **changed)
    with pytest.raises(UserError, match=f"the preprocessing in its config.json can't be used: {said}"):
        backbones.create(f"local-dir:{tmp_path}")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "dinov2"}, "not one of timm's, since it has no 'architecture'"),
        ({"architecture": "no_such", "pretrained_cfg": {}}, "names 'no_such', which timm"),
        (TIMMS | {"model_args": {"checkpoint_path": "/x"}}, "sets checkpoint_path"),
        (TIMMS | {"model_args": {"depths": {"a": 1}}}, "sets depths"),
        (TIMMS | {"model_args": {"depthz": 1}}, "depthz"),
        ([], "config.json is damaged"),
    ],
)  # fmt: skip
def test_a_config_that_is_none_of_timms(tmp_path, config, said):
    folder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=said):
        backbones.create(f"local-dir:{tmp_path}")


def test_weights_in_a_folder_fit_or_are_refused(tmp_path):
    """timm itself loads what fits of them and leaves the rest random, silently."""
    other = folder(tmp_path / "other", "test_vit").state_dict()
    folder(tmp_path / "mine", weights=other)
    with pytest.raises(UserError, match=r"local-dir:.*mine doesn't fit test_resnet: it lacks"):
        backbones.create(f"local-dir:{tmp_path / 'mine'}")
    (tmp_path / "mine" / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(UserError, match="a git-LFS pointer"):
        backbones.create(f"local-dir:{tmp_path / 'mine'}")
    (tmp_path / "mine" / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"the folder has no weights, but one file is expected"):
        backbones.create(f"local-dir:{tmp_path / 'mine'}")
    for name in ("a.ckpt", "b.ckpt"):
        torch.save(other, tmp_path / "mine" / name)
    with pytest.raises(UserError, match=r"the folder has a\.ckpt, b\.ckpt, but one file is expected"):
        backbones.create(f"local-dir:{tmp_path / 'mine'}")


def test_one_backbones_fault_does_not_stop_the_others(extract, tmp_path):
    """In its weights, its config, its layers and its pooling; typos stop the command before."""
    folder(tmp_path / "good")
    folder(tmp_path / "misfit", weights=folder(tmp_path / "vit", "test_vit", input_size=[3, 160, 160]).state_dict())
    folder(tmp_path / "odd")
    (tmp_path / "odd" / "config.json").write_text('{"architecture": "no_such", "pretrained_cfg": {}}')
    folder(tmp_path / "enc", "test_vit", model_args={"global_pool": "", "img_size": 64})
    names = ("misfit", "odd", "enc", "good")
    said = extract(*(word for name in names for word in ("--model", f"local-dir:{name}")), code=1).output
    assert "local-dir:good  36 images" in said
    for fault in ("misfit doesn't fit", "local-dir:odd: its config.json names", "enc doesn't pool"):
        assert fault in said
    assert [path.name for path in (tmp_path / "cache").rglob("*.h5*")] == ["local-dir-good.h5"]
    said = extract("--model", "local-dir:good", "--model", "local-dir:vit", "--layer", "layer2", code=1).output
    assert "local-dir:good.layer2" in said
    assert "--layer layer2: local-dir:vit has no such layer" in said
    said = extract("--model", "local-dir:good", "--model", "local-dir:god", "--model", "test_resnt", code=2).output
    assert "local-dir:god: there is no such folder" in said
    assert "unknown model 'test_resnt'" in said


def test_a_head_whose_backbone_is_gone_does_not_stop_generalize(extract, tmp_path):
    folder(tmp_path / "kept")
    folder(tmp_path / "gone", seed=1)
    extract("--model", "local-dir:kept", "--model", "local-dir:gone")
    words = ["--features", "cache", "--save", "heads", "--method", "centroid"]
    assert CliRunner().invoke(backbench.probe.cli.main, words).exit_code == 0
    tuning.pictures(tmp_path / "other")
    (tmp_path / "gone").rename(tmp_path / "moved")
    result = CliRunner().invoke(
        backbench.generalize.cli.main, ["--dataset", "folder:other", "--source", "folder:images"]
    )
    assert result.exit_code == 1
    assert "local-dir:kept centroid: folder-images to folder-other, top-1" in result.output
    assert "the weights of local-dir:gone (local-dir:gone) can't be loaded" in result.output


def test_finetune_trains_one_and_its_checkpoint_needs_the_folder_no_more(tmp_path, monkeypatch):
    """Through lp-ft, evaluate and features; the other models of the command have faults that don't stop it."""
    monkeypatch.chdir(tmp_path)
    tuning.pictures(tmp_path / "images")
    folder(tmp_path / "mine")
    folder(tmp_path / "enc", "test_vit", model_args={"global_pool": "", "img_size": 64})
    folder(tmp_path / "misfit", weights=folder(tmp_path / "vit", "test_vit").state_dict())
    words = ["--model", "local-dir:misfit", "--model", "local-dir:enc", "--model", "local-dir:mine", "--epochs", "1"]
    words += ["--dataset", "folder:images", "--device", "cpu", "--precision", "float32", "--workers", "0"]
    result = CliRunner().invoke(tuning.main, ["simple", *words, "--batch-size", "8"])
    assert result.exit_code == 1
    assert "local-dir:misfit doesn't fit test_resnet" in result.output
    assert "local-dir:enc can't be fine-tuned: it doesn't pool its features" in result.output
    place = tmp_path / "runs" / "folder-images" / "local-dir-mine-simple-lp-ft-42"
    about = checkpoint.read_about(place)
    assert (about["model"], about["timm_name"]) == ("local-dir:mine", "test_resnet")
    (tmp_path / "mine").rename(tmp_path / "gone")
    for command in ("evaluate", "features"):
        line = [command, "--checkpoint", str(place), "--dataset", "folder:images", "--device", "cpu"]
        done = CliRunner().invoke(tuning.main, line)
        assert done.exit_code == 0, done.output
    about["timm_name"] = "hf-hub:someone/theirs"  # as an earlier version wrote it: a file must not cause a download
    with pytest.raises(UserError, match=r"an earlier version wrote it.*Train it again"):
        checkpoint._check_name(about, place)


def test_arguments_from_a_file_are_an_architectures_own():
    assert described.odd({"img_size": 64, "depths": [2, 2], "qk_norm": True, "global_pool": ""}) == []
    assert described.odd({"pretrained_cfg": "x", "cache_dir": "/", "layer": None}) == [
        "pretrained_cfg",
        "cache_dir",
        "layer",
    ]
