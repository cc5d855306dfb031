"""One corrupt image: every stage names it before it trains, and leaves it out of every split with --on-error skip."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

import backbench.cnn.cli
import backbench.extract.cli
import backbench.finetune.cli
from backbench import UserError, details, rows
from backbench.training import left_out
from tests import tuning

BROKEN = ("test/cat/00.png", "train/ant/03.png", "train/bee/05.png", "val/ant/01.png")


@pytest.fixture
def broken(tmp_path):
    """Images of three classes, four of which can't be read."""
    tuning.pictures(tmp_path / "images")
    for name in BROKEN:
        path = tmp_path / "images" / name
        path.write_bytes(path.read_bytes()[:60])
    return tmp_path


def invoke(command, *words, code=0):
    found = CliRunner().invoke(command, [str(word) for word in words])
    assert found.exit_code == code, found.output
    return found


def extract(folder, *words, code=0):
    where = ("--dataset", f"folder:{folder / 'images'}", "--cache-dir", folder / "cache")
    how = ("--weights", "random", "--device", "cpu", "--precision", "float32")
    return invoke(
        backbench.extract.cli.main, "--model", "test_resnet", *how, *where,
        "--results-dir", folder / "results", *words, code=code,
    )  # fmt: skip


def test_all_that_cant_be_read_is_found(broken):
    imageset = tuning.imageset(broken / "images")
    faults = left_out.unreadable(imageset)
    assert [imageset.ids[i] for i in faults] == list(BROKEN)
    with pytest.raises(UserError) as caught:
        left_out.stop(imageset, faults)
    assert all(name in str(caught.value) for name in BROKEN)
    assert "4 of the images of folder-images can't be read" in str(caught.value)
    assert "--on-error skip" in str(caught.value)
    rest = left_out.without(imageset, [*faults])
    assert np.bincount(rest.split).tolist() == [22, 14, 17, 4]
    assert left_out.unreadable(rest) == {}
    left_out.stop(rest, {})


@pytest.mark.parametrize("strategy", ["lp-ft", "full"])
def test_finetune_names_them_all_before_the_first_epoch(broken, strategy):
    error = tuning.tune(broken, strategy=strategy, code=1).output
    assert all(name in error for name in BROKEN)
    assert "--on-error skip" in error
    assert "epoch" not in error
    assert not (broken / "run").exists()


@pytest.mark.parametrize("strategy", ["lp-ft", "full"])
def test_finetune_leaves_them_out_of_every_split(broken, strategy):
    done = tuning.tune(broken, "--on-error", "skip", "--json", strategy=strategy)
    (row,) = json.loads(done.stdout)
    assert (row["n_train"], row["n_val"], row["n_test"], row["n_skipped"]) == (22, 14, 17, 4)
    assert "4 images of folder-images that can't be read are left out: test/cat/00.png" in done.stderr
    about = json.loads((broken / "run" / "model.json").read_text())
    assert about["identity"]["left_out"] == list(BROKEN)
    assert len(about["seen"]) == 36
    assert len(details.of(broken / "results", rows.read(broken / "results")[-1])["predicted"]) == 17
    again = tuning.tune(broken, "--on-error", "skip", "--json", strategy=strategy)
    assert "already complete" in again.stderr
    assert json.loads(again.stdout)[0]["top1"] == row["top1"]
    error = tuning.tune(broken, strategy=strategy, code=1).output
    assert "left_out: there it was ['test/cat/00.png', " in error


@pytest.mark.parametrize("strategy", ["lp-ft", "full"])
def test_finetune_starts_from_what_extract_left_out(broken, strategy, monkeypatch):
    extract(broken, "--on-error", "skip")
    error = tuning.tune(broken, strategy=strategy, code=1).output
    assert all(name in error for name in BROKEN)
    monkeypatch.setattr(left_out, "_fault", lambda *_: pytest.fail("an image was decoded only to check it"))
    done = tuning.tune(broken, "--on-error", "skip", "--json", strategy=strategy)
    assert json.loads(done.stdout)[0]["n_skipped"] == 4


