"""Heads and checkpoints, trained in small, on images from elsewhere: figures, what is kept, what is refused."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from backbench import UsageError, coverage, details, rows
from backbench.cache.features import open_file
from backbench.data import registry
from backbench.finetune.cli import main
from backbench.generalize import plan
from backbench.predict import find, predictors
from backbench.probe import head, predict
from backbench.training import checkpoint, evaluate
from tests import trained, tuning
from tests.trained import invoke

THERE = ("ant hill", "honey bee", "tiger", "yak")
"""The target's classes: ant, bee and cat by another name, and one that nobody knows."""

PAIRS = "source_class,target_class\nant,ant hill\nbee,honey bee\ncat,tiger\n"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Two heads on features of a tiny random backbone, one checkpoint, another source's pictures, and a map."""
    home = tmp_path_factory.mktemp("generalize")
    rng = np.random.default_rng(1)
    for k, name in enumerate(THERE):
        (home / "there" / name).mkdir(parents=True)
        for i in range(7):
            noise = rng.integers(0, 200, (6, 6, 3), dtype=np.uint8)
            noise[..., k % 3] += 40
            Image.fromarray(noise).resize((60, 44)).save(home / "there" / name / f"{i}.png")
    (home / "map.csv").write_text(PAIRS)
    return trained.build(home, "logistic", "ridge", val=7)


def words(home, *more):
    return [
        "generalize", "--heads", home / "heads", "--runs", home / "runs", "--cache-dir", home / "cache",
        "--results-dir", home / "results", "--device", "cpu", "--source", f"folder:{home / 'images'}", *more,
    ]  # fmt: skip


def there(home, *more, code=0):
    return invoke(
        main, *words(home, "--dataset", f"folder:{home / 'there'}", "--map", home / "map.csv", *more), code=code
    )


def as_json(done):
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def first(home):
    """The rows of the first run."""
    return as_json(there(home, "--json"))


def test_every_trained_thing_has_a_row(home, first):
    assert [(row["model"], row["method"]) for row in first] == [
        ("test_resnet", "logistic"), ("test_resnet", "ridge"), ("test_resnet", "finetune-simple/lp-ft"),
    ]  # fmt: skip
    for row in first:
        assert (row["source"], row["target"], row["n"], row["n_source"]) == ("folder-images", "folder-there", 21, 18)
        assert row["drop"] == pytest.approx(row["source_top1"] - row["top1"])
        assert row["relative_drop"] == pytest.approx(row["drop"] / row["source_top1"])
        assert row["drop_low"] <= row["drop"] <= row["drop_high"]
        assert row["top1_low"] <= row["top1"] <= row["top1_high"]
        assert row["top1"] == row["top1_mapped_classes"]  # all the classes that the head knows correspond
        assert row["n_unknown"] == 7
        assert "yak" not in row["unknown"]
        content = details.of(home / "results", row)
        assert content["class_names"] == ["ant hill", "honey bee", "tiger"]
        assert sum(content["source"]["right"]) == pytest.approx(18 * row["source_top1"])
    assert {id(row): row["stage"] for row in first}.keys()
    assert len([row for row in rows.read(home / "results") if row["stage"] == "generalize"]) >= 3


def test_the_sources_accuracy_is_that_of_its_own_row(home, first):
    """All classes correspond, so the source's test images and figures are those of probe and finetune."""
    own = {(r["stage"], r["method"]): r for r in rows.read(home / "results") if r["stage"] in ("probe", "finetune")}
    for row in first:
        stage = "finetune" if row["method"].startswith("finetune") else "probe"
        assert row["source_top1"] == pytest.approx(own[stage, row["method"]]["top1"])
        assert row["source_ece"] == pytest.approx(own[stage, row["method"]]["ece"], abs=1e-4)


def test_coverage_and_unknown_images_are_those_of_the_stored_reference(home, first):
    """All classes correspond, so the source's coverage is that of its own row. Unknown is the target's yak."""
    own = {(r["stage"], r["method"]): r for r in rows.read(home / "results") if r["stage"] in ("probe", "finetune")}
    things, _ = find.below(home / "heads", home / "runs")
    imageset = registry.load(f"folder:{home / 'there'}", data_root=home)
    for row, thing in zip(first, things, strict=True):
        mine = own["finetune" if row["method"].startswith("finetune") else "probe", row["method"]]
        for key in coverage.KEYS:
            assert row[f"source_{key}"] == pytest.approx(mine[key], abs=1e-9), key
        assert 0 <= row["coverage_lac_90_low"] <= row["coverage_lac_90"] <= row["coverage_lac_90_high"] <= 1
        assert row["set_size_raps_95"] >= 1
        by_class = details.of(home / "results", row)["prediction_sets"]["lac_95"]
        assert np.mean(by_class["coverage"]) == pytest.approx(row["coverage_lac_95"])  # 7 images of each
        found = thing.scores_on(imageset, cache_dir=home / "cache", device=None)
        assert row["unknown_by"] == ("energy" if row["method"].startswith("finetune") else "distance")
        called = thing.reference.p_known(row["unknown_by"], found.strange) <= 0.05
        yak = imageset.labels == imageset.class_names.index("yak")
        assert (row["unknown_found_05"], row["unknown_false_05"]) == (called[yak].mean(), called[~yak].mean())
        assert 0 <= row["source_unknown_false_05_low"] <= row["source_unknown_false_05"] < 0.5
    shown = there(home).stdout.splitlines()
    assert shown[0].endswith("coverage at 95 %")
    for line, row in zip(shown[1:], first, strict=True):
        both = (100 * row[key] for key in ("coverage_lac_95", "source_coverage_lac_95"))
        assert line.rstrip().endswith("{:.1f}, source {:.1f}".format(*both))


