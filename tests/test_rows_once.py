"""A row is written once: whatever moment a run is killed at, and however often its command is repeated."""

import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from backbench import details, rows
from tests import tuning
from tests.conftest import ROOT

KILLED = """
import os, sys
from backbench.training import checkpoint
from backbench.{room}.cli import main

def killed(*args):
    os.kill(os.getpid(), 9)

checkpoint.{place} = killed
main({words})
"""


def killed(room, place, words, folder):
    """Run the room's command until it calls ``training.checkpoint.<place>``, then SIGKILL."""
    code = KILLED.format(room=room, place=place, words=words)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == -9, done.stderr.decode()


def cnn_words(tmp_path):
    words = ["train", "--dataset", "digits", "--size", "small", "--pixels", "12", "--device", "cpu", "--epochs", "1"]
    words += [
        "--batch-size",
        "256",
        "--precision",
        "float32",
        "--results-dir",
        tmp_path / "results",
        "--out",
        tmp_path / "run",
    ]
    return [str(word) for word in words]


@pytest.mark.parametrize("room", ["finetune", "cnn"])
def test_a_run_killed_between_its_row_and_its_checkpoint_has_one_row(room, tmp_path, monkeypatch):
    from backbench.cnn import cli as cnn
    from backbench.finetune import cli as finetune
    from backbench.training import job

    if room == "finetune":
        tuning.pictures(tmp_path / "images")
    words = tuning.line(tmp_path, strategy="full") if room == "finetune" else cnn_words(tmp_path)
    killed(room, "save", words, tmp_path)
    (before,) = rows.read(tmp_path / "results")

    read = []
    figures = job.Job._figures
    monkeypatch.setattr(job.Job, "_figures", lambda *args: read.append(1) or figures(*args))
    result = CliRunner().invoke({"finetune": finetune, "cnn": cnn}[room].main, [*words, "--json"])
    assert result.exit_code == 0, result.output
    assert rows.read(tmp_path / "results") == [before]
    assert len(list((tmp_path / "results" / details.FOLDER).iterdir())) == 1
    assert not read  # test was read once, before the kill
    assert json.loads(result.stdout)[0]["id"] == before["id"]
    assert json.loads((tmp_path / "run" / "model.json").read_text())["row"]["id"] == before["id"]

    again = CliRunner().invoke({"finetune": finetune, "cnn": cnn}[room].main, [*words, "--overwrite"])
    assert again.exit_code == 0, again.output
    assert len(rows.read(tmp_path / "results")) == 2  # made again on purpose: another run, another row


def extract(run, tmp_path, **how):
    words = ("--model", "test_resnet", "--weights", "random", "--precision", "float32", "--compile", "off")
    return run("extract", *words, "--dataset", f"folder:{tmp_path / 'images'}", **how)


@pytest.mark.parametrize("cards", ["known", "unknown"])
def test_extracts_row_comes_after_all(run, tmp_path, cards):
    """The kill came between the file's last byte and its row, or the results' disk was full."""
    tuning.pictures(tmp_path / "images")
    (tmp_path / "results").write_text("a file stands where the folder should")
    failed = extract(run, tmp_path)
    assert failed.returncode == 1
    assert "the result row was not written" in failed.stderr
    (tmp_path / "results").unlink()
    if cards == "unknown":  # without what is known of backbones the command goes the whole way
        (tmp_path / "cache" / "backbones.json").unlink()
    for _ in range(2):
        done = extract(run, tmp_path)
        assert done.returncode == 0, done.stderr
        (row,) = rows.read(tmp_path / "results")
    assert row["stage"] == "extract"
    assert row["seconds"] == row["features"]["seconds"] > 0


def test_an_old_row_without_an_id_is_not_doubled(run, tmp_path):
    tuning.pictures(tmp_path / "images")
    assert extract(run, tmp_path).returncode == 0
    path = tmp_path / "results" / rows.FILE
    row = json.loads(path.read_text())
    del row["id"], row["features"]["test_digest"]
    path.write_text(json.dumps(row) + "\n")
    assert extract(run, tmp_path).returncode == 0
    assert len(rows.read(tmp_path / "results")) == 1


def test_a_repeated_probe_adds_nothing_and_another_does(run, tmp_path):
    tuning.pictures(tmp_path / "images")
    assert extract(run, tmp_path).returncode == 0
    for method in ("centroid", "centroid", "ridge"):
        assert run("probe", "--method", method).returncode == 0
    assert [row["method"] for row in rows.read(tmp_path / "results")] == ["features", "centroid", "ridge"]
    assert len(list((tmp_path / "results" / details.FOLDER).iterdir())) == 2


def test_details_that_were_lost_come_back_when_the_probe_is_repeated(run, tmp_path):
    tuning.pictures(tmp_path / "images")
    assert extract(run, tmp_path).returncode == 0
    for _ in range(3):
        assert run("probe", "--method", "centroid").returncode == 0
        (row,) = rows.read(tmp_path / "results")[-1:]
        assert details.of(tmp_path / "results", row)["labels"]
        for path in (tmp_path / "results" / details.FOLDER).iterdir():
            path.unlink()
    assert len(rows.read(tmp_path / "results")) == 4
