"""Data sets with images as ``audit.csv`` decides: what is read, what ``data show`` says, and what is trained on."""

import json
import pickle

import numpy as np
import pytest
from click.testing import CliRunner

import backbench.cnn.cli
import backbench.data.cli
import backbench.extract.cli
import backbench.finetune.cli
from backbench import UserError, decisions, details, rows
from backbench.cache.features import open_file
from backbench.data import contents, registry
from backbench.data.decided import decided
from backbench.report import names
from tests import packed, tuning
from tests.test_cache_decided import audit, line


def invoke(command, *words, code=0):
    found = CliRunner().invoke(command, [str(word) for word in words])
    assert found.exit_code == code, found.output
    return found


@pytest.fixture
def folder(tmp_path):
    tuning.pictures(tmp_path / "images")
    return tmp_path


@pytest.fixture
def csv(tmp_path):
    """Two images of train and one of test left out, one of each relabelled, and one line undecided."""
    return audit(
        tmp_path / "audit.csv",
        line("train/ant/00.png", "same", "near duplicate", "test/ant/00.png"),
        line("train/bee/07.png"),
        line("test/bee/03.png"),
        line("train/bee/02.png", "wrong", "label", "cat"),
        line("test/cat/01.png", "wrong", "label", "ant"),
        line("test/cat/02.png", "", "label", "bee"),
    )


def pairs(images):
    return {images.ids[i]: images.class_names[images.labels[i]] for i in range(len(images))}


def test_a_folders_images_files_and_notes(folder, csv):
    whole = tuning.imageset(folder / "images")
    images = decided(whole, decisions.read(csv, csv))
    assert images.name == whole.name
    expected = pairs(whole) | {"train/bee/02.png": "cat", "test/cat/01.png": "ant"}
    for gone in ("train/ant/00.png", "train/bee/07.png", "test/bee/03.png"):
        del expected[gone]
    assert pairs(images) == expected
    assert images.notes == (
        *whole.notes, "3 images left out and 2 relabelled by audit.csv; 1 line is undecided."
    )  # fmt: skip
    assert [images.path(i).removeprefix(f"{images.root}/") for i in range(len(images))] == images.ids
    assert np.bincount(images.split).tolist() == [22, 15, 17]
    assert images.undecided is whole
    assert whole.undecided is whole
    assert not images.known_as(whole.digest)
    assert not images.known_as(whole.listings[0])
    assert decided(whole, None) is whole


def test_images_in_shards_stay_with_their_names_and_groups(tmp_path):
    name = packed.shards(tmp_path / "shards", train=24, test=10)
    whole = registry.load(name, data_root=tmp_path)
    out = [whole.ids[i] for i in (0, 5, 24, 33)]
    images = decided(whole, decisions.read(audit(tmp_path / "a.csv", *map(line, out))))
    again = pickle.loads(pickle.dumps(images))  # noqa: S301 - our own
    assert images.ids == [id for id in whole.ids if id not in out]
    for i, id in enumerate(images.ids):
        row = whole.ids.index(id)
        assert (images.array(i) == whole.array(row)).all()
        assert (again.array(i) == whole.array(row)).all()
        assert images.places()[i] == whole.places()[row]


def test_images_in_memory(tmp_path):
    whole = registry.load("digits", data_root=tmp_path)
    images = decided(whole, decisions.read(audit(tmp_path / "a.csv", line(whole.ids[3]))))
    assert (images.pixels[3] == whole.pixels[4]).all()
    assert images.digest != whole.digest
    assert images.test_digest == whole.test_digest or whole.split[3] == 2


def test_contents_that_are_kept_are_those_of_the_whole_folder(folder, csv, monkeypatch):
    monkeypatch.setattr(contents, "RECENT", -(10**18))
    whole = tuning.imageset(folder / "images")
    images = decided(whole, decisions.read(csv))
    contents.look(images, folder / "cache")
    assert (images.contents != b"").all()
    assert len(np.load(folder / "cache" / contents.FILE)) == len(whole)


