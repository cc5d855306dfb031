"""``backbench cache export``: tables that pandas and pyarrow read, with predictions, the map and findings."""

import builtins
import json
import os

import h5py
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from pyarrow import parquet as pq

import backbench as bb
from backbench import UserError, details, rows
from backbench.cache import parquet, schema, seal
from backbench.cache.cli import main
from backbench.cache.features import open_file
from backbench.data import registry
from backbench.findings import Finding, write
from backbench.report.images import feature_map
from tests.conftest import IDENTITY
from tests.test_cache_decided import extracted  # noqa: F401 - a fixture
from tests.test_probe_cli import probe, toy  # noqa: F401 - probe is a fixture

COLUMNS = ["id", "filepath", "label", "split", "prediction", "confidence", "embedding", "x", "y"]
ISSUES = [
    "is_label_issue", "given_label", "predicted_label", "mistakenness", "is_near_duplicate_issue",
    "near_duplicate_sets", "is_outlier_issue",
]  # fmt: skip


@pytest.fixture
def export(tmp_path):
    def export(*args, code=0):
        line = ["export", *map(str, args), "--results-dir", str(tmp_path / "results")]
        result = CliRunner().invoke(main, line)
        assert result.exit_code == code, result.output
        return result

    return export


def without(path, *gone):
    """The feature file, as if the images of these rows could not be read."""
    with h5py.File(path, "r+") as h5:
        for row in gone:
            h5["done"][row] = schema.SKIPPED
            h5["features"][row] = np.nan
    seal.put(path)
    return path


