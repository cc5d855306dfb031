"""Heads and checkpoints as files: their probabilities are ours, and what goes wrong leaves nothing half-written."""

import errno
import json
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import timm
import torch
from click.testing import CliRunner

import backbench.cnn.model  # noqa: F401  registers its networks
from backbench import UsageError, UserError
from backbench.export import hub, network
from backbench.export.cli import main
from backbench.export.run import AGREE, run
from backbench.predict import find
from backbench.probe import predict
from backbench.training import checkpoint, checkpoint_kind, onnx
from tests import exportable, tuning

NAMES = {"model.safetensors", "config.json", "model.onnx", "classify.py", "README.md"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A head, the features it was made for, and what was exported of it."""
    folder = tmp_path_factory.mktemp("made")
    head, path = exportable.head(folder)
    found = run(head, folder / "out", dataset=f"folder:{folder / 'images'}", results_dir=folder)
    return SimpleNamespace(folder=folder, head=head, features=path, out=folder / "out", found=found)


def session(out):
    return onnxruntime.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])


def pixels(out, n=5):
    size = session(out).get_inputs()[0].shape[1:]
    return np.random.default_rng(3).integers(0, 256, (n, *size), np.uint8)


def by_timm(model, images):
    config = timm.data.resolve_data_config(pretrained_cfg=model.pretrained_cfg)
    mean, std = (torch.tensor(config[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.inference_mode():
        return model.eval()((torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - mean) / std)


def test_what_is_written_and_said(made):
    assert {path.name for path in made.out.iterdir()} == NAMES == {*made.found["files"]}
    assert made.found["checked_on"] == "18 test images of folder-images"
    assert made.found["difference"].keys() == {"model.safetensors", "model.onnx"}
    assert 0 < max(made.found["difference"].values()) < made.found["tolerance"] == AGREE
    assert (made.found["left_out"], made.found["pushed"]) == ({}, None)
    assert not [path for path in made.folder.iterdir() if path.name.startswith(".")]
    assert len({path.stat().st_mode for path in made.out.iterdir()}) == 1


def test_the_graph_says_what_probe_predict_says_of_the_images(made):
    """By the features in the file, which were computed by extract, and by timm's own way of reading images."""
    said = predict.predict(made.head, made.features)
    imageset = tuning.imageset(made.folder / "images")
    backbone, _ = find.at(made.head).backbone(torch.device("cpu"))
    images = np.stack([backbone.transform()(imageset.read(i)) for i in range(len(imageset))])
    images = images.transpose(0, 2, 3, 1)
    (theirs,) = session(made.out).run(["probabilities"], {"pixels": images})
    assert [imageset.class_names[k] for k in theirs.argmax(1)] == said.classes
    np.testing.assert_allclose(theirs.max(1), said.probability, atol=0.02)  # for timm rounds pixels otherwise
    assert len({*said.classes}) > 1


def test_logits_are_those_of_the_head_at_its_temperature(made):
    probabilities, logits = session(made.out).run(None, {"pixels": pixels(made.out)})
    backbone, _ = find.at(made.head).backbone(torch.device("cpu"))
    with torch.inference_mode():
        x = backbone.from_pixels(torch.from_numpy(pixels(made.out)).permute(0, 3, 1, 2)).numpy()
    scores = find.at(made.head).saved.head.scores(x)
    np.testing.assert_allclose(logits, scores / 0.5, atol=1e-3)
    np.testing.assert_allclose(probabilities, np.exp(logits) / np.exp(logits).sum(1, keepdims=True), atol=1e-6)


def test_timm_loads_it_by_its_folder_and_by_its_file(made):
    by_folder = timm.create_model(f"local-dir:{made.out}", pretrained=True)
    by_file = timm.create_model("test_resnet", num_classes=3, checkpoint_path=made.out / "model.safetensors")
    images = pixels(made.out)
    (wanted,) = session(made.out).run(["probabilities"], {"pixels": images})
    for model in (by_folder, by_file):
        np.testing.assert_allclose(by_timm(model, images).softmax(1).numpy(), wanted, atol=AGREE)
    assert by_folder.pretrained_cfg["label_names"] == ["ant", "bee", "cat"]
    config = timm.data.resolve_data_config(pretrained_cfg=by_folder.pretrained_cfg)
    wanted = find.at(made.head).backbone(torch.device("cpu"))[0].config
    assert {key: [*v] if isinstance(v, list | tuple) else v for key, v in config.items()} == {
        key: [*v] if isinstance(v, list | tuple) else v for key, v in wanted.items()
    }


def test_metadata_tell_a_program_all_that_it_needs(made):
    found = {key: json.loads(value) for key, value in session(made.out).get_modelmeta().custom_metadata_map.items()}
    assert found["classes"] == ["ant", "bee", "cat"]
    assert found["temperature"] == 0.5
    assert found["licence"] == "unknown"
    assert found["source"]["weights"] == "random, seed 42"
    size = found["preprocessing"]["input_size"]
    assert found["preprocessing"]["resized"] == [int(size[1] / found["preprocessing"]["crop_pct"])] * 2
    assert found["preprocessing"]["exif"] == "ignore"


def test_another_layer_is_a_graph_alone(tmp_path):
    head, _ = exportable.head(tmp_path, layer="layer3")
    found = run(head, tmp_path / "out", data_root=tmp_path, results_dir=tmp_path)
    assert found["files"].keys() == {"model.onnx", "classify.py", "README.md"}
    assert "--layer layer3 --pool avg" in found["left_out"]["model.safetensors"]
    assert "--layer layer3 --pool avg" in (tmp_path / "out" / "README.md").read_text()
    assert found["checked_on"] == "32 parts of scikit-learn's two sample photos"
    assert found["difference"]["model.onnx"] < AGREE


def test_a_fine_tuned_run_with_its_temperature(tmp_path):
    folder = exportable.run(tmp_path)
    found = run(folder / "model.json", tmp_path / "out", data_root=tmp_path, results_dir=tmp_path)
    assert {*found["files"]} == NAMES
    images = pixels(tmp_path / "out")
    (theirs,) = session(tmp_path / "out").run(["probabilities"], {"pixels": images})
    ours = by_timm(checkpoint.load(folder).model, images)
    np.testing.assert_allclose(theirs, (ours / 0.5).softmax(1).numpy(), atol=AGREE)
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    np.testing.assert_allclose(theirs, by_timm(model, images).softmax(1).numpy(), atol=AGREE)


def test_a_network_of_our_own_with_its_views(tmp_path):
    folder = exportable.run(tmp_path, "cnn_small", views="all")
    found = run(folder, tmp_path / "out", data_root=tmp_path, results_dir=tmp_path)
    assert found["files"].keys() == {"model.onnx", "classify.py", "README.md"}
    assert "cnn_small is a network of backbench's own" in found["left_out"]["model.safetensors"]
    images = pixels(tmp_path / "out")
    (theirs,) = session(tmp_path / "out").run(["probabilities"], {"pixels": images})
    tuned = checkpoint.load(folder)
    scorer, tuned.model.pretrained_cfg = checkpoint_kind.scorer(tuned), tuned.config
    scorer.pretrained_cfg = tuned.config
    ours, alone = (by_timm(model, images) / 0.5 for model in (scorer, tuned.model))
    np.testing.assert_allclose(theirs, ours.softmax(1).numpy(), atol=AGREE)
    assert np.abs(theirs - alone.softmax(1).numpy()).max() > 10 * AGREE


def test_a_folder_with_other_files_is_refused_and_overwritten_beside_them(made, tmp_path, no_graph):
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    (out / "model.safetensors").write_text("of an earlier export")
    with pytest.raises(UserError, match=r"holds model\.safetensors, notes\.txt.*--overwrite"):
        run(made.head, out)
    (out / "model.onnx").write_text("of an earlier export")
    run(made.head, out, overwrite=True, data_root=tmp_path, results_dir=tmp_path)
    assert {path.name for path in out.iterdir()} == {"notes.txt", "model.safetensors", "config.json", "README.md"}
    assert (out / "model.safetensors").stat().st_size > 1000
    assert (out / "notes.txt").read_text() == "mine"


def test_all_faults_of_a_request_are_told_together(made, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(onnx.util, "find_spec", lambda name: None)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError) as caught:
        run(tmp_path / "nothing", tmp_path / "file", push="nobody")
    said = str(caught.value)
    assert "is a file. Name a folder" in said
    assert "export needs onnx, onnxruntime, onnxscript: pip install 'backbench[onnx]'" in said
    assert "--push nobody: OWNER/NAME is expected" in said
    assert "does not exist" in said


@pytest.mark.parametrize("of", ["head", "run"])
def test_a_heads_and_a_runs_own_folder_is_never_written(tmp_path, made, of):
    folder = made.head if of == "head" else exportable.run(tmp_path)
    with pytest.raises(UserError, match="holds a head or a run itself"):
        run(folder, folder, overwrite=True)


def test_a_run_that_diverged_is_refused(tmp_path):
    folder = exportable.run(tmp_path)
    about = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(about | {"ended": "diverged at step 3"}))
    with pytest.raises(UserError, match="diverged"):
        run(folder, tmp_path / "out")


