"""Files of weights as trainers write them, and files that are none."""

import gzip
import io
import tarfile
import zipfile
from argparse import Namespace

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from backbench import UserError
from backbench.extract import backbones, weights_file

MODEL = "test_resnet"


@pytest.fixture(scope="module")
def trained():
    """The state dict of a model with a classifier of 3 classes."""
    torch.manual_seed(0)
    return timm.create_model(MODEL, num_classes=3).state_dict()


@pytest.fixture(scope="module")
def digest(trained):
    model = timm.create_model(MODEL, num_classes=0)
    model.load_state_dict({key: value for key, value in trained.items() if not key.startswith("fc.")})
    return backbones.digest(model)


def saved(place, content) -> str:
    torch.save(content, place)
    return str(place)


def loaded(place) -> str:
    return backbones.create(MODEL, weights=str(place)).weights_sha256


def below(prefix, tensors) -> dict:
    return {prefix + key: value for key, value in tensors.items()}


def other(tensors) -> dict:
    return {key: value + 1 if value.is_floating_point() else value for key, value in tensors.items()}


@pytest.mark.parametrize("ending", ["pth", "pth.tar", "ckpt", "pt", "bin", "model", "safetensors"])
def test_the_content_decides_not_the_ending(tmp_path, trained, digest, ending):
    assert loaded(saved(tmp_path / f"checkpoint-1.{ending}", {"state_dict": trained, "epoch": 1})) == digest
    save_file(trained, tmp_path / f"other.{ending}")
    assert loaded(tmp_path / f"other.{ending}") == digest


@pytest.mark.parametrize(
    "prefix",
    ["module.", "_orig_mod.", "model.", "backbone.", "encoder.", "net.", "module._orig_mod.", "_orig_mod.module.",
     "model.backbone.", "module.model.encoder.", "model._fsdp_wrapped_module.", "visual.trunk."],
)  # fmt: skip
def test_wrappers_prefixes(tmp_path, trained, digest, prefix):
    assert loaded(saved(tmp_path / "last.ckpt", {"state_dict": below(prefix, trained), "global_step": 7})) == digest


def test_as_lightning_writes_it(tmp_path, trained, digest, capsys):
    """With a head of the wrapper's own beside the backbone, hyperparameters, and the optimizer's tensors."""
    state = below("backbone.", trained) | {"head.weight": torch.zeros(3, 96), "head.bias": torch.zeros(3)}
    optimizer = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    content = {"state_dict": state, "optimizer_states": [optimizer], "hyper_parameters": {"lr": 0.1}}
    assert loaded(saved(tmp_path / "epoch=1.ckpt", content)) == digest
    assert "2 tensors outside state_dict.backbone are left out: head.weight, head.bias." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("taken", "beside"),
    [("state_dict_ema", "state_dict"), ("model_ema", "model"), ("ema", "state_dict"), ("teacher", "student"),
     ("model", "optimizer")],
)  # fmt: skip
def test_which_of_several_is_taken_is_said(tmp_path, trained, digest, taken, beside, capsys):
    path = saved(tmp_path / "w.pth", {beside: other(trained), taken: below("module.", trained), "epoch": 3})
    assert loaded(path) == digest
    assert f"w.pth: {taken}.module is taken; it also holds {beside}." in capsys.readouterr().err


def test_two_networks_below_prefixes_of_one_state_dict(tmp_path, trained, digest, capsys):
    state = below("encoder_k.", other(trained)) | below("encoder_q.", trained) | {"queue": torch.zeros(2)}
    assert loaded(saved(tmp_path / "moco.pth.tar", {"state_dict": state})) == digest
    said = capsys.readouterr().err
    assert "state_dict.encoder_q is taken; it also holds state_dict.encoder_k" in said
    assert "1 tensors outside state_dict.encoder_q are left out: queue" in said


def test_a_complete_state_dict_goes_before_a_part_of_an_average(tmp_path, trained, digest):
    part = {key: value for key, value in other(trained).items() if not key.startswith("layer4")}
    assert loaded(saved(tmp_path / "w.pth", {"ema": part, "model": trained})) == digest


@pytest.mark.parametrize("classes", [1, 1000])
def test_a_head_of_any_size_is_not_needed(tmp_path, trained, digest, classes):
    state = trained | {"fc.weight": torch.zeros(classes, 96), "fc.bias": torch.zeros(classes)}
    assert loaded(saved(tmp_path / "w.pth", state)) == digest
    assert loaded(saved(tmp_path / "w.pth", {k: v for k, v in state.items() if not k.startswith("fc.")})) == digest


def test_a_head_with_a_norm_of_its_own_is_not_needed(tmp_path):
    torch.manual_seed(0)
    model = timm.create_model("levit_128s", num_classes=3)
    assert "head.bn.weight" in model.state_dict()
    backbone = backbones.create("levit_128s", weights=saved(tmp_path / "w.pth", {"model": model.state_dict()}))
    image = torch.rand(1, 3, 224, 224)
    with torch.inference_mode():
        assert torch.equal(backbone.model(image), model.eval().forward_features(image).mean(1))