@pytest.mark.parametrize("dtype", ["f4", "f2"])
def test_a_table_holds_what_the_file_holds(export, tmp_path, dtype):
    x = np.random.default_rng(0).normal(size=(240, 16)).astype(dtype)
    path = without(toy(tmp_path / "a.h5", features=x, ids=[f"é/{i}.jpg" for i in range(240)]), 3, 239)
    done = export(path, "--out", tmp_path / "t.parquet")
    assert done.stdout == f"{tmp_path / 't.parquet'}  238 images x 16 features, 0 predicted, 0 with a file\n"
    assert "2 images could not be read when it was made and are left out" in done.stderr
    assert "no predictions" in done.stderr
    assert f"probe --features {path}" in done.stderr
    found = pd.read_parquet(tmp_path / "t.parquet")
    kept = np.setdiff1d(np.arange(240), [3, 239])
    assert found.columns.tolist() == COLUMNS
    assert found["id"].tolist() == [f"é/{i}.jpg" for i in kept]
    assert found["label"].tolist() == [f"class {i % 4}" for i in kept]
    assert found["split"].tolist() == [("train", "val", "test")[min(i // 60, 3) - 1 if i >= 120 else 0] for i in kept]
    assert (np.stack(found["embedding"]) == x[kept].astype("f4")).all()
    assert found["embedding"][0].dtype == np.float32
    assert found[["filepath", "prediction", "confidence"]].isna().all().all()
    mapped = feature_map(path, most=10**6)
    assert np.allclose(found[["x", "y"]], mapped["xy"], atol=1e-4)
    table = pq.read_table(tmp_path / "t.parquet")
    assert table.column_names == COLUMNS
    assert table.schema.field("embedding").type.value_type == "float"


def test_predictions_are_those_of_the_newest_probe_of_this_very_file(probe, export, tmp_path):  # noqa: F811
    path = toy(tmp_path / "a.h5", spread=3.0)
    other = toy(tmp_path / "b.h5", seed=1, identity=IDENTITY | {"model": "vit_base"})
    results = tmp_path / "results"
    for words in (("--features", path, "--method", "knn"), ("--features", path, "--method", "ridge"),
                  ("--features", other, "--method", "ridge")):  # fmt: skip
        probe(*words)
    csv = tmp_path / "a.csv"
    write(csv, [Finding("0003.jpg", "outlier", "", "", "wrong")])
    probe("--features", path, "--exclude", csv, "--method", "centroid")  # of another data set
    done = export(path, "--out", tmp_path / "t.parquet")
    assert "predictions are those of ridge" in done.stderr
    found = pd.read_parquet(tmp_path / "t.parquet")
    (row,) = [one for one in rows.read(results) if (one["model"], one["method"]) == ("resnet18", "ridge")]
    content = details.of(results, row)
    tested = found[found["split"] == "test"]
    assert tested["prediction"].tolist() == [f"class {k}" for k in content["predicted"]]
    assert tested["confidence"].tolist() == content["confidence"]
    assert found[found["split"] != "test"]["prediction"].isna().all()
    (results / row["details"]).write_text("{}")
    said = export(path, "--out", tmp_path / "t.parquet", "--overwrite").stderr
    assert "passed over" in said
    assert "predictions are those of knn" in said
    probe("--features", path, "--folds", "3", "--method", "centroid")
    export(path, "--out", tmp_path / "t.parquet", "--overwrite")
    assert pd.read_parquet(tmp_path / "t.parquet")["prediction"].notna().all()  # each image once


def test_findings_under_the_names_of_cleanlab_and_fiftyone(export, tmp_path):
    path = without(toy(tmp_path / "a.h5", n=12), 0)
    csv = tmp_path / "audit.csv"
    write(
        csv,
        [
            Finding("0001.jpg", "near duplicate", "0003.jpg", "leak"),
            Finding("0005.jpg", "exact duplicate", "0003.jpg", "", "same"),
            Finding("0007.jpg", "near duplicate", "0008.jpg", "", "right"),
            Finding("0009.jpg", "near duplicate", "0000.jpg", ""),
            Finding("0002.jpg", "label", "class 3", "wrong with probability 0.93, two of two backbones agree"),
            Finding("0002.jpg", "label", "class 1", "wrong with probability 0.2"),
            Finding("0004.jpg", "label", "class 1", "", "wrong"),
            Finding("0006.jpg", "label", "class 1", "wrong with probability 0.5", "right"),
            Finding("0010.jpg", "outlier", "", "far"),
        ],
    )
    export(path, "--out", tmp_path / "t.parquet", "--findings", csv)
    found = pd.read_parquet(tmp_path / "t.parquet").set_index("id")
    assert found.columns.tolist() == [*COLUMNS[1:], *ISSUES]
    assert str(found["is_label_issue"].dtype) == "bool"

    def flagged(column):
        return [int(id[:4]) for id in found.index[found[column]]]

    assert flagged("is_label_issue") == [2, 4]
    assert flagged("is_outlier_issue") == [10]
    assert flagged("is_near_duplicate_issue") == [1, 3, 5]
    # Row 0 of the file is not in the table, so that 0001.jpg is the table's row 0.
    sets = {int(id[:4]): one.tolist() for id, one in found["near_duplicate_sets"].items() if len(one)}
    assert sets == {1: [2, 4], 3: [0, 4], 5: [0, 2]}
    assert found["given_label"].tolist() == found["label"].tolist()
    assert found["predicted_label"].dropna().to_dict() == {"0002.jpg": "class 3", "0004.jpg": "class 1"}
    assert found["mistakenness"].dropna().to_dict() == {"0002.jpg": 0.93}


def test_thousands_of_equal_images_make_no_millions_of_numbers(export, tmp_path):
    path = toy(tmp_path / "a.h5", n=400)
    csv = tmp_path / "audit.csv"
    write(csv, [Finding(f"{i:04d}.jpg", "exact duplicate", "0000.jpg", "") for i in range(1, 400)])
    export(path, "--out", tmp_path / "t.parquet", "--findings", csv)
    found = pd.read_parquet(tmp_path / "t.parquet")
    assert found["is_near_duplicate_issue"].all()
    assert found["near_duplicate_sets"].map(len).max() == parquet.MOST_ALIKE


@pytest.mark.parametrize("name", ["plain", "rows"])
def test_paths_of_the_images_files(export, extracted, tmp_path, name):  # noqa: F811
    words = ("--out", tmp_path / "t.parquet", "--dataset", f"folder:{extracted['folder']}", "--json")
    (said,) = json.loads(export(extracted[name], *words).stdout)
    found = pd.read_parquet(tmp_path / "t.parquet")
    assert said["n_files"] == len(found)
    for id, path in zip(found["id"], found["filepath"], strict=True):
        assert os.path.isfile(path)
        assert path.endswith(f"{os.sep}images{os.sep}{id.partition('#')[0]}".replace("/", os.sep))


def test_paths_are_of_that_data_set_or_the_error_says_so(export, extracted, tmp_path):  # noqa: F811
    from tests import tuning

    other = tuning.pictures(tmp_path / "images", seed=1)
    said = export(extracted["plain"], "--out", tmp_path / "t.parquet", "--dataset", f"folder:{other}", code=1).stderr
    assert "is not the data set that its features were extracted from" in said
    said = export(extracted["plain"], "--out", tmp_path / "t.parquet", "--data-root", tmp_path, code=1).stderr
    assert "name it with --dataset folder:PATH" in said
    assert not (tmp_path / "t.parquet").exists()


def test_images_in_memory_have_no_file(export, tmp_path):
    digits = registry.load("digits", data_root=tmp_path)
    told = {key: getattr(digits, key) for key in ("ids", "labels", "split", "class_names")}
    told["features"] = np.random.default_rng(0).normal(size=(len(digits), 4)).astype("f4")
    toy(tmp_path / "a.h5", **told, identity=IDENTITY | {"dataset": "digits", "dataset_digest": digits.digest})
    export(tmp_path / "a.h5", "--out", tmp_path / "tables", "--data-root", tmp_path)
    found = pd.read_parquet(tmp_path / "tables" / "digits" / "resnet18.parquet")
    assert len(found) == 1797
    assert found["filepath"].isna().all()


def test_several_files_and_what_is_wrong_with_them(export, tmp_path):
    toy(tmp_path / "cache" / "a.h5")
    toy(tmp_path / "cache" / "b.h5", identity=IDENTITY | {"model": "vit_base"})
    broken = toy(
        tmp_path / "cache" / "c.h5", identity=IDENTITY | {"model": "broken"}, features=np.full((240, 16), np.nan, "f4")
    )
    done = export(tmp_path / "cache", "--out", tmp_path / "t", code=1)
    assert f"{broken} holds NaN or infinite features" in done.stderr
    names = sorted(path.name for path in (tmp_path / "t" / "toy").iterdir())
    assert names == ["resnet18.parquet", "vit_base.parquet"]
    toy(tmp_path / "cache" / "d.h5")
    said = export(tmp_path / "cache", "--out", tmp_path / "t", code=1).stderr
    assert said.count("is there already; --overwrite replaces it.") == 2
    assert "resnet18.parquet would be the table of" in said
    said = export(tmp_path / "cache", "--out", tmp_path / "t.parquet", code=1).stderr
    assert "is one table, but there are 4 feature files. Name a folder." in said
    assert "there is no feature file at" in export(tmp_path / "none", "--out", tmp_path / "t", code=1).stderr
    assert "--out" in export(tmp_path / "cache", code=2).stderr


def test_findings_of_another_data_set(export, tmp_path):
    path, csv = toy(tmp_path / "a.h5"), tmp_path / "audit.csv"
    write(csv, [Finding("x\n.jpg", "label", "class 1", ""), Finding("0001.jpg", "near duplicate", "y.jpg", "")])
    said = export(path, "--out", tmp_path / "t.parquet", "--findings", csv, code=1).stderr
    assert f"{csv} names 2 images that {path} doesn't have" in said
    assert (
        "no.csv can't be read"
        in export(path, "--out", tmp_path / "t.parquet", "--findings", tmp_path / "no.csv", code=1).stderr
    )


def test_a_table_is_whole_or_not_there(export, tmp_path, monkeypatch):
    path = toy(tmp_path / "a.h5")
    target = tmp_path / "t" / "t.parquet"
    export(path, "--out", target)
    before = target.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_batch", full)
    said = export(path, "--out", target, "--overwrite", code=1).stderr
    assert "t.parquet can't be written: No space left on device. Name another place with --out." in said
    assert target.read_bytes() == before
    assert [one.name for one in target.parent.iterdir()] == ["t.parquet"]
    (tmp_path / "file").write_text("")
    assert "can't be written" in export(path, "--out", tmp_path / "file" / "t.parquet", code=1).stderr


def test_large_files_are_written_in_row_groups(export, tmp_path, monkeypatch):
    path = without(toy(tmp_path / "a.h5"), 100, 101)
    whole = tmp_path / "whole.parquet"
    export(path, "--out", whole)
    blocks = schema.blocks
    monkeypatch.setattr(schema, "blocks", lambda array: (array[i : i + 50] for i in range(0, len(array), 50)))
    export(path, "--out", tmp_path / "t.parquet")
    file = pq.ParquetFile(tmp_path / "t.parquet")
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [50, 50, 48, 50, 40]
    assert file.read().equals(pq.read_table(whole))
    assert len([*blocks(np.zeros((3, 2)))]) == 1


def test_without_pyarrow_the_command_to_install_it_is_named(export, tmp_path, monkeypatch):
    path, real = toy(tmp_path / "a.h5"), builtins.__import__

    def lacking(name, *args, **more):
        if name == "pyarrow":
            raise ImportError("No module named 'pyarrow'", name="pyarrow")
        return real(name, *args, **more)

    monkeypatch.setattr(builtins, "__import__", lacking)
    said = export(path, "--out", tmp_path / "t.parquet", code=1).stderr
    assert "parquet needs pyarrow: pip install pyarrow (or pip install 'backbench[sources]')" in said


def test_names_that_are_no_utf8(export, tmp_path):
    ids = ["caf\udce9.jpg", *(f"{i}.jpg" for i in range(239))]
    export(toy(tmp_path / "a.h5", ids=ids), "--out", tmp_path / "t.parquet")
    assert pd.read_parquet(tmp_path / "t.parquet")["id"][0] == "caf\\udce9.jpg"


def test_rows_of_strangers_are_passed_over(export, tmp_path):
    path = toy(tmp_path / "a.h5")
    with open_file(path) as file:
        identity = file.identity
    made = rows.make("probe", dataset="toy", model="m", method="x", seed=1, figures={}, protocol={}, features=identity,
                     device=None, seconds=0.0)  # fmt: skip
    for change in (
        {"features": [1]},
        {"features": None},
        {"details": 5},
        {"details": "../../x"},
        {"features": {"model": []}},
    ):
        rows.append(tmp_path / "results", made | {"details": "details/no.json"} | change)
    assert "no predictions" in export(path, "--out", tmp_path / "t.parquet").stderr


def test_arrays_and_the_python_function(tmp_path):
    x = np.random.default_rng(0).normal(size=(12, 3)).astype("f4")
    np.savez(tmp_path / "mine.npz", x=x, labels=np.array(list("abc" * 4)))
    (said,) = bb.to_parquet(tmp_path / "mine.npz", tmp_path / "out", results_dir=tmp_path)
    assert said["path"] == str(tmp_path / "out" / "arrays" / "mine.parquet")
    assert (said["n"], said["dim"], said["n_predicted"]) == (12, 3, 0)
    assert pd.read_parquet(said["path"])["label"].tolist() == list("abc" * 4)
    bb.probe(tmp_path / "mine.npz", "centroid", folds=3, results_dir=tmp_path)
    (said,) = bb.to_parquet([tmp_path / "mine.npz"], tmp_path / "t.parquet", results_dir=tmp_path)
    assert said["n_predicted"] == 12
    np.savez(tmp_path / "mine.npz", x=x + 1, labels=np.array(list("abc" * 4)))  # other features of that name
    (said,) = bb.to_parquet(tmp_path / "mine.npz", tmp_path / "t.parquet", results_dir=tmp_path, overwrite=True)
    assert said["n_predicted"] == 0
    with pytest.raises(UserError, match="is there already"):
        bb.to_parquet(tmp_path / "mine.npz", tmp_path / "t.parquet")
