"""A checkpoint on images other than its own: from the command to the table."""

import csv
import io
import json
import shutil

import pytest
from click.testing import CliRunner

import backbench.report.cli
from backbench import rows
from backbench.finetune.cli import main
from tests import tuning


def evaluate(tmp_path, dataset, code=0):
    words = [
        "evaluate",
        "--checkpoint",
        tmp_path / "run",
        "--dataset",
        f"folder:{dataset}",
        "--device",
        "cpu",
        "--json",
    ]
    result = CliRunner().invoke(main, [str(word) for word in [*words, "--results-dir", tmp_path / "results"]])
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)[0] if code == 0 else result.output


def table(tmp_path):
    """Top-1 by data set, as ``report`` shows it."""
    words = ["--results-dir", str(tmp_path / "results"), "--format", "csv"]
    result = CliRunner().invoke(backbench.report.cli.main, words)
    assert result.exit_code == 0, result.output
    return {one["dataset"]: float(one["top1"]) for one in csv.DictReader(io.StringIO(result.stdout))}


@pytest.fixture
def trained(tmp_path):
    tuning.pictures(tmp_path / "images")
    return json.loads(tuning.tune(tmp_path, "--json", strategy="full").stdout)[0]


def test_on_another_set_it_takes_no_ones_place(trained, tmp_path):
    """The set has a network of its own, trained on it: the table goes on showing that, and the first one's own."""
    other = tuning.pictures(tmp_path / "other" / "images", classes=("bee", "cat"), seed=1)  # of the same name
    own = tuning.tune(tmp_path / "other", "--json", strategy="full")
    shutil.copytree(tmp_path / "other" / "results", tmp_path / "results", dirs_exist_ok=True)
    path = tmp_path / "results" / rows.FILE
    path.write_text("".join(json.dumps(row) + "\n" for row in (trained, json.loads(own.stdout)[0])))
    before = table(tmp_path)
    assert len(before) == 2

    found = evaluate(tmp_path, other)
    assert (found["source"], found["target"]) == ("folder-images", "folder-images")
    assert (found["n_test"], found["n_classes"]) == (12, 3)
    assert found["top1"] <= found["top1_mapped_classes"]  # among three classes it is the harder question
    assert not rows.own_test(found)
    assert table(tmp_path) == before


def test_images_that_joined_train_or_moved_to_test_are_never_tested_on(trained, tmp_path):
    """The folder grew, and some images of train now lie in test, under other names."""
    folder = tmp_path / "images"
    for k in range(3):
        shutil.move(folder / "train" / "ant" / f"{k:02d}.png", folder / "test" / "ant" / f"moved-{k}.png")
        shutil.copy(folder / "test" / "bee" / f"{k:02d}.png", folder / "train" / "bee" / f"new-{k}.png")
    found = evaluate(tmp_path, folder)
    assert (found["n_seen"], found["n_test"]) == (3, 18)
    assert found["target"] == "folder-images"
    assert rows.read(tmp_path / "results")[0]["top1"] == trained["top1"]
    assert table(tmp_path) == {"folder-images": pytest.approx(trained["top1"])}


def test_an_older_checkpoint_is_refused_on_its_set_once_that_has_changed(trained, tmp_path):
    path = tmp_path / "run" / "model.json"
    about = json.loads(path.read_text())
    del about["seen"]
    path.write_text(json.dumps(about))
    assert evaluate(tmp_path, tmp_path / "images")["top1"] == pytest.approx(trained["top1"])
    shutil.copy(tmp_path / "images/train/ant/00.png", tmp_path / "images/test/ant/new.png")
    error = evaluate(tmp_path, tmp_path / "images", code=1)
    assert "none is sure to be new to it" in error
    assert "--overwrite" in error


def test_a_set_of_images_that_it_has_all_seen(trained, tmp_path):
    other = tmp_path / "other"
    for split, of in (("train", "test"), ("val", "test"), ("test", "train")):
        shutil.copytree(tmp_path / "images" / of, other / split)
    assert "no test images that are new to the checkpoint" in evaluate(tmp_path, other, code=1)


def test_no_features_of_test_images_that_it_was_trained_on(trained, tmp_path):
    shutil.copy(tmp_path / "images/train/ant/00.png", tmp_path / "images/test/ant/new.png")
    words = ["features", "--checkpoint", tmp_path / "run", "--dataset", f"folder:{tmp_path / 'images'}"]
    words += ["--device", "cpu", "--cache-dir", tmp_path / "cache"]
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 1
    assert "was trained or chosen on 1 test images" in result.output
