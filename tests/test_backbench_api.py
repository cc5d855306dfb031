"""``import backbench as bb``: the same as the commands, without a word on stdout or stderr."""

import json
import logging
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import backbench as bb
from backbench import details, identity, rows
from backbench.cache.features import open_file
from backbench.probe.classifier import Classifier
from backbench.probe.predict import predict
from backbench.progress import silenced, tell
from tests.test_extract_run import MODEL, extract, images  # noqa: F401 - fixtures
from tests.test_probe_cli import probe, toy  # noqa: F401 - probe is a fixture

PASSING = {"created", "seconds", "command", "id", "details", "versions"}
"""What no two rows of the same measurement have in common."""

QUICK = {"weights": "random", "batch_size": 8, "device": "cpu"}


@pytest.fixture(autouse=True)
def silent(capfd):
    """Nothing that a test here calls may print."""
    yield
    assert tuple(capfd.readouterr()) == ("", "")


def clouds(n=240, d=16, k=4, *, spread=1.0, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % k
    return (rng.normal(size=(k, d))[labels] + spread * rng.normal(size=(n, d))).astype("f4"), labels


def test_importing_it_loads_none_of_the_libraries_and_costs_little():
    code = """
import sys, time
started = time.perf_counter()
import backbench as bb
seconds = time.perf_counter() - started
heavy = {"torch", "numpy", "h5py", "click", "pandas", "sklearn", "scipy", "PIL", "timm"} & {*sys.modules}
bb.open, bb.compare, bb.results  # the functions alone cost nothing either
heavy |= {"torch", "numpy", "h5py", "click", "pandas", "sklearn", "scipy"} & {*sys.modules}
print(heavy, seconds < 0.5, set(bb.API) | set(bb.CALLED) <= {*dir(bb)})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("set() True True\n", "")


def test_probing_arrays_needs_no_torch():
    code = """
import sys
import numpy as np
import backbench as bb
labels = np.arange(200) % 2
result = bb.probe(bb.Features(np.random.default_rng(0).normal(size=(200, 4)) + labels[:, None], labels))
assert result.top1 > 0.5 and "torch" not in sys.modules and "timm" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_rooms_are_functions_too_in_whatever_order_they_are_imported():
    code = """
import backbench.probe.run, backbench.extract
import backbench as bb
from backbench.probe import METHODS
import inspect
assert bb.probe.run is backbench.probe.run
assert "results_dir" in inspect.signature(bb.probe).parameters
assert "cache_dir" in inspect.signature(bb.extract).parameters
assert not hasattr(bb, "nothing")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("method", ["logistic", "ridge", "knn", "centroid", "published"])
def test_a_probe_gives_the_row_that_the_command_writes(tmp_path, probe, method):  # noqa: F811
    path = toy(tmp_path / "a.h5", spread=2.0)
    (theirs,) = json.loads(probe("--features", path, "--method", method, "--seed", 3, "--json").stdout)
    with bb.open(path) as features:
        result = bb.probe(features, method, seed=3)
    assert json.loads(json.dumps({k: v for k, v in result.row.items() if k not in PASSING})) == {
        k: v for k, v in theirs.items() if k not in PASSING
    }
    assert identity.key(result.row) == identity.key(theirs)
    assert result.top1 == theirs["top1"]
    assert result.interval == (theirs["top1_low"], theirs["top1_high"])
    assert result.balanced == result.accuracies["balanced"].value == theirs["balanced"]
    assert f"{theirs['top1']:.1%}" in repr(result)
    assert result.head.classes.tolist() == [f"class {i}" for i in range(4)]


def test_a_row_is_written_where_a_folder_is_named_and_only_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    features = bb.Features(*clouds())
    bb.probe(features, "ridge")
    assert not [*tmp_path.iterdir()]
    result = bb.probe(features, "ridge", results_dir="results")
    (row,) = rows.read("results")
    assert row["command"] == "backbench.probe('features in memory', 'ridge', seed=42)"
    assert details.of("results", row)["predicted"] == result.details["predicted"]
    bb.probe(features, "logistic", shots=2, class_weight="balanced", results_dir="results")
    command = "backbench.probe('features in memory', 'logistic', seed=42, shots=2, class_weight='balanced')"
    assert rows.read("results")[1]["command"] == command
    bb.probe(features, "centroid", results_dir="results")
    table = bb.results()
    assert isinstance(table, pd.DataFrame)
    assert dict(zip(table["method"], table["top1"], strict=True))["ridge"] == result.top1
    assert len(bb.results("nowhere")) == 0


@pytest.mark.parametrize("method", ["logistic", "knn"])
def test_the_head_says_what_probe_predict_says(tmp_path, method):
    path = toy(tmp_path / "a.h5", spread=2.0)
    result = bb.probe(path, method)
    result.head.save(tmp_path / "head")
    expected = predict(tmp_path / "head", path)
    with bb.open(path) as file:
        x = np.array(file.features)
    assert result.head.predict(x).tolist() == expected.classes
    proba = result.head.predict_proba(x)
    assert proba.shape == (240, 4)
    np.testing.assert_allclose(proba.sum(axis=1), 1)
    np.testing.assert_allclose(proba.max(axis=1), expected.probability, rtol=1e-12)
    assert result.head.temperature == result.row["temperature"] != 1
    again = Classifier.load(tmp_path / "head")
    np.testing.assert_array_equal(again.predict_proba(x), proba)
    with pytest.raises(bb.UserError, match=r"features of shape \(images, 16\), these have \(240, 3\)"):
        result.head.predict(x[:, :3])
    with pytest.raises(bb.UserError, match="not finite"):
        result.head.predict(x * np.nan)


def test_an_npz_file_on_the_command_line_is_as_the_arrays(tmp_path, probe):  # noqa: F811
    x, labels = clouds(spread=2.0)
    np.savez(tmp_path / "x.npz", x=x, labels=labels)
    args = ("--features", tmp_path / "x.npz", "--json", "--save", tmp_path / "heads")
    (row,) = json.loads(probe(*args).stdout)
    result = bb.probe(bb.Features(x, labels))
    assert identity.key(row) == identity.key(result.row)
    assert row["features"]["arrays_digest"] == result.row["features"]["arrays_digest"]
    figures = ("top1", "balanced", "n_train", "n_val", "n_test", "temperature", "chosen")
    assert [row[k] for k in figures] == [result.row[k] for k in figures]
    assert (row["model"], row["dataset"]) == ("x", "arrays")
    # Written under another name it is the same measurement; with other features it is not.
    np.savez_compressed(tmp_path / "again.npz", labels=labels, x=x)
    np.savez(tmp_path / "other.npz", labels=labels, x=x + 1)
    told = [identity.key(json.loads(probe("--features", tmp_path / f"{name}.npz", "--json").stdout)[0]) for name in
            ("again", "other")]  # fmt: skip
    assert (told[0] == identity.key(row), told[1] == identity.key(row)) == (True, False)
    (folder,) = (tmp_path / "heads").glob("*/*")
    assert predict(folder, tmp_path / "other.npz").n_scored == row["n_test"]  # of the same images only test counts
    np.savez(tmp_path / "new.npz", labels=labels, x=x, ids=[f"new/{i}" for i in range(240)])
    with silenced():  # it warns of a data set of the same name
        assert predict(folder, tmp_path / "new.npz").n_scored == 240
    np.savez(tmp_path / "narrow.npz", labels=labels, x=x[:, :3])
    with pytest.raises(bb.UserError, match=r"the head takes 16 of them, the file has 3[\s\S]*in an .npz file"):
        predict(folder, tmp_path / "narrow.npz")


def test_results_are_compared_on_the_same_test_images():
    x, labels = clouds(spread=2.0)
    good, bad = bb.Features(x, labels, model="good"), bb.Features(x[:, :2], labels, model="bad")
    found = bb.compare([bb.probe(one, method) for one in (good, bad) for method in ("logistic", "knn")])
    assert isinstance(found, pd.DataFrame)
    assert len(found) == 4
    assert {*found["model"]} == {"good", "bad"}
    assert found["p"].min() < 0.001
    with pytest.raises(bb.UserError, match="no two heads to compare"):
        bb.compare([bb.probe(good, "ridge")])


def test_faults_are_exceptions_that_offer_what_is_known():
    features = bb.Features(*clouds())
    for how, said in (
        ({"method": "logistc"}, "method knows no 'logistc'. Did you mean logistic"),
        ({"clas_weight": "balanced"}, "logistic knows no 'clas_weight'. Did you mean class_weight"),
        ({"method": "ridge", "device": "cpu"}, "ridge knows no 'device'"),
        ({"intervals": "gauss"}, "intervals knows no 'gauss'"),
    ):
        with pytest.raises(bb.UsageError, match=said.replace(".", r"\.")):
            bb.probe(features, **how)
    with pytest.raises(bb.UsageError, match="extract knows no 'wieghts'"):
        bb.extract(MODEL, "digits", wieghts="random")
    with pytest.raises(bb.UserError, match="no labels to fit a head on"):
        bb.probe(bb.Features(features.features))
    with pytest.raises(bb.UserError, match="no images in val"):
        bb.probe(bb.Features(*clouds(), split=["train", "test"] * 120))
    with pytest.raises(bb.UserError, match="is not a file"):
        bb.probe("nowhere.h5")


def test_what_a_command_would_say_is_logged(caplog, tmp_path):
    x, labels = clouds()
    with caplog.at_level(logging.INFO, logger="backbench"):
        bb.probe(bb.Features(np.vstack([x, x]), np.tile(labels, 2)))
        (tmp_path / "rows.jsonl").write_text('{"half')
        bb.results(tmp_path)
    assert "test images equal an image of train or val" in caplog.text
    assert "half a row" in caplog.text


def test_extract_keeps_a_data_sets_features_and_tells_its_progress(tmp_path, images, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    heard = []
    how = {"cache_dir": tmp_path / "cache", **QUICK}
    with bb.extract(MODEL, f"folder:{images}", **how, progress=lambda *told: heard.append(told)) as file:
        assert file.path == tmp_path / "cache" / "folder-images" / f"{MODEL}.h5"
        assert file.features.shape[0] == 36
        assert heard[-1][1:] == (36, 36)
        result = bb.probe(file, "centroid")
        assert result.row["model"] == MODEL
    heard.clear()
    with bb.extract(MODEL, images, **how, progress=lambda *told: heard.append(told), results_dir="r"):
        assert not heard  # it was there
    (row,) = rows.read("r")
    assert row["stage"] == "extract"
    with pytest.raises(bb.UserError, match="dtype: the file has 'float32'"):
        bb.extract(MODEL, f"folder:{images}", **how | {"dtype": "float16"})
    with pytest.raises(bb.UsageError, match="labels: the data set"):
        bb.extract(MODEL, f"folder:{images}", labels=[1])
    with pytest.raises(bb.UsageError, match="unknown model 'test_resnt'"):
        bb.extract("test_resnt", f"folder:{images}")


def test_a_list_gives_the_features_of_a_folder_to_the_bit(tmp_path, images, extract):  # noqa: F811
    extract("--precision", "float32", "--device", "cpu", "--exif", "apply")
    with open_file(extract.path) as file:
        expected, ids, labels, split = np.array(file.features), file.ids, file.labels, file.split
        fitted = bb.probe(file, "centroid")
    paths, how = [images / name for name in ids], {**QUICK, "precision": "float32", "exif": "apply"}
    heard = []
    found = bb.extract(MODEL, paths, labels=labels, split=split, **how, progress=lambda *told: heard.append(told[1:]))
    np.testing.assert_array_equal(found.features, expected)
    assert found.ids == [path.as_posix() for path in paths]
    assert heard[-1] == (36, 36)
    assert bb.probe(found, "centroid").top1 == fitted.top1
    assert found.identity["weights_sha256"] == fitted.row["features"]["weights_sha256"]
    opened = [Image.open(path) for path in paths]
    named = bb.extract(MODEL, opened, labels=[["ant", "bee", "cat"][k] for k in labels], **how)
    np.testing.assert_array_equal(named.features, expected)
    assert named.class_names == ["ant", "bee", "cat"]
    # The same images, called otherwise or with another in place, are told apart.
    assert len({one.identity["images_digest"] for one in (found, named, bb.extract(MODEL, opened[1:], **how))}) == 3


def test_a_list_without_labels_is_enough_to_predict(images, tmp_path):  # noqa: F811
    paths = sorted(images.glob("*/*.png"))
    fitted = bb.probe(bb.extract(MODEL, paths, labels=[path.parent.name for path in paths], **QUICK), "logistic")
    new = bb.extract(MODEL, paths[:5], **QUICK)
    assert fitted.head.predict(new.features).shape == (5,)
    with pytest.raises(bb.UserError, match="no labels"):
        bb.probe(new)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(bb.UserError, match=r"(?s)1 of the images.*broken.png"):
        bb.extract(MODEL, [*paths[:5], tmp_path / "broken.png"], **QUICK)
    left = bb.extract(MODEL, [*paths[:5], tmp_path / "broken.png"], **QUICK, on_error="skip")
    assert len(left) == len(left.ids) == 5
    with pytest.raises(bb.UserError, match=r"000001 is a int[\s\S]*none.png is no file"):
        bb.extract(MODEL, [Image.open(paths[0]), 3, "none.png"], **QUICK)
    with pytest.raises(bb.UserError, match="an empty list"):
        bb.extract(MODEL, [], **QUICK)


def test_a_handler_that_writes_to_stderr_hears_each_line_once(capfd):
    class Echo(logging.Handler):
        def emit(self, record):
            print(record.getMessage(), file=sys.stderr)

    logger, echo = logging.getLogger("backbench"), Echo(logging.INFO)
    before = logger.level
    logger.addHandler(echo)
    logger.setLevel(logging.INFO)
    try:
        with silenced(stderr=True):
            print("one\ntwo", file=sys.stderr)
            tell("three")
    finally:
        logger.removeHandler(echo)
        logger.setLevel(before)
    assert capfd.readouterr().err.split() == ["one", "two", "three"]
