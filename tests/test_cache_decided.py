"""Feature files and data sets as ``audit.csv`` decides: rows, digests, no figure that mixes with the whole set's."""

import json
from pathlib import Path

import numpy as np
import pytest

import backbench as bb
from backbench import UserError, decisions, details, rows
from backbench.cache import schema
from backbench.cache.decided import decided, images, note
from backbench.cache.features import open_file
from backbench.data import registry
from backbench.data.decided import decided as of_images
from backbench.findings import Finding, write
from backbench.report import names
from backbench.report.images import Files
from tests import tuning
from tests.test_probe_cli import probe, toy  # noqa: F401 - probe is a fixture


def audit(path, *lines) -> Path:
    write(path, [Finding(id, kind, partner, "", decision) for id, kind, partner, decision in lines])
    return path


def line(id, decision="wrong", kind="outlier", partner=""):
    return id, kind, partner, decision


@pytest.fixture(scope="module")
def extracted(tmp_path_factory):
    """A folder of pictures, and its feature files: plain, and with several views of train as rows."""
    folder = tuning.pictures(tmp_path_factory.mktemp("decided") / "images")
    how = {"weights": "random", "device": "cpu", "precision": "float32", "compile": "off", "readers": 0}
    found = {"folder": folder}
    for name, more in (("plain", {}), ("rows", {"views": 3, "views_as": "rows"})):
        with bb.extract("test_resnet", folder, cache_dir=folder.parent / name, **how, **more) as file:
            found[name] = file.path
    return found


EXCLUDED = [line("train/ant/00.png", "same", "near duplicate", "test/ant/00.png"), line("test/bee/03.png")]
RELABELLED = [line("train/bee/02.png", "wrong", "label", "cat"), line("test/cat/01.png", "wrong", "label", "ant")]


@pytest.mark.parametrize("name", ["plain", "rows"])
@pytest.mark.parametrize("lines", [EXCLUDED, RELABELLED, EXCLUDED + RELABELLED])
def test_digests_are_those_of_the_images_that_are_left(extracted, tmp_path, name, lines):
    given = decisions.read(*[audit(tmp_path / "a.csv", *lines)] * 2)
    whole = registry.load(f"folder:{extracted['folder']}", data_root=tmp_path)
    smaller = of_images(whole, given)
    with open_file(extracted[name]) as file:
        assert {key: file.identity[key] for key in schema.DIGESTS} == whole.digests
        made = decided(file, given)
        assert {key: made.identity[key] for key in schema.DIGESTS} == smaller.digests
        assert made.identity[decisions.AUDITED] == smaller.audited.about()
        assert made.identity[decisions.AUDITED]["of"] == file.identity["dataset_digest"]
        kept = made.done == schema.DONE
        found = dict(zip(np.array(images(made))[kept].tolist(), made.labels[kept].tolist(), strict=True))
        assert found == dict(zip(smaller.ids, smaller.labels.tolist(), strict=True))
    assert len({*whole.digests.values(), *smaller.digests.values()}) == 6


def test_the_same_folder_without_these_images_is_the_same_data_set(extracted, tmp_path):
    """As if a person had deleted the files, and moved the others."""
    import shutil

    folder = shutil.copytree(extracted["folder"], tmp_path / "images")
    (folder / "train/ant/00.png").unlink()
    (folder / "test/bee/03.png").unlink()
    (folder / "train/bee/02.png").rename(folder / "train/cat/99.png")
    (folder / "test/cat/01.png").rename(folder / "test/ant/99.png")
    given = decisions.read(*[audit(tmp_path / "a.csv", *EXCLUDED, *RELABELLED)] * 2)
    with open_file(extracted["plain"]) as file:
        by_hand = registry.load(f"folder:{folder}", data_root=tmp_path)
        assert {key: decided(file, given).identity[key] for key in schema.DIGESTS} == by_hand.digests


def test_test_stays_the_same_test_where_only_train_changes(extracted, tmp_path):
    given = decisions.read(audit(tmp_path / "a.csv", EXCLUDED[0]))
    with open_file(extracted["plain"]) as file:
        made = decided(file, given)
    assert made.identity["test_digest"] == file.identity["test_digest"]
    assert made.identity["images_digest"] != file.identity["images_digest"]


def test_all_views_of_an_image_go(extracted, tmp_path):
    given = decisions.read(audit(tmp_path / "a.csv", EXCLUDED[0]))
    with open_file(extracted["rows"]) as file:
        made = decided(file, given)
        gone = [file.ids[i] for i in np.flatnonzero(made.done == schema.LEFT_OUT)]
    assert gone == [f"train/ant/00.png{view}" for view in ("", "#1", "#2")]
    assert note(made, given) == "1 image left out and 0 relabelled by a.csv."


