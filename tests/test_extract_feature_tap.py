"""Other layers and poolings: checked against what the blocks themselves put out, caught by hooks."""

import json

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from backbench import UserError
from backbench.cache.features import open_file
from backbench.extract import backbones, feature_tap
from backbench.extract.cli import main


@pytest.fixture(scope="module")
def vit():
    return backbones.create("test_vit", weights="random")


@pytest.fixture(scope="module")
def resnet():
    return backbones.create("test_resnet", weights="random")


def caught(block, model, images):
    """What ``block`` gives while ``model`` runs."""
    found = []
    handle = block.register_forward_hook(lambda _, __, output: found.append(output))
    model(images)
    handle.remove()
    return found[0]


def gem(places):
    """(B, L, C), the generalised mean over L, power 3."""
    return (places.clamp(min=1e-6) ** 3).mean(1) ** (1 / 3)


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("layer", ["1", "blocks.1", "-5"])
def test_a_block_of_a_transformer(vit, images, layer):
    assert len(vit.model.blocks) == 6
    with torch.inference_mode():
        tokens = caught(vit.model.blocks[1], vit.model, images)
        token, places = tokens[:, 0], tokens[:, 1:]
        expected = {"default": token, "cls": token, "avg": places.mean(1), "gem": gem(places)}
        expected["avg+cls"] = torch.cat([places.mean(1), token], 1)
        for pool, features in expected.items():
            tapped = feature_tap.tap(vit, layer, pool)
            assert tapped.layer == "blocks.1"
            assert tapped.pooling == tapped.pool == {"default": "cls"}.get(pool, pool)
            assert tapped.num_features == features.shape[1]
            torch.testing.assert_close(tapped.model(images), features)


def test_the_last_layer_pooled_otherwise_is_normed(vit, images):
    with torch.inference_mode():
        tokens = vit.model.forward_features(images)
        assert torch.equal(feature_tap.tap(vit, "last", "avg").model(images), tokens[:, 1:].mean(1))
    for layer, pool in (("last", "default"), ("-1", "default"), ("last", "cls")):  # its own
        assert feature_tap.tap(vit, layer, pool) is vit


def test_a_stage_of_a_network_of_convolutions(resnet, images):
    with torch.inference_mode():
        maps = caught(resnet.model.layer2, resnet.model, images)
        tapped = feature_tap.tap(resnet, "layer2")
        assert tapped.pooling == "avg"
        torch.testing.assert_close(tapped.model(images), maps.mean((2, 3)))
        last = caught(resnet.model.layer4, resnet.model, images)
        torch.testing.assert_close(feature_tap.tap(resnet, "last", "gem").model(images), gem(last.flatten(2).mT))
    assert feature_tap.tap(resnet, "last", "avg") is resnet


def test_maps_with_channels_last_are_pooled_over_places():
    swin = backbones.create("swin_tiny_patch4_window7_224", weights="random")
    images = torch.rand(1, 3, 224, 224)
    with torch.inference_mode():
        maps = swin.model.forward_features(images)  # (1, 7, 7, 768)
        torch.testing.assert_close(feature_tap.tap(swin, "last", "gem").model(images), gem(maps.flatten(1, 2)))


def test_what_is_not_possible_says_what_is(resnet, vit):
    with pytest.raises(UserError, match=r"no class token there\. Use default, avg or gem"):
        feature_tap.tap(resnet, "layer3", "avg+cls")
    for layer in ("layer7", "5", "-6"):
        with pytest.raises(
            UserError, match=r"It has last, act1, layer1, layer2, layer3, layer4, or a number from 0 to 4"
        ):
            feature_tap.tap(resnet, layer)


def test_a_module_in_train_mode_stays_visible(resnet):
    resnet.model.layer1.train()
    tapped = feature_tap.tap(resnet, "layer2")
    assert any(module.training for module in tapped.from_pixels.modules())
    resnet.model.layer1.eval()
    assert not any(module.training for module in tapped.from_pixels.modules())


def test_layers_lie_side_by_side_in_files_of_their_own(tmp_path):
    for i in range(30):
        (tmp_path / "images" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.effect_noise((50, 40), 90).save(tmp_path / "images" / "ab"[i % 2] / f"{i}.png")
    how = ["--model", "test_vit", "--model", "test_resnet", "--dataset", f"folder:{tmp_path / 'images'}"]
    how += ["--weights", "random", "--json"]
    how += ["--cache-dir", str(tmp_path), "--results-dir", str(tmp_path), "--compile", "off"]
    how += ["--layer", "blocks.0", "--layer", "0", "--layer", "last", "--pool", "avg+cls"]
    result = CliRunner().invoke(main, how)
    assert result.exit_code == 1
    assert result.stderr.count("test_resnet has no such layer") == 1
    assert result.stderr.count("test_resnet has no class token there") == 2
    labels = ["test_vit.blocks.0.avg+cls", "test_vit.last.avg+cls"]
    assert [figures["model"] for figures in json.loads(result.stdout)] == labels
    for label, layer in zip(labels, ("blocks.0", "last"), strict=True):
        with open_file(tmp_path / "folder-images" / f"{label}.h5") as file:
            assert (file.identity["layer"], file.identity["pool"]) == (layer, "avg+cls")
            assert file.features.shape == (30, 128)
    again = CliRunner().invoke(main, [*how, "--pool", "cls"])
    assert "folder-images/test_vit.h5" in again.stdout  # the model's own pooling of its last layer is the plain file