def test_a_full_disk_leaves_nothing(made, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(onnx, "write", full)
    with pytest.raises(UserError, match=r"out can't be written: No space left on device\. Make room there"):
        run(made.head, tmp_path / "out", data_root=tmp_path, results_dir=tmp_path)
    assert not [*tmp_path.iterdir()]


def test_other_probabilities_than_ours_are_not_written(made, tmp_path, monkeypatch, no_graph):
    """Nor pushed."""
    ours = network.Trained.probabilities
    monkeypatch.setattr(network.Trained, "probabilities", lambda *given: ours(*given) ** 1.01)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    monkeypatch.setattr(hub, "push", None)
    with pytest.raises(UserError, match=r"model\.safetensors gives other probabilities than backbench, by up to"):
        run(made.head, tmp_path / "out", data_root=tmp_path, results_dir=tmp_path, push="me/it")
    assert not [*tmp_path.iterdir()]


@pytest.fixture
def no_graph(monkeypatch):
    """As where torch can't export the model, which saves some seconds."""

    def none(*_, **__):
        raise onnx.NoGraph("an operator is not known")

    monkeypatch.setattr(onnx, "write", none)


def test_a_model_that_no_exporter_takes_is_left_out_with_the_reason(made, tmp_path, no_graph):
    found = run(made.head, tmp_path / "out", data_root=tmp_path, results_dir=tmp_path)
    assert found["files"].keys() == {"model.safetensors", "config.json", "README.md"}
    assert found["left_out"] == {"model.onnx": "an operator is not known"}


def test_the_command_prints_a_table_or_json(made, tmp_path, monkeypatch, no_graph):
    monkeypatch.chdir(tmp_path)
    words = [str(made.head), "--dataset", f"folder:{made.folder / 'images'}"]
    shown = CliRunner().invoke(main, [*words, "--out", "a"])
    assert shown.exit_code == 0, shown.output
    assert "checked on 18 test images of folder-images, where 0.0001 is allowed" in shown.stdout
    again = CliRunner().invoke(main, [*words, "--out", "a"])
    assert (again.exit_code, "--overwrite" in again.output) == (1, True)
    found = json.loads(CliRunner().invoke(main, [*words, "--out", "a", "--overwrite", "--json"]).stdout)
    assert found["files"].keys() == {"model.safetensors", "config.json", "README.md"}
    assert "There is no model.onnx: an operator is not known." in shown.stdout