def test_a_stopped_run_goes_on_without_them(broken):
    tuning.tune(broken, "--on-error", "skip", "--epochs", "2", "--out", broken / "whole", strategy="full")
    words = ("--on-error", "skip", "--epochs", "2", "--out", broken / "half")
    process = tuning.in_child(tuning.line(broken, *words, "--save-every", "0", strategy="full"))
    while not (broken / "half" / "state.safetensors").exists() and process.is_alive():
        process.join(0.05)
    process.kill()
    process.join()
    done = tuning.tune(broken, *words, "--json", strategy="full")
    (row,) = json.loads(done.stdout)
    whole = next(one for one in rows.read(broken / "results") if one["stage"] == "finetune")
    assert (row["n_skipped"], row["top1"], row["nll"]) == (4, whole["top1"], whole["nll"])


def test_a_class_that_is_left_without_train_images_is_named(tmp_path):
    tuning.pictures(tmp_path / "images")
    for path in (tmp_path / "images" / "train" / "bee").iterdir():
        path.write_bytes(b"")
    error = tuning.tune(tmp_path, "--on-error", "skip", code=1).output
    assert "1 classes have no image in train, but some in val or test: bee" in error


def test_evaluate_and_features_have_the_same_option(broken):
    tuning.tune(broken, "--on-error", "skip", "--epochs", "1", strategy="full")
    where = ("--checkpoint", broken / "run", "--dataset", f"folder:{broken / 'images'}", "--device", "cpu")
    evaluate = ("evaluate", *where, "--results-dir", broken / "results", "--json")
    error = invoke(backbench.finetune.cli.main, *evaluate, code=1).output
    assert "test/cat/00.png" in error
    (row,) = json.loads(invoke(backbench.finetune.cli.main, *evaluate, "--on-error", "skip").stdout)
    assert (row["n_test"], row["n_skipped"]) == (17, 1)
    features = ("features", *where, "--cache-dir", broken / "own", "--json")
    assert "train/bee/05.png" in invoke(backbench.finetune.cli.main, *features, code=1).output
    assert json.loads(invoke(backbench.finetune.cli.main, *features, "--on-error", "skip").stdout)["n_skipped"] == 4


def test_cnn(broken, monkeypatch):
    monkeypatch.chdir(broken)
    quick = ("--size", "small", "--pixels", "12", "--device", "cpu", "--batch-size", "8", "--epochs", "1")
    words = ("train", "--dataset", "folder:images", *quick, "--precision", "float32")
    error = invoke(backbench.cnn.cli.main, *words, code=1).output
    assert all(name in error for name in BROKEN)
    assert "--on-error skip" in error
    done = invoke(backbench.cnn.cli.main, *words, "--on-error", "skip", "--runs", "2", "--json")
    for row in json.loads(done.stdout):
        assert (row["n_train"], row["n_val"], row["n_test"], row["n_skipped"]) == (22, 14, 17, 4)
    again = invoke(backbench.cnn.cli.main, *words, "--on-error", "skip", "--runs", "2")
    assert again.stderr.count("already complete") == 2


def test_generalize(broken):
    extract(broken, "--on-error", "skip")
    tuning.tune(broken, "--on-error", "skip", "--epochs", "1", "--out", broken / "runs" / "tiny")
    tuning.pictures(broken / "there", seed=3)
    (broken / "there" / "train" / "bee" / "00.png").write_bytes(b"")
    words = ("generalize", "--runs", broken / "runs", "--heads", broken / "none", "--cache-dir", broken / "cache")
    words += ("--results-dir", broken / "results", "--device", "cpu", "--source", f"folder:{broken / 'images'}")
    words += ("--dataset", f"folder:{broken / 'there'}", "--corruption", "resolution", "--json")
    error = invoke(backbench.finetune.cli.main, *words, code=1).output
    assert "--on-error skip" in error
    found = json.loads(invoke(backbench.finetune.cli.main, *words, "--on-error", "skip").stdout)
    assert [(row["target"], row["n"], row["n_skipped"]) for row in found[:2]] == [
        ("folder-there", 56, 1),
        ("folder-images+resolution-224", 17, 1),
    ]


def test_features_that_dont_fit_name_extracts_command(tmp_path):
    tuning.pictures(tmp_path / "images")
    extract(tmp_path, "--feature-dtype", "float16")
    for more in ((), ("--overwrite",)):
        error = " ".join(tuning.tune(tmp_path, *more, code=1).output.split())
        command = f"extract --model test_resnet --dataset folder:{tmp_path / 'images'} --weights random --overwrite"
        assert command in error
        assert error.count("--overwrite") == error.count(command)
