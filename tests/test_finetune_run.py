"""The command from request to row, and what a checkpoint is good for afterwards."""

import csv
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from click.testing import CliRunner

import backbench.probe.cli
from backbench import coverage, details, rows
from backbench.extract import backbones, names
from backbench.finetune import initialize, run
from backbench.finetune.cli import main
from backbench.finetune.recipe import make
from tests import tuning
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A run with everything that writes a file, and its row."""
    folder = tmp_path_factory.mktemp("done")
    tuning.pictures(folder / "images")
    result = tuning.tune(folder, "--json", "--onnx", "--tracker", "tensorboard", "--wise", "0.5", model="test_vit")
    return folder, json.loads(result.stdout)[0]


def again(folder, command, *args, code=0, dataset=None):
    """A command on the checkpoint of ``folder``."""
    words = [command, "--checkpoint", folder / "run", "--dataset", dataset or f"folder:{folder / 'images'}", *args]
    words += ["--device", "cpu"] + (["--results-dir", folder / "results"] if command == "evaluate" else [])
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result


def test_the_row_is_as_the_probes(done, tmp_path):
    folder, row = done
    words = ["--features", folder / "cache", "--results-dir", tmp_path, "--json"]
    theirs = json.loads(CliRunner().invoke(backbench.probe.cli.main, [str(word) for word in words]).stdout)[0]
    assert set(row) >= set(theirs)
    assert (row["stage"], row["method"], row["model"]) == ("finetune", "finetune-simple/lp-ft, wise 0.5", "test_vit")
    assert (row["n_train"], row["n_val"], row["n_test"], row["n_classes"]) == (24, 15, 18, 3)
    kept = rows.read(folder / "results")
    ours = [one for one in kept if one["stage"] == "finetune"]
    assert ours[0]["top1"] == row["top1"]
    beside = details.of(folder / "results", ours[0])
    assert np.mean(np.equal(beside["predicted"], beside["labels"])) == pytest.approx(row["top1"])
    # The images are the probe's own, in its order: paired tests are possible.
    assert beside["ids_digest"] == details.of(tmp_path, rows.read(tmp_path)[0])["ids_digest"]


def test_what_lies_in_the_folder(done):
    folder, row = done
    assert {path.name for path in (folder / "run").iterdir()} >= {
        "model.safetensors", "model.json", "model.onnx", "history.csv", "history.png", "backbench",
    }  # fmt: skip
    assert list((folder / "run" / "backbench").glob("**/events.out.tfevents.*"))
    lines = list(csv.DictReader((folder / "run" / "history.csv").open()))
    assert [int(line["epoch"]) for line in lines] == [0, 1, 2]
    assert lines[0]["train_loss"] == ""
    assert float(lines[1]["train_loss"]) > 0
    about = json.loads((folder / "run" / "model.json").read_text())
    assert about["classes"] == ["ant", "bee", "cat"]
    assert about["row"]["top1"] == row["top1"]
    assert about["recipe"]["wise"] == 0.5


def test_onnx_gives_timms_logits_for_any_number_of_images(done):
    import onnxruntime

    folder, _ = done
    model = timm.create_model("test_vit", num_classes=3, checkpoint_path=folder / "run" / "model.safetensors").eval()
    session = onnxruntime.InferenceSession(folder / "run" / "model.onnx", providers=["CPUExecutionProvider"])
    images = torch.randn(5, *model.pretrained_cfg["input_size"])
    (theirs,) = session.run(None, {"images": images.numpy()})
    with torch.inference_mode():
        np.testing.assert_allclose(model(images).numpy(), theirs, atol=1e-3)


def test_evaluate_gives_the_row_again(done):
    folder, row = done
    found = json.loads(again(folder, "evaluate", "--json").stdout)[0]
    same = ("top1", "top5", "balanced", "top1_low", "balanced_high", "nll", "ece", "temperature", "nll_scaled",
            "ece_scaled", "val_top1", "train_top1", "n_test", "chosen", "method", "dataset",
            *coverage.KEYS)  # fmt: skip
    assert 0 < found["coverage_lac_90"] <= 1
    assert found["coverage_lac_95"] is None  # of 15 images in val
    assert {key: found[key] for key in same} == {key: pytest.approx(row[key]) for key in same}
    assert found["training_seconds"] == row["seconds"]  # its own are the evaluation's


def test_features_are_what_probe_works_on(done, tmp_path):
    folder, row = done
    again(folder, "features", "--cache-dir", tmp_path / "cache")
    words = ["--features", tmp_path / "cache", "--results-dir", tmp_path, "--json", "--method", "centroid"]
    result = CliRunner().invoke(backbench.probe.cli.main, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)[0]
    assert found["model"] == "test_vit+simple-lp-ft"
    assert found["features"]["weights"] == "tuned on folder-images, finetune-simple/lp-ft, wise 0.5, seed 42"
    assert found["n_test"] == row["n_test"]


def test_a_set_of_other_classes_is_refused(done, tmp_path):
    folder, _ = done
    other = tuning.pictures(tmp_path / "other", classes=("ant", "bee", "dog"))
    error = again(folder, "evaluate", code=1, dataset=f"folder:{other}").output
    assert "It doesn't know 1 of 3, dog" in error


def test_a_set_of_fewer_of_its_classes_is_evaluated(done, tmp_path):
    folder, _ = done
    other = tuning.pictures(tmp_path / "other", classes=("bee", "cat"), seed=1)
    found = json.loads(again(folder, "evaluate", "--json", dataset=f"folder:{other}").stdout)[0]
    assert (found["n_test"], found["n_classes"]) == (12, 3)  # asked among all classes that it knows
    assert found["target"] == "folder-other"


def test_a_finished_run_is_not_done_twice_and_another_is_refused(done):
    folder, row = done
    more = ("--wise", "0.5")
    (folder / "run" / "model.onnx").unlink()
    result = tuning.tune(folder, "--json", "--onnx", *more, model="test_vit")
    assert "already complete" in result.stderr
    assert (folder / "run" / "model.onnx").exists()
    assert json.loads(result.stdout)[0] == row | {"details": json.loads(result.stdout)[0]["details"]}
    error = tuning.tune(folder, *more, "--lr", "0.01", model="test_vit", code=1).output
    assert "recipe.lr: there it was 0.0001, now 0.01" in error
    assert "--overwrite" in error
    error = tuning.tune(folder, *more, "--exif", "apply", "--seed", "7", model="test_vit", code=1).output
    assert "transform.exif: there it was 'ignore', now 'apply'" in error
    assert "seed: there it was 42, now 7" in error
    assert "model: there it was 'test_vit', now 'test_resnet'" in tuning.tune(folder, *more, code=1).output


def test_the_half_way_weights_lie_between_start_and_end(tmp_path):
    tuning.pictures(tmp_path / "images")
    found = {}
    for share in ("0", "0.5", "1"):
        tuning.tune(tmp_path, "--wise", share, "--out", tmp_path / share, "--set", "smoothing=0", model="test_vit")
        found[share] = safetensors.torch.load_file(tmp_path / share / "model.safetensors")
    chosen = json.loads((tmp_path / "1" / "model.json").read_text())["chosen"]
    if chosen["epoch"]:
        assert not torch.equal(found["0"]["head.weight"], found["1"]["head.weight"])
    for key, tensor in found["0.5"].items():
        assert torch.allclose(tensor, (found["0"][key] + found["1"][key]) / 2, atol=1e-6), key


def test_a_rate_that_diverges_stops_with_the_best_until_then(tmp_path):
    tuning.pictures(tmp_path / "images")
    how = ("--lr", "1e6", "--set", "clip=0", "--set", "optimizer=sgd", "--set", "warmup_epochs=0", "--epochs", "5")
    for _ in range(2):  # and says the same when asked again
        error = tuning.tune(tmp_path, *how, code=1).output
        assert "diverged: the loss is not finite" in error
        assert "holds the best weights on val until then (the start" in error
        assert "Try --lr 100000 --overwrite" in error
    assert torch.isfinite(safetensors.torch.load_file(tmp_path / "run" / "model.safetensors")["fc.weight"]).all()
    assert not any(row["stage"] == "finetune" for row in rows.read(tmp_path / "results"))  # test was not read
    assert again(tmp_path, "evaluate").exit_code == 0


def test_overwrite_makes_it_again(tmp_path):
    tuning.pictures(tmp_path / "images")
    how = {"strategy": "full"}
    tuning.tune(tmp_path, "--epochs", "1", **how)
    before = json.loads((tmp_path / "run" / "model.json").read_text())
    tuning.tune(tmp_path, "--epochs", "1", "--seed", "7", "--overwrite", **how)
    assert json.loads((tmp_path / "run" / "model.json").read_text())["seed"] != before["seed"]


def test_a_run_on_other_images_is_refused_saying_how_many(tmp_path):
    images = tuning.pictures(tmp_path / "images")
    tuning.tune(tmp_path, "--epochs", "1", strategy="full")
    (images / "train" / "ant" / "00.png").rename(images / "train" / "ant" / "renamed.png")
    tuning.tune(tmp_path, "--epochs", "1", strategy="full")
    (images / "train" / "bee" / "00.png").unlink()
    shutil.copy(images / "test" / "cat" / "00.png", images / "val" / "cat" / "new.png")
    said = tuning.tune(tmp_path, "--epochs", "1", strategy="full", code=1).output
    assert "images: in train and val there are 1 fewer and 1 new" in said
    assert "--overwrite replaces that run" in said


def test_a_val_too_small_to_choose_on(tmp_path):
    tuning.pictures(tmp_path / "images", val=3)
    error = tuning.tune(tmp_path, code=1).output
    assert "val has 9 images, too few to choose weights on; at least 10 are needed. Move some" in error


def test_all_that_is_wrong_is_said_before_any_work(tmp_path):
    tuning.pictures(tmp_path / "images")
    words = "simple --model resnet51 --dataset caltech255 --device cpu --precision float32"
    found = CliRunner().invoke(main, words.split())
    assert found.exit_code == 2
    assert "resnet51" in found.output
    assert "caltech255" in found.output
    error = tuning.tune(tmp_path, "--device", "cuda:7", "--tracker", "pigeon", code=2).output
    assert "--device cuda:7: not on this machine" in error
    assert "--tracker pigeon" in error
    error = CliRunner().invoke(main, ["simple"])
    assert error.exit_code == 2
    assert "--model is missing" in error.output
    assert "--dataset is missing" in error.output
    error = tuning.tune(tmp_path, "--model", "test_vit", code=2).output
    assert "--out names one run" in error


def test_a_classifier_that_is_no_linear_layer(tmp_path):
    tuning.pictures(tmp_path / "images")
    error = tuning.tune(tmp_path, model="deit_tiny_distilled_patch16_224", code=1).output
    assert "not a single linear layer" in error
    assert "--strategy full" in error


def test_pictures_are_larger_at_the_end_where_the_architecture_takes_that(tmp_path, capsys):
    """A ViT fits its positions; a Mixer mixes 49 patches and no others, and so keeps its size."""
    found = {}
    for name in ("test_vit", "test_resnet", "mixer_s32_224"):
        backbone = backbones.create(name, weights="random")
        found[name] = initialize.fitting(backbone, make("full", epochs=8)).final_scale
    assert found == {"test_vit": 1.15, "test_resnet": 1.15, "mixer_s32_224": 1.0}
    assert "mixer_s32_224 takes images of one size only" in capsys.readouterr().err


def test_phase2_is_the_studys_five():
    assert names.resolve(["phase2"]) == ["regnety_040", "resnet50", "mlp_mixer", "pvt_v2_b3", "vit_base"]
    place = run.default_out(ROOT / "runs", "office_shift/amazon", "hf-hub:a/b", run.Recipe("simple"), 3)
    assert place.relative_to(ROOT).as_posix() == "runs/office_shift-amazon/hf-hub-a-b-simple-lp-ft-3"
    assert run.default_out(ROOT, "d", "m", run.Recipe("full", wise=0.5), 3).name == "m-full-lp-ft-wise0.5-3"
    assert run.default_out(ROOT, "d", "m", run.Recipe("full", wise="auto"), 3).name == "m-full-lp-ft-3"


def test_two_processes_come_to_what_one_does(tmp_path):
    """By ``accelerate launch``, on the CPU: within 1e-4 of each weight. They add up gradients in another order.

    ``--multi_gpu`` is accelerate's word for several processes; ``--device cpu`` says where.
    """
    tuning.pictures(tmp_path / "images")
    how = ("--set", "mixup=1", "--set", "cutmix=1")
    tuning.tune(tmp_path, *how, "--out", tmp_path / "one", model="test_vit", strategy="gradual")
    words = tuning.line(tmp_path, *how, "--out", tmp_path / "two", model="test_vit", strategy="gradual")
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
              "--mixed_precision", "no", "--dynamo_backend", "no", "--num_cpu_threads_per_process", "1"]  # fmt: skip
    command = [sys.executable, *launch, "-m", "backbench.finetune", *words]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr[-3000:]
    one, two = (safetensors.torch.load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for key, tensor in one.items():
        assert torch.allclose(tensor, two[key], atol=1e-4), key
    assert found.stdout.count("folder-images") == 1
    assert json.loads((tmp_path / "two" / "model.json").read_text())["row"]["device"].endswith("x 2")