def test_the_file_itself_stays_as_it_is(extracted, tmp_path):
    before = extracted["plain"].read_bytes()
    with open_file(extracted["plain"]) as file:
        labels, done, equal = file.labels.copy(), file.done.copy(), file.equal.copy()
        made = decided(file, decisions.read(*[audit(tmp_path / "a.csv", *EXCLUDED, *RELABELLED)] * 2))
        assert (file.labels == labels).all()
        assert (file.done == done).all()
        assert (file.equal == equal).all()
        assert decisions.AUDITED not in file.identity
        assert decided(made, None) is made
        assert decided(file, decisions.read(audit(tmp_path / "b.csv", line("test/bee/03.png", "right")))) is file
    assert extracted["plain"].read_bytes() == before


def test_equal_images_are_counted_without_those_that_are_left_out():
    x = np.arange(12, dtype="f4").reshape(6, 2)
    x[5] = x[0]
    file = bb.Features(x, [0, 1, 0, 1, 0, 0], split=[0, 0, 1, 1, 2, 2])
    assert file.equal.tolist() == [0, -1, -1, -1, -1, 0]
    made = decided(file, decisions.Decisions({file.ids[0]: Path("a")}, {}, 0, ("a",)))
    assert made.equal.tolist() == [-1] * 6


@pytest.mark.parametrize("kind", ["arrays", "earlier"])
def test_digests_that_are_not_of_contents_change_with_what_they_cover(tmp_path, kind):
    if kind == "arrays":
        file = bb.Features(np.eye(8), np.arange(8) % 2, split=[0, 0, 0, 0, 1, 1, 2, 2])
    else:
        toy(tmp_path / "a.h5", n=8, k=2)  # of no images whose contents are known
        file = bb.open(tmp_path / "a.h5")
        file.identity |= {"images_digest": "i", "test_digest": "t"}

    def digests(*lines):
        given = decisions.read(*[audit(tmp_path / "a.csv", *lines)] * 2)
        return {key: decided(file, given).identity[key] for key in schema.DIGESTS}

    train, test = file.ids[0], file.ids[7]
    whole = {key: file.identity[key] for key in schema.DIGESTS}
    one, other = digests(line(train)), digests(line(test))
    label = digests(line(test, "wrong", "label", file.class_names[0]))
    assert one["test_digest"] == whole["test_digest"]
    assert len({found["dataset_digest"] for found in (whole, one, other, label)}) == 4
    assert len({found["images_digest"] for found in (whole, one, other, label)}) == 4
    assert len({found["test_digest"] for found in (whole, one, other, label)}) == 3
    assert digests(line(test), line(train)) == digests(line(train), line(test))


def test_a_probe_without_images_is_the_probe_of_the_rest(probe, tmp_path):  # noqa: F811
    """Figures are those of a file that never held these rows, with those labels."""
    path = toy(tmp_path / "a.h5", spread=3.0)
    with open_file(path) as file:
        held = {"features": np.array(file.features), "labels": file.labels, "split": file.split, "ids": file.ids}
    out, changed = [3, 60, 130, 200, 239], [5, 150, 220]
    lines = [line(held["ids"][i]) for i in out]
    lines += [line(held["ids"][i], "wrong", "label", f"class {(held['labels'][i] + 1) % 4}") for i in changed]
    csv = audit(tmp_path / "a.csv", *lines, line(held["ids"][9], ""))
    result = probe("--features", path, "--exclude", csv, "--relabel", csv, "--json", "--method", "ridge")
    (row,) = json.loads(result.stdout)
    assert f"{path}: 5 images left out and 3 relabelled by a.csv; 1 line is undecided." in result.stderr
    labels = held["labels"].copy()
    labels[changed] = (labels[changed] + 1) % 4
    keep = np.setdiff1d(np.arange(240), out)
    ids = [held["ids"][i] for i in keep]
    toy(
        tmp_path / "b.h5", features=held["features"][keep], labels=labels[keep], split=held["split"][keep], ids=ids
    )  # fmt: skip
    (rest,) = json.loads(probe("--features", tmp_path / "b.h5", "--json", "--method", "ridge").stdout)
    assert (row["n_train"], row["n_val"], row["n_test"]) == (118, 59, 58)
    for key in ("n_train", "n_val", "n_test", "top1", "top1_low", "balanced", "val_top1", "train_top1", "ece", "nll"):
        assert row[key] == rest[key]
    told = [details.of(tmp_path / "results", one) for one in (row, rest)]
    assert told[0]["ids_digest"] == told[1]["ids_digest"]
    assert told[0]["predicted"] == told[1]["predicted"]
    folded = [
        json.loads(probe("--features", name, "--folds", "3", "--method", "centroid", "--json", *more).stdout)[0]
        for name, *more in ((path, "--exclude", csv, "--relabel", csv), (tmp_path / "b.h5",))
    ]
    assert folded[0]["n_test"] == 235
    assert folded[0]["top1"] == folded[1]["top1"]