def test_what_trainers_keep_beside_the_weights(tmp_path, trained, digest):
    content = {"state_dict": trained, "args": Namespace(lr=0.1), "best": np.float64(71.5), "metric": np.float32(1)}
    assert loaded(saved(tmp_path / "w.pth", content)) == digest


def test_what_the_file_has_and_the_model_expects(tmp_path, trained):
    wide = {**trained, "conv1.0.weight": torch.zeros(1, 2), "extra.weight": torch.zeros(1)}
    wide = {key: value for key, value in wide.items() if not key.startswith(("layer3", "layer4"))}
    with pytest.raises(UserError) as caught:
        backbones.create(MODEL, weights=saved(tmp_path / "w.pth", wide))
    said = str(caught.value)
    assert "w.pth doesn't fit test_resnet: it lacks " in said
    assert "it holds 1 that the model doesn't have: extra.weight;" in said
    assert "1 are of another shape or kind: conv1.0.weight (1, 2) where the model has (" in said
    assert said.count("layer3") + said.count("layer4") == 5  # examples, not all
    assert "--model" in said
    whole = {key: value.to(torch.int8) for key, value in trained.items()}
    with pytest.raises(UserError, match="of integers where the model has"):
        backbones.create(MODEL, weights=saved(tmp_path / "int8.pth", whole))


def test_a_deeper_model_is_not_taken_for_a_shallower(tmp_path):
    """resnet26's tensors all lie in resnet50, by name and shape."""
    deep = timm.create_model("resnet50", num_classes=0).state_dict()
    with pytest.raises(UserError, match=r"doesn't fit resnet26: it holds \d+ that the model doesn't have: layer1\.2"):
        backbones.create("resnet26", weights=saved(tmp_path / "w.pth", deep))


def test_weights_that_diverged_are_named(tmp_path, trained):
    trained = trained | {"conv1.0.weight": trained["conv1.0.weight"] * float("nan")}
    with pytest.raises(UserError, match=r"w\.pth has NaN or infinite values in 1 tensors: conv1\.0\.weight.*earlier"):
        backbones.create(MODEL, weights=saved(tmp_path / "w.pth", trained))


def tar_of(name) -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(name))
    return held.getvalue()


def zip_of(**files) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name.replace("_", "."), content)
    return held.getvalue()


NOT_WEIGHTS = {
    b"<!DOCTYPE html><html>Sign in</html>": "it is a web page or an error message",
    b"\n  <html>": "it is a web page",
    b"\xef\xbb\xbf<?xml version='1.0'?><Error>AccessDenied</Error>": "it is a web page or an error message",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n": r"a git-LFS pointer.*git lfs pull",
    b'{"architecture": "resnet18"}': "it is JSON",
    b"": "it is empty",
    b"\x89HDF\r\n\x1a\n": "HDF5",
    b"\x93NUMPY\x01\x00": "an array of NumPy",
    gzip.compress(b"weights"): "compressed by gzip",
    tar_of("weights.pth"): r"is a tar archive\. Unpack it with tar -xf",
    zip_of(a_npy=b"1", b_npy=b"2"): "it holds arrays of NumPy",
    zip_of(a_pth=b"1", b_txt=b"2"): r"a zip archive of a\.pth, b\.txt",
    zip_of(data_pkl=bytes(100_000)): "over 8 times its size",
    b"garbage" * 9: "neither safetensors nor a file of torch.save. It may have been cut off",
}


@pytest.mark.parametrize(("content", "said"), NOT_WEIGHTS.items(), ids=NOT_WEIGHTS.values())
def test_what_is_no_weights_is_called_what_it_is(tmp_path, content, said):
    (tmp_path / "w.pth").write_bytes(content)
    for asked in (weights_file.check, weights_file.read):  # at once, and where a folder's weights are read
        with pytest.raises(UserError, match=said):
            asked(tmp_path / "w.pth")


def test_a_cut_file_and_programs(tmp_path, trained):
    path = tmp_path / "w.pth"
    saved(path, trained)
    (tmp_path / "cut.pth").write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(UserError, match=r"cut\.pth can't be read as tensors"):
        weights_file.read(tmp_path / "cut.pth")
    with pytest.warns((DeprecationWarning, FutureWarning)):
        torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))
    with pytest.raises(UserError, match=r"TorchScript program.*state_dict"):
        weights_file.read(path)
    saved(path, torch.nn.Linear(2, 2))
    with pytest.raises(UserError, match=r"holds objects of torch.nn.*never loaded.*save its tensors alone"):
        weights_file.read(path)
    saved(path, [torch.zeros(2)])
    with pytest.raises(UserError, match=r"holds no tensors by name.*but a list"):
        loaded(path)


def test_a_folder_of_weights(tmp_path):
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(UserError, match=r"is a folder\. Give a file in it: model\.safetensors\."):
        weights_file.check(str(tmp_path))


def test_a_checkpoint_of_finetunes_own_is_said_to_be_one(tmp_path, trained, digest, capsys):
    save_file(trained, tmp_path / "model.safetensors", {"backbench": "{}"})
    assert loaded(tmp_path / "model.safetensors") == digest
    assert "finetune features --checkpoint" in capsys.readouterr().err