def test_a_head_of_an_earlier_version_has_no_coverage(home, first, tmp_path):
    saved = head.load(home / "heads" / "folder-images" / "test_resnet-ridge")
    saved._replace(reference=None, outliers=None).save(tmp_path / "heads" / "old")
    done = there(home, "--heads", tmp_path / "heads", "--runs", tmp_path, "--results-dir", tmp_path, "--json")
    (row,) = as_json(done)
    assert row["top1"] == next(one["top1"] for one in first if one["method"] == "ridge")
    assert not any("coverage" in key or "unknown_f" in key for key in row)
    assert "prediction_sets" not in row["protocol"]


def test_a_second_run_sees_no_picture(home, first, monkeypatch):
    monkeypatch.setattr("backbench.data.decode.read", None)
    monkeypatch.setattr("backbench.extract.backbones.create", None)
    monkeypatch.setattr("backbench.training.checkpoint.load", None)
    again = as_json(there(home, "--json"))
    same = (
        "model",
        "method",
        "top1",
        "top1_low",
        "drop",
        "drop_low",
        "nll",
        "ece_scaled",
        "auroc_msp",
        "most_confident_errors",
    )
    assert [{k: row[k] for k in same} for row in again] == [{k: row[k] for k in same} for row in first]


def test_the_cached_path_is_the_direct_one(home, first):
    """Of a checkpoint: the network's own logits. Of a head: probe predict's classes on the same file."""
    things, faults = find.below(home / "heads", home / "runs")
    assert not faults.errors
    trained = next(thing for thing in things if isinstance(thing, predictors.Checkpoint))
    tuned = checkpoint.load(trained.folder)
    imageset = registry.load(f"folder:{home / 'there'}", data_root=home)
    prepared = predictors.backbones.Backbone("test_resnet", "", "", tuned.model, tuned.config)
    direct = evaluate.logits(tuned.model, imageset, prepared, np.arange(len(imageset)), tuning.accelerator())
    cached = trained.scores_on(imageset, cache_dir=home / "cache", device=None)
    np.testing.assert_allclose(cached.scores, direct, atol=1e-5)
    assert (cached.scores.argmax(1) == direct.argmax(1)).all()
    logistic = next(thing for thing in things if thing.method == "logistic")
    said = predict.predict(logistic.folder, home / "cache" / "folder-there" / "test_resnet.h5")
    by_head = logistic.scores_on(imageset, cache_dir=home / "cache", device=None)
    assert [logistic.classes[k] for k in by_head.scores.argmax(1)] == said.classes
    assert by_head.ids == said.ids


def test_the_target_alone_has_all_of_its_images(home, first):
    with open_file(home / "cache" / "folder-there" / "test_resnet.h5") as file:
        assert len(file.ids) == 28


def test_a_set_of_unknown_classes_may_be_named(home, first):
    made = as_json(there(home, "--unknown", "digits", "--method", "logistic", "--json"))
    assert [(row["unknown"], row["n_unknown"]) for row in made] == [("digits", 1797)]
    assert made[0]["auroc_msp"] != first[0]["auroc_msp"]


def test_shifts_are_paired_and_named_by_their_level(home, first):
    done = invoke(main, *words(home, "--corruption", "resolution", "--method", "logistic", "--json"))
    found = as_json(done)
    assert [(row["target"], row["level"], row["strength"]) for row in found] == [
        (f"folder-images+resolution-{level}", level, i) for i, level in enumerate((224, 128, 64, 32, 16), 1)
    ]
    assert all(row["n"] == row["n_source"] == 18 and "n_unknown" not in row for row in found)
    # Images of 48 x 40 are left alone down to 40 pixels: nothing is lost, as far as 18 images tell.
    for row in found[:3]:
        assert row["drop"] == 0
        assert -0.25 < row["drop_low"] < 0 < row["drop_high"] < 0.25
    assert "paired" in found[0]["protocol"]["intervals"]
    with open_file(home / "cache" / "folder-images" / "test_resnet.h5") as clean:
        assert clean.identity["dataset"] == "folder-images"


