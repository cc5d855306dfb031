"""``probe`` from feature files to rows, and what bad files get."""

import json
import subprocess
import sys
from functools import cached_property

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from backbench import details, rows
from backbench.cache import schema, seal, writer
from backbench.cache.features import open_file
from backbench.probe import run as probe_run
from backbench.probe.cli import main
from tests.conftest import IDENTITY, ROOT

KEYS = {
    "dataset", "model", "method", "n_train", "n_val", "n_test", "val_top1", "top1", "top1_low", "top1_high", "top5",
    "balanced", "train_top1", "converged", "seconds",
}  # fmt: skip


def toy(path, *, n=240, d=16, k=4, seed=0, spread=1.0, **changes):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % k
    content = {
        "features": (rng.normal(size=(k, d))[labels] + spread * rng.normal(size=(n, d))).astype("f4"),
        "labels": labels,
        "split": np.repeat([0, 1, 2], [n // 2, n // 4, n - n // 2 - n // 4]),
        "ids": [f"{i:04d}.jpg" for i in range(n)],
        "class_names": [f"class {i}" for i in range(k)],
        "identity": IDENTITY,
    }
    return writer.write(path, **content | changes)


@pytest.fixture
def probe(tmp_path):
    def probe(*args, code=0):
        line = [*map(str, args), "--results-dir", str(tmp_path / "results")]
        result = CliRunner().invoke(main, line)
        assert result.exit_code == code, result.output
        return result

    return probe


def test_json_is_one_object_a_file_and_method_and_so_are_the_rows(probe, tmp_path):
    toy(tmp_path / "a.h5")
    toy(tmp_path / "b.h5", identity=IDENTITY | {"model": "vit_base"})
    found = json.loads(probe("--features", tmp_path, "--method", "logistic", "--method", "knn", "--json").stdout)
    assert [(row["model"], row["method"]) for row in found] == [
        ("resnet18", "logistic"), ("resnet18", "knn"), ("vit_base", "logistic"), ("vit_base", "knn"),
    ]  # fmt: skip
    for row in found:
        assert row.keys() >= KEYS
        assert (row["n_train"], row["n_val"], row["n_test"]) == (120, 60, 60)
        assert 0.8 < row["top1"] <= 1
        assert row["converged"] is True
        assert row["features"]["weights_sha256"] == IDENTITY["weights_sha256"]
    assert rows.read(tmp_path / "results") == found
    assert details.of(tmp_path / "results", found[0])["class_names"] == [f"class {i}" for i in range(4)]


def test_the_same_command_gives_the_same_figures(probe, tmp_path):
    toy(tmp_path / "a.h5", spread=3.0)
    one, two = (json.loads(probe("--features", tmp_path / "a.h5", "--json").stdout)[0] for _ in range(2))
    timed = ("created", "seconds", "details")
    assert {k: v for k, v in one.items() if k not in timed} == {k: v for k, v in two.items() if k not in timed}


def test_the_table_holds_figures_with_intervals(probe, tmp_path):
    toy(tmp_path / "a.h5")
    head, line = probe("--features", tmp_path / "a.h5").stdout.splitlines()
    assert head.split()[:3] == ["dataset", "model", "method"]
    assert line.startswith("toy      resnet18  logistic")
    assert line.count("[") == 3


def test_out_takes_what_would_be_printed(probe, tmp_path):
    toy(tmp_path / "a.h5")
    assert probe("--features", tmp_path / "a.h5", "--json", "--out", tmp_path / "x" / "o.json").stdout == ""
    assert json.loads((tmp_path / "x" / "o.json").read_text())[0]["dataset"] == "toy"


class Watched:
    """A feature file that notes which splits were read, in order."""

    def __init__(self, file, log):
        self.__dict__.update(file=file, log=log)

    def __getattr__(self, name):
        return getattr(self.file, name)

    @cached_property
    def features(self):
        file, log = self.file, self.log

        class Rows:
            shape = file.features.shape

            def __getitem__(self, index):
                log.append(sorted(set(file.split[index].tolist())))
                return file.features[index]

        return Rows()


SETTINGS = probe_run.Settings(seed=0)


@pytest.mark.parametrize("method", probe_run.METHODS)
def test_test_rows_are_read_once_and_only_after_the_head_is_fixed(tmp_path, monkeypatch, method):
    log, fit = [], probe_run.fit

    def noted(*args):
        head = fit(*args)
        log.append("head fixed")
        return head

    monkeypatch.setattr(probe_run, "fit", noted)
    path = toy(tmp_path / "a.h5")
    with open_file(path) as file:
        probe_run.probe(Watched(file, log), probe_run.Task(path, method, 0), SETTINGS)
    fixed = log.index("head fixed")
    assert {split for splits in log[:fixed] for split in splits} <= {0, 1}
    assert [splits for splits in log[fixed + 1 :] if 2 in splits] == [[2]]


@pytest.mark.parametrize("method", probe_run.METHODS)
def test_nothing_in_test_changes_the_head(tmp_path, method):
    path = toy(tmp_path / "a.h5", spread=3.0)
    with open_file(path) as file:
        one, _, _ = probe_run.probe(file, probe_run.Task(path, method, 0), SETTINGS)
        content = {k: v.copy() for k, v in file.arrays().items()}
    rng = np.random.default_rng(9)
    test = content["split"] == 2
    content["features"][test] = rng.normal(size=(test.sum(), 16))
    content["labels"][test] = rng.permutation(content["labels"][test])
    path = toy(tmp_path / "b.h5", features=content["features"], labels=content["labels"])
    with open_file(path) as file:
        two, _, _ = probe_run.probe(file, probe_run.Task(path, method, 0), SETTINGS)
    for key in ("val_top1", "train_top1", "temperature", "chosen", "protocol"):
        assert one[key] == two[key]
    assert one["nll"] != two["nll"]


def test_skipped_images_are_left_out_and_counted(probe, tmp_path):
    path = toy(tmp_path / "a.h5")
    with h5py.File(path, "r+") as h5:
        h5["done"][[3, 239]] = schema.SKIPPED
        for row in (3, 239):
            h5["features"][row] = np.nan
    seal.put(path)
    result = probe("--features", path, "--json")
    (row,) = json.loads(result.stdout)
    assert (row["n_train"], row["n_val"], row["n_test"]) == (119, 60, 59)
    assert "2 images could not be read" in result.stderr


def nan(path):
    x = np.ones((240, 16), "f4")
    x[[5, 7], 3] = np.nan, np.inf
    return toy(path, features=x)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (nan, "NaN or infinite features in 2 of 240 rows: 0005.jpg, 0007.jpg"),
        (lambda p: toy(p, k=1), "one class only, 'class 0'"),
        (lambda p: toy(p, split=np.repeat([0, 2], 120)), "no images in val"),
        (lambda p: toy(p, labels=np.repeat([0, 1, 2, 3], 60)), "2 classes have no image in train"),
        (lambda p: p.write_bytes(b"no feature file"), "can't be read as HDF5"),
    ],
)
def test_a_file_that_cannot_be_probed_does_not_stop_the_others(probe, tmp_path, make, says):
    make(tmp_path / "a.h5")
    toy(tmp_path / "b.h5")
    result = probe("--features", tmp_path, "--json", code=1)
    assert says in result.stderr
    assert "a.h5" in result.stderr
    assert len(json.loads(result.stdout)) == 1


