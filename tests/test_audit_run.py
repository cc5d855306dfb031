"""An audit of real images: planted copies, leaks and wrong labels are found, and what can't be judged is said."""

from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from backbench import UserError, findings
from backbench.audit import run
from backbench.cache import writer
from backbench.extract.cli import main as extract
from backbench.findings import Finding
from tests.conftest import IDENTITY

COLOURS = {"blue": (40, 40, 120), "green": (60, 180, 60), "red": (220, 160, 140)}


def image(name: str, seed: int) -> Image.Image:
    """Specks in shades of a colour: alike in a class, and different in detail."""
    rng = np.random.default_rng(seed)
    low = rng.integers(-60, 60, (12, 12, 1)) + rng.integers(-20, 20, (12, 12, 3)) + COLOURS[name]
    return Image.fromarray(np.clip(low, 0, 255).astype(np.uint8)).resize((96, 96), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three classes of 30 + 8 + 12 images. Planted: an equal and a mirrored leak, a red and a blue one mislabelled."""
    root = tmp_path_factory.mktemp("audit")
    for k, name in enumerate(COLOURS):
        for split, n in (("train", 30), ("val", 8), ("test", 12)):
            place = root / "images" / split / name
            place.mkdir(parents=True)
            for i in range(n):
                image(name, 1000 * k + 100 * len(split) + i).save(place / f"{i:02d}.png")
    images = root / "images"
    (images / "train/red/copy.png").write_bytes((images / "test/red/03.png").read_bytes())
    with Image.open(images / "test/blue/05.png") as one:
        one.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(images / "train/blue/mirrored.png")
    image("red", 7001).save(images / "train/green/wrong.png")
    image("blue", 7002).save(images / "test/red/wrong.png")
    how = ["--model", "test_resnet", "--weights", "random", "--dataset", f"folder:{images}", "--precision", "float32"]
    done = CliRunner().invoke(
        extract, [*how, "--compile", "off", "--cache-dir", str(root / "cache"), "--results-dir", str(root / "results")]
    )
    assert done.exit_code == 0, done.output
    return root


@pytest.fixture(scope="module")
def found(folder):
    return run.audit([folder / "cache"], dataset=f"folder:{folder / 'images'}")[0]


def of(found, kind):
    return {line.id: line for line in found.findings if line.kind == kind}


def test_copies_are_found_and_the_one_in_test_stays(found):
    assert of(found, "exact duplicate")["train/red/copy.png"] == Finding(
        "train/red/copy.png", "exact duplicate", "test/red/03.png", "in train and test; a leak; the same class"
    )
    line = of(found, "near duplicate")["train/blue/mirrored.png"]
    assert line.partner == "test/blue/05.png"
    assert line.evidence.startswith("in train and test; a leak; the same class; cosine ")
    assert line.evidence.endswith("; mirrored")
    assert found.leaked == {"test/red/03.png", "test/blue/05.png"}
    assert found.figures["n_leaks"] == 2
    assert found.figures["by_pixels"] is True
    assert found.figures["n_exact"] == 1
    assert 1 <= found.figures["n_near"] <= 3  # of 11,000 pairs


def test_wrong_labels_are_found_with_the_class_that_is_suggested(found):
    labels = of(found, "label")
    assert {id: line.partner for id, line in labels.items()} == {
        "train/green/wrong.png": "red",
        "test/red/wrong.png": "blue",
    }
    assert labels["test/red/wrong.png"].evidence.endswith("; labelled red")
    assert found.mislabelled == {"test/red/wrong.png"}
    assert (found.figures["n_label_suspects"], found.figures["n_label_suspects_test"]) == (2, 1)
    assert 1 < found.figures["expected_wrong"] < 6


def test_every_image_that_is_named_has_its_class_and_split(found):
    named = {name for line in found.findings for name in (line.id, *([line.partner] * ("dup" in line.kind)))}
    assert found.about.keys() == named
    assert found.about["test/red/wrong.png"] == ("red", "test")
    assert len(found.test_ids) == 37


def test_brightness_that_tells_the_class_is_said(found):
    assert "brightness" in {one.property for one in found.shortcuts}


def test_without_images_features_decide(folder):
    found, images = run.audit([folder / "cache"], look=False)
    assert images is None
    assert "train/red/copy.png" in of(found, "exact duplicate")
    assert found.shortcuts == []


def test_images_of_a_few_pixels_are_judged_by_their_features(folder, capsys, monkeypatch):
    monkeypatch.setattr(run, "DETAIL", 100)  # they have 96
    found, _ = run.audit([folder / "cache"], dataset=f"folder:{folder / 'images'}")
    assert "154 images are smaller than 100 pixels" in capsys.readouterr().err
    assert found.figures["by_pixels"] is False
    assert "train/red/copy.png" in of(found, "exact duplicate")
    assert "colours" not in of(found, "exact duplicate")["train/red/copy.png"].evidence


def test_images_that_are_gone_are_told(folder, capsys):
    found, images = run.audit([folder / "cache"])
    assert images is None
    assert "its images are not looked at: it is not a registered data set" in capsys.readouterr().err
    assert found.figures["n_exact"] == 1


def test_another_data_set_is_refused(folder, tmp_path):
    (tmp_path / "images" / "a").mkdir(parents=True)
    with pytest.raises(UserError):
        run.audit([folder / "cache"], dataset=f"folder:{tmp_path / 'images'}")


def test_an_image_that_can_no_longer_be_read_is_judged_by_its_features(folder, tmp_path, capsys, monkeypatch):
    from backbench.audit.images import Images

    def gone(self, row):
        if self.ids[row] == "test/red/03.png":
            raise UserError("gone")
        return self.of_id(self.ids[row])

    monkeypatch.setattr(Images, "array", gone)
    found, _ = run.audit([folder / "cache"], dataset=f"folder:{folder / 'images'}")
    assert "1 images can't be read now" in capsys.readouterr().err
    assert "train/red/copy.png" in of(found, "exact duplicate")


def features_file(path, *, labels, split, x=None, **identity):
    """A feature file of noise, or of ``x``."""
    n = len(labels)
    x = np.random.default_rng(0).standard_normal((n, 16)).astype(np.float32) if x is None else x
    names = [f"class{k}" for k in range(max(labels) + 1)]
    return writer.write(
        path, features=x, labels=np.array(labels), split=np.array(split), ids=[f"{i:04d}.png" for i in range(n)],
        class_names=names, identity=IDENTITY | identity,
    )  # fmt: skip


def test_one_class_and_one_split_have_duplicates_but_no_labels(tmp_path, capsys):
    x = np.random.default_rng(0).standard_normal((40, 16)).astype(np.float32)
    x[7] = x[3]
    path = features_file(tmp_path / "a.h5", labels=[0] * 40, split=[0] * 40, x=x)
    found, _ = run.audit([path])
    assert "labels are not judged, which takes two classes" in capsys.readouterr().err
    assert (found.figures["n_exact"], found.figures["n_leaks"], found.figures["n_redundant"]) == (1, 0, 1)
    assert found.figures["expected_wrong"] is None
    assert [(line.id, line.partner) for line in found.findings if line.kind == "exact duplicate"] == [
        ("0007.png", "0003.png")
    ]


def test_classes_of_few_images_are_not_judged(tmp_path, capsys):
    labels = [0] * 20 + [1] * 20 + [2] * 3
    found, _ = run.audit([features_file(tmp_path / "a.h5", labels=labels, split=[0, 1, 2] * 14 + [0])])
    assert "labels of 1 classes with fewer than 10 different images are not judged" in capsys.readouterr().err
    assert not {f"{i:04d}.png" for i in (40, 41, 42)} & of(found, "label").keys()


def test_features_that_are_no_numbers_are_refused(tmp_path):
    x = np.ones((40, 16), np.float32)
    x[3, 2] = np.nan
    path = features_file(tmp_path / "a.h5", labels=[0, 1] * 20, split=[0] * 40, x=x)
    with pytest.raises(UserError, match="holds NaN or infinite features in 1 of 40 rows"):
        run.audit([path])


def test_files_of_different_images_are_refused_all_at_once(tmp_path):
    one = features_file(tmp_path / "a.h5", labels=[0, 1] * 20, split=[0] * 40)
    two = features_file(tmp_path / "b.h5", labels=[0, 1] * 20, split=[0] * 40, dataset_digest="e" * 64)
    three = features_file(tmp_path / "c.h5", labels=[0, 1] * 20, split=[0] * 40, views="rows5")
    with pytest.raises(UserError) as caught:
        run.audit([one, two, three])
    assert f"{two} holds other images than {one}" in str(caught.value)
    assert f"{three}: it holds several views" in str(caught.value)


def test_two_backbones_vote(tmp_path):
    """The features of each are clusters of their own, and image 5 is in the other cluster in both."""
    true = np.arange(60) % 2
    given = np.where(np.arange(60) == 5, 1 - true, true)
    paths = []
    for seed in (0, 1):
        x = np.random.default_rng(seed).standard_normal((60, 16)).astype(np.float32)
        x[:, 0] += 8 * true
        paths.append(features_file(tmp_path / f"{seed}.h5", labels=given.tolist(), split=[0, 1, 2] * 20, x=x))
    found, _ = run.audit(paths)
    line = of(found, "label")["0005.png"]
    assert line.partner == "class1"
    assert line.evidence.endswith("; labelled class0; suggested by 2 of 2 backbones")
    assert found.models == ["resnet18", "resnet18"]


def test_decisions_of_an_earlier_audit_are_kept(tmp_path):
    lines = [Finding("a", "label", "cat", "0.9"), Finding("b", "outlier", "", "far")]
    assert run.decided(lines, tmp_path / "none.csv") == lines
    gone = Finding("c", "near duplicate", "d", "", "same")
    findings.write(tmp_path / "a.csv", [replace(lines[0], evidence="0.8", decision="wrong"), gone])
    assert run.decided(lines, tmp_path / "a.csv") == [replace(lines[0], decision="wrong"), lines[1], gone]


def test_features_of_ones_own_are_audited(tmp_path):
    """scikit-learn's digits as arrays in an .npz file, one of them twice."""
    from sklearn.datasets import load_digits

    x, labels = load_digits(return_X_y=True)
    x[7], labels[7] = x[3], labels[3]
    np.savez(tmp_path / "x.npz", x=x.astype(np.float32), labels=labels)
    found, images = run.audit([tmp_path / "x.npz"])
    assert images is None
    assert len(of(found, "exact duplicate")) == 1
    assert found.figures["n_images"] == len(labels)