def test_decisions_that_do_not_fit_the_data_set(folder):
    audit_csv = audit(folder / "a.csv", line("x.png"), line("train/ant/00.png", "wrong", "label", "wasp"))
    with pytest.raises(UserError) as caught:
        decided(tuning.imageset(folder / "images"), decisions.read(audit_csv, audit_csv))
    missing, unknown = caught.value.faults
    assert "decides about an image that folder-images doesn't have: x.png" in missing
    assert "the class 'wasp', which folder-images doesn't have" in unknown


def test_show(folder, csv):
    words = ("show", f"folder:{folder / 'images'}", "--json")
    whole = json.loads(invoke(backbench.data.cli.main, *words).stdout)
    found = json.loads(invoke(backbench.data.cli.main, *words, "--exclude", csv, "--relabel", csv).stdout)
    assert (whole["n_images"], found["n_images"]) == (57, 54)
    assert [one["train"] for one in found["classes"]] == [7, 6, 9]
    assert [one["test"] for one in found["classes"]] == [7, 5, 5]
    assert found["digest"] != whole["digest"]
    assert "3 images left out and 2 relabelled by audit.csv; 1 line is undecided." in found["notes"]
    said = invoke(backbench.data.cli.main, "show", "digts", "--exclude", folder / "no.csv", code=2).stderr
    assert "no data set is named 'digts'" in said
    assert "no.csv can't be read" in said


def test_what_is_left_out_is_not_missing(tmp_path):
    csv = audit(tmp_path / "a.csv", line(registry.load("digits", data_root=tmp_path).ids[0]))
    found = json.loads(invoke(backbench.data.cli.main, "show", "digits", "--exclude", csv, "--json").stdout)
    assert found["missing"] == {"classes": 0, "images": 0}


def features(folder):
    """The feature file that lp-ft starts from, as bytes, and its labels."""
    path = folder / "cache" / "folder-images" / "test_resnet.h5"
    with open_file(path) as file:
        return path.read_bytes(), file


@pytest.mark.parametrize("strategy", ["lp-ft", "full"])
def test_finetune_trains_on_what_is_left_and_keeps_the_features_of_all(folder, csv, strategy):
    how = {"strategy": strategy}
    (whole,) = json.loads(tuning.tune(folder, "--json", "--out", folder / "whole", **how).stdout)
    before = features(folder)[0] if strategy == "lp-ft" else b""
    done = tuning.tune(folder, "--json", "--exclude", csv, "--relabel", csv, **how)
    (row,) = json.loads(done.stdout)
    assert (whole["n_train"], whole["n_val"], whole["n_test"]) == (24, 15, 18)
    assert (row["n_train"], row["n_val"], row["n_test"]) == (22, 15, 17)
    assert "folder-images: 3 images left out and 2 relabelled by audit.csv; 1 line is undecided." in done.stderr
    if strategy == "lp-ft":
        assert features(folder)[0] == before
    digests = decided(tuning.imageset(folder / "images"), decisions.read(csv, csv)).digests
    assert {key: row["features"][key] for key in digests} == digests
    assert row["features"]["audited"] == {
        "of": whole["features"]["dataset_digest"], "left_out": 3, "relabelled": 2
    }  # fmt: skip
    assert len(details.of(folder / "results", row)["labels"]) == 17
    shown = names.told_apart([whole, row])
    assert [one["dataset"] for one in shown] == ["folder-images", "folder-images (3 left out, 2 relabelled)"]
    words = tuning.tune(folder, "--exclude", csv, "--relabel", csv, **how).stdout  # it is complete already
    assert words.splitlines()[1].startswith("folder-images (3 left out, 2 relabelled)")
    error = tuning.tune(folder, "--json", code=1, **how).output  # the whole set is another run
    assert "in train and val there are 2 new" in error
    again = ("--checkpoint", folder / "run", "--json")
    (same,) = json.loads(tuning.tune(folder, *again, "--exclude", csv, "--relabel", csv, command="evaluate").stdout)
    assert same["top1"] == row["top1"]
    assert "target" not in same or same["target"] is None
    assert same["features"]["audited"] == row["features"]["audited"]


