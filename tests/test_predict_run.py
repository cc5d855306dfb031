"""``backbench predict``: heads and a checkpoint, trained in small, on images that nobody has sorted."""

import csv
import io
import json
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import backbench as bb
from backbench import findings
from backbench.cache.features import open_file
from backbench.data import unlabelled
from backbench.predict import find, run
from backbench.predict.cli import main
from backbench.probe import predict as probe_predict
from backbench.probe.cli import main as probe
from tests import trained
from tests.conftest import ROOT
from tests.test_extract_hub import hub  # noqa: F401 - a fixture
from tests.trained import invoke


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Four heads and a checkpoint of ant, bee and cat, and their test images in one flat folder."""
    home = trained.build(tmp_path_factory.mktemp("predict"), "logistic", "ridge", "centroid", "knn")
    (home / "flat").mkdir()
    for image in (home / "images" / "test").glob("*/*.png"):
        shutil.copy(image, home / "flat" / f"{image.parent.name}-{image.name}")
    return home


def heads(home, *methods):
    return [home / "heads" / "folder-images" / f"test_resnet-{method}" for method in methods]


def ask(home, *words, code=0, **how):
    return invoke(main, *words, "--cache-dir", home / "cache", "--device", "cpu", code=code, **how)


def as_json(done):
    return {one["id"]: one for one in json.loads(done.stdout)["predictions"]}


def test_a_head_says_of_a_flat_folder_what_it_says_of_its_features(home):
    (folder,) = heads(home, "logistic")
    found = as_json(ask(home, folder, home / "flat", "--json"))
    path = home / "cache" / "folder-images" / "test_resnet.h5"
    other = probe_predict.predict(folder, path)
    known = dict(zip(other.ids, zip(other.classes, other.probability, strict=True), strict=True))
    assert len(found) == 18
    for id, one in found.items():
        name, p = known["test/" + id.replace("-", "/")]
        assert (one["class"], one["probability"]) == (name, pytest.approx(p, abs=1e-6))
        assert sum(one[f"probability{end}"] for end in ("", "_2", "_3")) == pytest.approx(1)


def test_a_checkpoint_says_what_its_network_says(home):
    import torch

    from backbench.extract import backbones
    from backbench.training import checkpoint

    folder = home / "runs" / "images" / "tiny"
    found = as_json(ask(home, folder, home / "flat", "--json"))
    tuned = checkpoint.load(folder)
    transform = backbones.Backbone("", "", "", tuned.model, tuned.config).transform()
    t = find.at(folder).temperature
    for id, one in found.items():
        pixels = torch.as_tensor(np.asarray(transform(Image.open(home / "flat" / id).convert("RGB"))))[None]
        images = (pixels / 255 - torch.tensor(tuned.config["mean"])[:, None, None]) / torch.tensor(tuned.config["std"])[
            :, None, None
        ]
        with torch.inference_mode():
            p = (tuned.model(images) / t).softmax(1)[0].numpy()
        assert one["class"] == tuned.about["classes"][p.argmax()]
        assert one["probability"] == pytest.approx(float(p.max()), abs=1e-4)


def test_the_same_images_are_not_seen_twice_whatever_they_are_called(home, monkeypatch, tmp_path):
    (folder,) = heads(home, "logistic")
    first = ask(home, folder, home / "flat", "--csv").stdout
    monkeypatch.setattr("backbench.data.decode.read", None)
    assert ask(home, folder, home / "flat", "--csv").stdout == first
    shutil.copytree(home / "flat", tmp_path / "moved")
    moved = ask(home, folder, tmp_path / "moved", "--csv").stdout
    assert moved == first
    monkeypatch.setattr("backbench.extract.backbones.create", None)
    assert ask(home, folder, tmp_path / "moved", "--csv").stdout == first


def test_an_inbox_whose_images_are_all_new_is_no_fault(home, tmp_path):
    (folder,) = heads(home, "logistic")
    for k in range(2):
        shutil.rmtree(tmp_path / "inbox", ignore_errors=True)
        (tmp_path / "inbox").mkdir()
        for name in ("ant", "bee", "cat"):
            shutil.copy(home / "flat" / f"{name}-0{k}.png", tmp_path / "inbox")
        assert len(as_json(ask(home, folder, tmp_path / "inbox", "--json"))) == 3


def test_unreadable_images_are_named_and_passed_over(home, tmp_path):
    (folder,) = heads(home, "logistic")
    shutil.copy(home / "flat" / "ant-00.png", tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    for _ in range(2):
        done = ask(home, folder, tmp_path, "--csv")
        assert [line["id"] for line in csv.DictReader(io.StringIO(done.stdout))] == ["a.png"]
        assert "1 image can't be read and is passed over: b.png (" in done.stderr
    (tmp_path / "a.png").unlink()
    assert "none of the 1 images can be read" in ask(home, folder, tmp_path, code=1).stderr


def test_folders_named_as_classes_tell_the_accuracy(home):
    (folder,) = heads(home, "logistic")
    done = ask(home, folder, home / "images" / "test", home / "flat", "--json")
    accuracy = json.loads(done.stdout)["accuracy"]
    row = json.loads((home / "results" / "rows.jsonl").read_text().splitlines()[1])
    assert accuracy["n"] == 18
    assert accuracy["top1"] == pytest.approx(row["top1"])
    assert "18 of 36 images lie in folders named as a class: top-1" in done.stderr


def test_nor_do_those_that_a_head_was_fitted_on_without_what_an_audit_left_out(home, tmp_path):
    """Its data set is not the feature file's any more, but its train images still are in there."""
    audit = tmp_path / "audit.csv"
    findings.write(audit, [findings.Finding("train/ant/00.png", "outlier", "", "", "wrong")])
    features = home / "cache" / "folder-images" / "test_resnet.h5"
    words = ("--features", features, "--exclude", audit, "--save", tmp_path / "heads", "--results-dir", tmp_path)
    invoke(probe, *words)
    (folder,) = (path.parent for path in (tmp_path / "heads").rglob("head.json"))
    shutil.copytree(home / "images", tmp_path / "moved")
    for images in (tmp_path / "moved", home / "images"):
        done = ask(home, folder, images, "--json")
        assert json.loads(done.stdout)["accuracy"]["n"] == 18
        assert "39 images don't count for the accuracy" in done.stderr