def test_tables_tell_the_whole_set_from_what_is_left(probe, tmp_path):  # noqa: F811
    path = toy(tmp_path / "a.h5")
    one = audit(tmp_path / "one.csv", line("0003.jpg"), line("0004.jpg", "wrong", "label", "class 1"))
    two = audit(tmp_path / "two.csv", line("0005.jpg"), line("0006.jpg"))
    said = probe("--features", path, "--exclude", one, "--relabel", one).stdout
    assert said.splitlines()[1].startswith("toy (1 left out, 1 relabelled)  resnet18")
    assert probe("--features", path).stdout.splitlines()[1].startswith("toy      resnet18")
    probe("--features", path, "--exclude", two)
    probe("--features", path, "--exclude", one)
    probe("--features", path, "--exclude", two, "--method", "knn")
    found = rows.read(tmp_path / "results")
    assert {Files(tmp_path).of(row) for row in found} == {path}  # by which the page finds the map
    shown = [row["dataset"] for row in names.told_apart(found)]
    assert shown[:3] == ["toy (1 left out, 1 relabelled)", "toy", "toy (2 left out)"]
    assert shown[3].startswith("toy (2 left out, 2: ")
    assert shown[4] == "toy (2 left out)"


def test_decisions_that_do_not_fit_a_file_stop_no_other(probe, tmp_path):  # noqa: F811
    toy(tmp_path / "a.h5")
    toy(tmp_path / "b.h5", ids=[f"other {i}" for i in range(240)])
    csv = audit(tmp_path / "a.csv", line("0003.jpg"), line("0004.jpg", "wrong", "label", "clas 1"))
    result = probe("--features", tmp_path, "--exclude", csv, "--json", "--method", "ridge", code=1)
    assert len(json.loads(result.stdout)) == 1
    assert f"decides about 2 images that {tmp_path / 'b.h5'} doesn't have: 0003.jpg, 0004.jpg." in result.stderr
    said = probe("--features", tmp_path, "--relabel", csv, code=1).stderr
    assert f"which {tmp_path / 'a.h5'} doesn't have. Did you mean class 1" in said
    assert (
        probe("--features", tmp_path, "--relabel", tmp_path / "no.csv", "--seeds", "2", code=2).stderr.count("- ") == 2
    )


def test_a_class_whose_last_train_image_is_left_out_is_refused(probe, tmp_path):  # noqa: F811
    path = toy(tmp_path / "a.h5", n=24)
    csv = audit(tmp_path / "a.csv", *(line(f"{i:04d}.jpg") for i in (0, 4, 8)))
    assert "1 classes have no image in train" in probe("--features", path, "--exclude", csv, code=1).stderr


def test_several_processes_leave_out_the_same(probe, tmp_path):  # noqa: F811
    path = toy(tmp_path / "a.h5")
    csv = audit(tmp_path / "a.csv", line("0003.jpg"))
    words = ("--features", path, "--exclude", csv, "--method", "ridge", "--method", "centroid", "--json")
    found = json.loads(probe(*words, "--jobs", "2").stdout)
    assert [row["n_train"] for row in found] == [119, 119]


def test_a_head_knows_what_it_was_fitted_on(probe, tmp_path):  # noqa: F811
    """Images of train of the whole set don't count as new ones, neither does the head take the whole set's place."""
    from click.testing import CliRunner

    from backbench.probe.cli import main

    path = toy(tmp_path / "a.h5")
    csv = audit(tmp_path / "a.csv", line("0003.jpg"))
    words = ("--features", path, "--method", "ridge", "--save", tmp_path / "heads")
    probe(*words)
    said = probe(*words, "--exclude", csv).stderr
    assert "holds the head of another measurement and is kept" in said
    (folder,) = (tmp_path / "heads" / tmp_path.name).glob("a-ridge-*")
    result = CliRunner().invoke(main, ["predict", "--head", str(folder), "--features", str(path), "--json"])
    found = json.loads(result.stdout)
    assert (found["n_scored"], found["n_seen"]) == (60, 180)


def test_from_python(tmp_path):
    path = toy(tmp_path / "a.h5")
    csv = audit(tmp_path / "a.csv", line("0003.jpg"), line("0239.jpg", "wrong", "label", "class 0"))
    row = bb.probe(path, "ridge", exclude=csv, relabel=[str(csv)]).row
    assert (row["n_train"], row["n_test"]) == (119, 60)
    assert f"exclude=['{csv}'], relabel=['{csv}']" in row["command"]
    with bb.open(path) as file:
        assert bb.probe(file, "ridge", exclude=csv).row["n_test"] == 59
    with pytest.raises(UserError, match=r"doesn't have: 0003\.jpg"):
        bb.probe(bb.Features(np.eye(8), np.arange(8) % 2), exclude=csv)