def test_the_head_that_lp_ft_starts_from_has_not_seen_what_is_left_out(folder, csv, monkeypatch):
    from backbench.finetune import initialize

    fitted = []

    def logistic(data, **how):
        fitted.append((len(data.train), len(data.val), np.bincount(data.train.labels).tolist()))
        raise UserError("enough")

    monkeypatch.setattr(initialize, "Logistic", logistic)
    tuning.tune(folder, "--exclude", csv, "--relabel", csv, strategy="lp-ft", code=1)
    assert fitted == [(22, 15, [7, 6, 9])]


def test_unreadable_images_are_left_out_as_well(folder, csv):
    for name in ("train/ant/03.png", "test/bee/03.png"):
        (folder / "images" / name).write_bytes(b"no image")
    words = ("--exclude", csv, "--relabel", csv, "--on-error", "skip", "--json")
    (row,) = json.loads(tuning.tune(folder, *words, strategy="lp-ft").stdout)
    assert (row["n_train"], row["n_test"], row["n_skipped"]) == (21, 17, 1)


def test_probe_and_finetune_are_compared_on_the_same_test(folder, csv):
    """Both know what is left by the same digests."""
    from backbench.probe.cli import main as probe

    tuning.tune(folder, "--exclude", csv, "--relabel", csv, strategy="lp-ft")
    words = ("--exclude", csv, "--relabel", csv, "--results-dir", folder / "results", "--method", "centroid")
    invoke(probe, "--features", folder / "cache", *words)
    told = [details.of(folder / "results", row) for row in rows.read(folder / "results") if row.get("details")]
    assert len(told) == 2
    for key in ("dataset_digest", "test_digest", "ids_digest", "labels"):
        assert told[0][key] == told[1][key]


def test_cnn_trains_on_what_is_left(tmp_path):
    whole = registry.load("digits", data_root=tmp_path)
    train, test = np.flatnonzero(whole.split == 0), np.flatnonzero(whole.split == 2)
    n = (len(train), len(test))
    csv = audit(
        tmp_path / "a.csv",
        line(whole.ids[train[0]]),
        line(whole.ids[test[0]], "wrong", "label", whole.class_names[(whole.labels[test[0]] + 1) % 10]),
    )
    words = ("--dataset", "digits", "--size", "small", "--pixels", "12", "--device", "cpu", "--epochs", "1")
    words += ("--batch-size", "256", "--precision", "float32", "--results-dir", tmp_path / "results")
    words += ("--out", tmp_path / "run", "--json", "--exclude", csv, "--relabel", csv)
    (row,) = json.loads(invoke(backbench.cnn.cli.main, "train", *words).stdout)
    assert (row["n_train"], row["n_test"]) == (n[0] - 1, n[1])
    assert row["features"]["audited"]["of"] == whole.digest
    changed = np.flatnonzero(details.of(tmp_path / "results", row)["labels"] != whole.labels[test])
    assert changed.tolist() == [0]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (backbench.extract.cli.main, ["--model", "test_resnet", "--dataset", "digits"]),
        (backbench.finetune.cli.main, ["features", "--checkpoint", "run", "--dataset", "digits"]),
        (backbench.cnn.cli.main, ["features", "--checkpoint", "run", "--dataset", "digits"]),
    ],
)
@pytest.mark.parametrize("option", ["--exclude", "--relabel"])
def test_feature_files_are_of_whole_data_sets(command, words, option):
    said = " ".join(invoke(command, *words, option, "audit.csv", code=2).output.split())
    assert f"{option} is no option of this command: features belong to images" in said
    assert f"probe --features FILE {option} audit.csv" in said
    assert "--exclude" not in invoke(command, *words[:1] if words[0] == "features" else [], "--help").output


def test_commands_name_all_faults_at_once(folder):
    wrong = ("--exclude", folder / "no.csv", "--relabel", folder / "no2.csv")
    said = invoke(backbench.cnn.cli.main, "train", "--dataset", "digts", *wrong, code=2).output
    assert all(word in said for word in ("'digts'", "no.csv can't be read", "no2.csv can't be read"))
    said = tuning.tune(folder, *wrong, model="resnt50", code=2).output
    assert all(word in said for word in ("resnt50", "no.csv can't be read", "no2.csv can't be read"))