def test_sets_that_are_only_for_testing_are_passed_over_unless_named(probe, tmp_path):
    toy(tmp_path / "a.h5", split=np.full(240, 2))
    toy(tmp_path / "b.h5")
    result = probe("--features", tmp_path, "--json")
    assert "a.h5: passed over" in result.stderr
    assert len(json.loads(result.stdout)) == 1
    assert "This set is for testing" in probe("--features", tmp_path / "a.h5", code=1).stderr
    (tmp_path / "b.h5").unlink()
    assert "there is nothing to fit on" in probe("--features", tmp_path, code=1).stderr


def test_all_that_is_wrong_with_a_file_is_said_at_once(probe, tmp_path):
    x = np.full((240, 16), np.nan, "f4")
    toy(tmp_path / "a.h5", features=x, split=np.repeat([0, 2], 120))
    said = probe("--features", tmp_path / "a.h5", code=1).stderr
    assert "no images in val" in said
    assert "NaN" in said


def test_usage(probe, tmp_path):
    assert "no feature file at" in probe("--features", tmp_path / "none", code=1).stderr
    assert "logistic" in probe("--method", "svm", code=2).stderr


BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "timm", "torchvision", "data", "extract", "PIL"}:
            raise ImportError(f"{name} is not on this laptop")
sys.meta_path.insert(0, Block())
from backbench.probe.cli import main
main(sys.argv[1:])
"""


def test_it_runs_where_only_the_feature_file_was_copied_to(tmp_path):
    path = toy(tmp_path / "a.h5")
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{BLOCK}"]
    done = subprocess.run(
        [*command, "--features", str(path), "--method", "logistic", "--method", "knn"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("resnet18") == 2


def test_help_costs_no_heavy_import(tmp_path):
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from click.testing import CliRunner\nfrom probe.cli import main\n"
        "assert 'Examples' in CliRunner().invoke(main, ['--help']).output\n"
        "print([m for m in ('sklearn', 'numpy', 'h5py', 'pandas', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