@pytest.mark.parametrize("which", ["head", "checkpoint"])
def test_images_that_it_was_fitted_or_chosen_on_do_not_count(home, tmp_path, which):
    """The folder is its own data set's, under another name: images are known by content."""
    folder = heads(home, "logistic")[0] if which == "head" else home / "runs" / "images" / "tiny"
    shutil.copytree(home / "images", tmp_path / "moved")
    done = ask(home, folder, tmp_path / "moved", "--json")
    assert json.loads(done.stdout)["accuracy"]["n"] == 18
    assert "39 images don't count for the accuracy" in done.stderr


def test_several_heads_answer_together(home):
    each = [
        as_json(ask(home, folder, home / "flat", "--json")) for folder in heads(home, "logistic", "ridge", "centroid")
    ]
    for how in ("mean", "vote"):
        done = ask(home, *heads(home, "logistic", "ridge", "centroid"), home / "flat", "--json", "--combine", how)
        for id, one in as_json(done).items():
            said = [other[id]["class"] for other in each]
            assert one["votes"] == said.count(one["class"])
            if how == "vote":
                assert one["votes"] == max(map(said.count, said))
            ends = ("", "_2", "_3")
            shares = [{other[id][f"class{end}"]: other[id][f"probability{end}"] for end in ends} for other in each]
            mean = {name: np.mean([share[name] for share in shares]) for name in ("ant", "bee", "cat")}
            assert one["probability"] == pytest.approx(mean[one["class"]])
            if how == "mean":
                assert mean[one["class"]] == pytest.approx(max(mean.values()))


@pytest.mark.parametrize("which", ["logistic", "knn", "checkpoint"])
@pytest.mark.parametrize("kind", ["lac", "raps"])
def test_sets_and_unknown_images_by_what_val_says(home, which, kind):
    folder = home / "runs" / "images" / "tiny" if which == "checkpoint" else heads(home, which)[0]
    done = ask(home, folder, home / "flat", "--json", "--sets", "0.8", "--set-kind", kind, "--unknown", "0.3")
    one = find.at(folder)
    (path,) = run.extracted([one], unlabelled_flat(home), cache_dir=home / "cache", device="cpu", skip=True)
    with open_file(path) as file:
        rows = np.arange(18)
        scores, features = one.score(file, rows), np.asarray(file.features)
        p = np.exp(scores / one.temperature) / np.exp(scores / one.temperature).sum(axis=1, keepdims=True)
        within = one.reference.sets(p, level=0.8, kind=kind)
        known = one.reference.p_known(*one.strangeness(scores, features))
        for i, id in enumerate(file.ids):
            told = as_json(done)[id]
            assert set(told["set"]) == {name for k, name in enumerate(one.classes) if within[i, k]}
            assert told["set"][0] == told["class"]
            assert told["p_known"] == pytest.approx(known[i])
            assert told["unknown"] == (known[i] <= 0.3)
    assert f"{(known <= 0.3).sum()} of 18 images are called none of these" in done.stderr


def unlabelled_flat(home):
    return unlabelled.images([str(home / "flat")], exif="ignore", data_root=home)