def test_what_has_no_classes_in_common_is_passed_over_with_the_way_on(home):
    done = invoke(main, *words(home, "--dataset", f"folder:{home / 'there'}"), code=1)
    assert "backbench data map folder-images folder-there > map.csv" in done.stderr
    assert "Nothing could be evaluated" in done.stderr
    own = invoke(main, *words(home, "--dataset", f"folder:{home / 'images'}"), code=1)
    assert "it was trained there" in own.stderr


def test_names_that_fit_nothing_are_told_at_once(home):
    done = invoke(main, *words(home, "--dataset", "digits", "--model", "test_resne", "--method", "logistics"), code=2)
    assert "--model test_resne: nothing trained has that name. Did you mean test_resnet?" in done.stderr
    assert "Did you mean logistic?" in done.stderr
    assert "--dataset or --corruption is missing" in invoke(main, *words(home), code=2).stderr
    empty = ["--heads", home / "none", "--runs", home / "none", "--dataset", "digits"]
    assert "probe --features cache --save heads" in invoke(main, "generalize", *empty, code=1).stderr


def test_names_that_fit_nothing_together():
    things = [
        SimpleNamespace(source="a", model="m", method="x"),
        SimpleNamespace(source="folder-b", model="m", method="y"),
    ]
    assert plan.choose(things, sources=["folder:/some/b"]) == things[1:]
    with pytest.raises(UsageError, match="leave no trained model"):
        plan.choose(things, sources=["a"], methods=["y"])


def test_features_of_other_weights_are_refused(home, first, tmp_path):
    shutil.copytree(home / "heads", tmp_path / "heads")
    for path in tmp_path.glob("heads/*/*-logistic/head.json"):
        about = json.loads(path.read_text())
        about["identity"]["weights_sha256"] = "0" * 64
        path.write_text(json.dumps(about))
    done = there(home, "--heads", tmp_path / "heads", "--runs", tmp_path / "none", code=1)
    assert "was not fitted on" in done.stderr
    assert "weights_sha256" in done.stderr
    assert "ridge" in done.stdout  # the others go on


def test_images_that_changed_since_training_are_refused(home, first, tmp_path):
    shutil.copytree(home / "images", tmp_path / "images")
    (tmp_path / "images" / "test" / "ant" / "00.png").unlink()
    changed = [f"folder:{tmp_path / 'images'}" if str(word).startswith("folder:") else word for word in words(home)]
    done = invoke(main, *changed, "--corruption", "blur", "--method", "ridge", code=1)
    assert "was trained on other images of folder-images" in done.stderr


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"weights": "file mine.pth"}, "stands on weights of your own"),
        ({"weights": "tuned on images, x"}, "finetune features --checkpoint"),
        ({"views": 3, "precision": "int4"}, "its identity's views, precision not as probe writes it"),
        ({"input_scale": None}, "its identity's input_scale not as probe writes it"),
    ],
)
def test_heads_whose_features_cannot_be_made_here_say_why(home, first, tmp_path, changes, says):
    shutil.copytree(home / "heads", tmp_path / "heads")
    for path in tmp_path.glob("heads/*/*-logistic/head.json"):
        about = json.loads(path.read_text())
        about["identity"] |= changes
        path.write_text(json.dumps(about))
    where = ["--heads", tmp_path / "heads", "--runs", tmp_path / "none", "--cache-dir", tmp_path / "cache"]
    assert says in there(home, *where, code=1).stderr


def test_damaged_things_stop_no_others(home, first, tmp_path):
    shutil.copytree(home / "heads", tmp_path / "heads")
    next(tmp_path.glob("heads/*/*-ridge/head.json")).write_text("{")
    done = there(home, "--heads", tmp_path / "heads", code=1)
    assert "is damaged: it is not JSON" in done.stderr
    assert "logistic" in done.stdout
    assert "finetune-simple/lp-ft" in done.stdout


@pytest.mark.parametrize("options", ["", "?test=val", "?layout=splits", "?test=valid&group=(p[a-z0-9]+)_"])
def test_a_source_is_called_as_its_data_set(tmp_path, options):
    for split in ("train", "val", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "pets" / split / name).mkdir(parents=True)
            for i in range(4):
                Image.new("RGB", (4, 4), (i, 0, 0)).save(tmp_path / "pets" / split / name / f"p{split}{i}_1.png")
    given = f"folder:{tmp_path}/pets{options}"
    assert plan.registry_name(given) == registry.load(given, data_root=tmp_path).name
