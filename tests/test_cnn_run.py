"""``cnn``, from the command to the row, the checkpoint and its uses; killed for real and gone on with."""

import json
import os
import shutil
import signal
import time

import numpy as np
import pytest
import timm
import torch
from click.testing import CliRunner

import backbench.probe.cli
import backbench.report.cli
from backbench import details, rows
from backbench.cnn.cli import main
from backbench.data import registry
from backbench.training import state
from tests import tuning

QUICK = ("--size", "small", "--pixels", "12", "--device", "cpu", "--batch-size", "64", "--set", "flip=false")


def cnn(*words, code=0, of=main):
    result = CliRunner().invoke(of, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Two runs on digits, and their rows."""
    folder = tmp_path_factory.mktemp("cnn")
    before = os.getcwd()
    os.chdir(folder)  # its runs/ and results/
    try:
        words = ("train", "--dataset", "digits", *QUICK, "--epochs", "3", "--runs", "2", "--precision", "float32")
        result = cnn(*words, "--json")
    finally:
        os.chdir(before)
    return folder, json.loads(result.stdout), words


def test_it_learns_digits(done):
    folder, found, _ = done
    assert [row["seed"] for row in found] == [42, 43]
    for row in found:
        assert (row["stage"], row["model"], row["method"]) == ("cnn", "cnn_small", "cnn/small")
        assert row["top1"] > 0.8
        assert row["top1_low"] < row["top1"] < row["top1_high"]
        assert row["chosen"].startswith("epoch ")
        n, batch = row["n_train"], row["protocol"]["batch_size"]
        assert row["steps"] == 2 * (n // batch) + round(n * 0.65) // batch  # the second epoch leaves out 0.7 of a half
        assert row["train_flops"] > 6 * row["macs"] * 3 * row["n_train"] * 0.5
    kept = rows.read(folder / "results")
    assert [row["top1"] for row in kept] == [row["top1"] for row in found]
    beside = details.of(folder / "results", kept[0])
    assert np.mean(np.equal(beside["predicted"], beside["labels"])) == pytest.approx(found[0]["top1"])


def test_a_finished_run_is_not_made_again_and_another_is_refused(done, monkeypatch):
    folder, found, words = done
    monkeypatch.chdir(folder)
    result = cnn(*words)
    assert "already complete" in result.stderr
    tops = [100 * row["top1"] for row in found]
    assert (
        f"mean top-1 of 2 runs {np.mean(tops):.2f} % (standard deviation {np.std(tops, ddof=1):.2f})" in result.stdout
    )
    error = cnn(*words, "--set", "smoothing=0.1", code=1).output
    assert "recipe.smoothing: there it was 0.2, now 0.1" in error


def test_evaluate_gives_the_row_again_by_either_command(done, tmp_path):
    folder, (row, _), _ = done
    how = ("--checkpoint", folder / "runs/digits/cnn_small-42", "--dataset", "digits", "--device", "cpu", "--json")
    same = ("stage", "method", "top1", "balanced", "nll", "val_top1", "temperature", "n_train", "macs", "train_flops")
    same = (*same, "coverage_lac_90", "set_size_raps_95")
    import backbench.finetune.cli

    for command in (main, backbench.finetune.cli.main):
        (found,) = json.loads(cnn("evaluate", *how, "--results-dir", tmp_path, of=command).stdout)
        assert {key: found[key] for key in same} == {
            key: pytest.approx(row[key]) if isinstance(row[key], float) else row[key] for key in same
        }
    (found,) = json.loads(cnn("evaluate", *how, "--results-dir", tmp_path, "--views", "none").stdout)
    assert found["protocol"]["views"] == "none"
    assert found["nll"] != row["nll"]
    lines = json.loads(cnn("table", "--results-dir", tmp_path, "--json", of=backbench.report.cli.main).stdout)
    assert {line["method"]: (line["top1"], line["seeds"]) for line in lines} == {
        "cnn/small (views all)": (pytest.approx(row["top1"]), 1), "cnn/small (views none)": (found["top1"], 1),
    }  # fmt: skip


def test_features_are_what_probe_works_on(done, tmp_path):
    """Of any set, also one of other classes."""
    folder, *_ = done
    tuning.pictures(tmp_path / "images")
    how = ("--checkpoint", folder / "runs/digits/cnn_small-42", "--dataset", f"folder:{tmp_path / 'images'}")
    made = json.loads(cnn("features", *how, "--device", "cpu", "--cache-dir", tmp_path / "cache", "--json").stdout)
    assert (made["n"], made["dim"]) == (57, 192)
    words = ("--features", tmp_path / "cache", "--results-dir", tmp_path, "--json", "--method", "centroid")
    (found,) = json.loads(cnn(*words, of=backbench.probe.cli.main).stdout)
    assert found["model"] == "cnn_small+small-scratch"
    assert found["features"]["weights"] == "tuned on digits, cnn/small, seed 42"
    assert (found["n_train"], found["n_test"]) == (24, 18)


def test_timm_loads_the_checkpoint_and_report_shows_it(done):
    folder, *_ = done
    path = folder / "runs/digits/cnn_small-42/model.safetensors"
    model = timm.create_model("cnn_small", num_classes=10, checkpoint_path=path)
    assert model(torch.randn(2, 3, 12, 12)).shape == (2, 10)
    (shown,) = json.loads(
        cnn("table", "--results-dir", folder / "results", "--json", of=backbench.report.cli.main).stdout
    )
    assert (shown["model"], shown["method"], shown["seeds"]) == ("cnn_small", "cnn/small", 2)  # of two splits
    from backbench.report import study
    from backbench.report.summary import answers

    said = [one for one in answers(study.load(folder / "results")) if "fine-tuning" in one["question"]]
    assert any("from scratch, cnn_small" in line for line in said[0]["answer"])


def test_other_settings_are_no_other_seed(done, tmp_path, monkeypatch):
    folder, (row, _), words = done
    shutil.copytree(folder / "results", tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    (found,) = json.loads(cnn(*words, "--runs", 1, "--set", "smoothing=0.1", "--seed", 44, "--json").stdout)
    lines = json.loads(cnn("table", "--json", of=backbench.report.cli.main).stdout)
    assert {line["method"]: line["seeds"] for line in lines} == {
        "cnn/small (smoothing 0.2)": 2, "cnn/small (smoothing 0.1)": 1,
    }  # fmt: skip
    assert {line["top1"] for line in lines} >= {found["top1"]}
    assert row["settings"]["smoothing"] == 0.2


def test_a_tenth_and_the_usual_split_have_rows_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("train", "--dataset", "digits", *QUICK, "--epochs", "1", "--json", "--precision", "float32")
    (tenth,) = json.loads(cnn(*words, "--train-share", "0.1").stdout)
    assert (tenth["method"], tenth["n_train"]) == ("cnn/small/share-0.1", 125)
    (usual,) = json.loads(cnn(*words, "--split", "usual").stdout)
    assert (usual["method"], usual["n_val"], usual["val_top1"]) == ("cnn/small/usual", 0, None)
    assert usual["n_train"] + usual["n_test"] == 1797
    assert not any("coverage" in key for key in usual)  # without val there are no prediction sets
    about = json.loads((tmp_path / "runs/digits/cnn_small-usual-42/model.json").read_text())
    assert about["dataset_digest"] == registry.load("digits", data_root=tmp_path).digest  # whatever it trained on
    assert usual["protocol"]["chosen_on"] == "nothing: the last epoch's weights"
    assert sorted(path.name for path in (tmp_path / "runs/digits").iterdir()) == [
        "cnn_small-share-0.1-42", "cnn_small-usual-42",
    ]  # fmt: skip


ALL = ("cutout=3", "early_scale=0.8", "early_share=0.5", "warmup=0.1", "batch_size=8", "pixels=12", "translate=2")


def test_killed_twice_the_weights_are_those_of_an_unbroken_run(tmp_path):
    tuning.pictures(tmp_path / "images", train=30)
    words = ["train", "--dataset", f"folder:{tmp_path / 'images'}", "--size", "small", "--device", "cpu"]
    words += ["--epochs", "4", "--results-dir", tmp_path / "results", "--save-every", "0"]
    words += [word for one in ALL for word in ("--set", one)]
    words = [str(word) for word in words]

    def child(name):  # a process of its own, in the precision that this machine is fastest in
        return tuning.in_child([*words, "--out", str(tmp_path / name)], "cnn")

    child("whole").join()
    kept, seen = tmp_path / "killed" / state.FILE, set()
    for _ in range(2):
        process = child("killed")
        before = kept.stat().st_mtime_ns if kept.exists() else 0
        while process.is_alive() and not (kept.exists() and kept.stat().st_mtime_ns != before):
            time.sleep(0.005)
        time.sleep(0.1)
        assert process.is_alive(), "it ended before it was killed"
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        seen.add(state.about(tmp_path / "killed")["progress"]["updates"])
    assert len(seen) == 2  # it got further between kills
    child("killed").join()
    ours, theirs = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("killed", "whole"))
    assert ours == theirs
    assert not kept.exists()


def test_a_loss_that_is_not_finite_is_said_and_leaves_nothing(tmp_path, monkeypatch):
    tuning.pictures(tmp_path / "images", train=30)
    words = ("train", "--dataset", f"folder:{tmp_path / 'images'}", *QUICK, "--out", tmp_path / "run", "--epochs", "2")
    words += ("--precision", "float32", "--set", "lr_head=100", "--set", "momentum_sgd=0.999", "--save-every", "0")
    monkeypatch.setattr("backbench.cnn.train.Trainer._gradients", lambda self, x, y: torch.tensor(float("nan")))
    error = cnn(*words, "--results-dir", tmp_path / "results", code=1).output
    assert "the loss is not finite in epoch 1. Nothing is kept. Try a lower --set lr=" in error
    assert not list((tmp_path / "run").iterdir())
    assert not (tmp_path / "results").exists()


def test_what_is_asked_wrongly_is_said_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    error = cnn("train", "--dataset", "digits", "--dataset", "cifar10", "--out", "x", code=2).output
    assert "--out names one run" in error
    error = cnn("train", "--dataset", "digit", *QUICK, code=2).output
    assert "Did you mean digits?" in error
    error = cnn(
        "train", "--dataset", "digits", "--set", "lr=-1", "--set", "momentums=2", "--pixels", "3", code=2
    ).output
    assert all(word in error for word in ("lr=-1", "Did you mean momentum", "pixels=3"))
    error = cnn("evaluate", "--checkpoint", tmp_path, "--dataset", "digits", code=1).output
    assert "A checkpoint is a folder" in error


def test_it_is_found_by_generalize_and_asked_for_the_same_views(done, tmp_path, monkeypatch):
    """At strength 1 of resolution no digit of 8 x 8 pixels changes: its accuracy is the row's own."""
    import backbench.finetune.cli

    folder, found, _ = done
    monkeypatch.chdir(tmp_path)
    words = ("generalize", "--runs", folder / "runs", "--corruption", "resolution", "--device", "cpu", "--json")
    made = json.loads(cnn(*words, of=backbench.finetune.cli.main).stdout)
    assert [(one["method"], one["strength"]) for one in made[::5]] == [("cnn/small", 1)] * 2
    assert [one["top1"] for one in made[::5]] == [row["top1"] for row in found]
    assert [one["nll"] for one in made[::5]] == pytest.approx([row["nll"] for row in found], rel=1e-4)
    assert all(one["source_top1"] == made[0]["source_top1"] for one in made[:5])
    shown = cnn("elsewhere", "--corruptions", of=backbench.report.cli.main).stdout
    assert "digits to digits+resolution-16" in shown
    assert "report generalization --corruptions" in cnn("elsewhere", of=backbench.report.cli.main, code=1).output