def test_too_few_val_images_for_what_is_asked_are_told(home):
    done = ask(home, *heads(home, "ridge"), home / "flat", "--json", "--sets", "0.95", "--unknown", "0.05")
    assert "15 val images, and sets with a coverage of 0.95 take 19: each set is all classes." in done.stderr
    assert "15 val images, and a false-alarm rate of 0.05 take 19: no image is called unknown." in done.stderr
    assert all(len(one["set"]) == 3 and not one["unknown"] for one in as_json(done).values())


def test_images_of_other_things_are_warned_of(home, tmp_path, monkeypatch):
    """Of 15 val images and itself a new image is one of 16, so that no p-value is below 6.25 %."""
    monkeypatch.setattr(run, "STRANGE", 0.07)
    for i in range(6):
        Image.new("RGB", (40, 40), (250, 40 * i, 250)).save(tmp_path / f"{i}.png")
    (folder,) = heads(home, "logistic")
    assert "100 % of these images are stranger" in ask(home, folder, tmp_path).stderr
    assert "Warning" not in ask(home, folder, home / "flat").stderr


def test_paths_from_standard_input_and_a_file_for_the_answer(home, tmp_path):
    (folder,) = heads(home, "ridge")
    names = [str(home / "flat" / name) for name in ("cat-01.png", "ant-01.png")]
    done = ask(home, folder, "-", "--out", tmp_path / "a.csv", "--top", "2", input="\n".join(names))
    lines = list(csv.DictReader((tmp_path / "a.csv").open()))
    assert [line["id"] for line in lines] == names
    assert list(lines[0]) == ["id", "class", "probability", "class_2", "probability_2"]
    assert done.stdout == ""
    table = ask(home, folder, *names).stdout.splitlines()
    assert table[0].split() == ["image", "class", "%", "next", "%"]
    assert [line.split()[0] for line in table[1:]] == names


def test_from_python(home):
    (folder,) = heads(home, "logistic")
    asked = as_json(ask(home, folder, home / "flat", "--json"))
    model = bb.load(folder, device="cpu")
    paths = sorted((home / "flat").glob("*.png"))
    images = [paths[0], Image.open(paths[1]), np.asarray(Image.open(paths[2])), str(paths[3]), paths[0]]
    found = model.predict(images)
    assert found.names == [asked[path.name]["class"] for path in (*paths[:4], paths[0])]
    np.testing.assert_allclose(found.probability[1, 0], asked[paths[1].name]["probability"], atol=1e-6)
    assert list(found.frame().columns[:3]) == ["id", "class", "probability"]
    assert model.predict(home / "flat", cache_dir=home / "cache").names == [one["class"] for one in asked.values()]
    with pytest.raises(bb.UserError, match=r"float32.*uint8"):
        model.predict([np.zeros((4, 4, 3), np.float32)])
    with pytest.raises(bb.UsageError, match="does not exist"):
        bb.load("nowhere")


KILLED = """
import os, signal
from backbench.cache.writer import Writer
from backbench.predict.cli import main

def rows(self, *args, rows=Writer.rows, **more):
    rows(self, *args, **more)
    self.commit()
    os.kill(os.getpid(), signal.SIGKILL)

Writer.rows = rows
main({words!r})
"""


@pytest.mark.parametrize("which", ["head", "checkpoint"])
def test_killed_it_goes_on(home, tmp_path, which):
    folder = heads(home, "logistic")[0] if which == "head" else home / "runs" / "images" / "tiny"
    rng = np.random.default_rng(3)
    (tmp_path / "new").mkdir()
    for i in range(50):
        Image.fromarray(rng.integers(0, 255, (9, 9, 3), dtype=np.uint8)).save(tmp_path / "new" / f"{i:02d}.png")
    words = list(map(str, (folder, tmp_path / "new", "--device", "cpu", "--csv", "--cache-dir")))
    unbroken = invoke(main, *words, tmp_path / "unbroken").stdout
    program = KILLED.format(words=[*words, str(tmp_path / "cache")])
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == -signal.SIGKILL
    (part,) = (tmp_path / "cache").rglob("*.h5.part")
    with open_file(part, partial=True, check=False) as file:
        assert (file.done > 0).sum() == 32
    assert invoke(main, *words, tmp_path / "cache").stdout == unbroken


def test_blocks_change_nothing(home, monkeypatch):
    (folder,) = heads(home, "logistic")
    one = find.at(folder)
    path = home / "cache" / "folder-images" / "test_resnet.h5"
    with open_file(path) as file:
        rows = np.arange(18)
        whole = run._block([one], [file], rows, 3, None, "lac", "mean")
        parts = [run._block([one], [file], part, 3, None, "lac", "mean") for part in np.split(rows, [5, 11])]
    np.testing.assert_array_equal(whole["top"], np.concatenate([part["top"] for part in parts]))
