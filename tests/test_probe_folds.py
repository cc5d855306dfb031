"""Cross-validation: what belongs together, what is predicted by what, and what the rows say of it."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

import backbench as bb
from backbench import UsageError, UserError, accuracy, details, grouped
from backbench.cache import schema
from backbench.probe import folds
from backbench.report.cli import main as report
from backbench.report.images import Files
from tests.conftest import IDENTITY
from tests.test_probe_cli import probe, toy  # noqa: F401 - probe is a fixture


def features(n=120, d=8, k=3, *, spread=1.0, seed=0, per_group=None, **more):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % k
    x = rng.normal(size=(k, d))[labels] + spread * rng.normal(size=(n, d))
    groups = per_group and [f"p{i // per_group:03d}" for i in range(n)]
    return bb.Features(x.astype("f4"), labels, groups=groups, **more)


class Probe(ClassifierMixin, BaseEstimator):
    """The logistic probe by scikit-learn alone, of one C; the last column of X numbers the rows."""

    def __init__(self, units=None, c=1.0, seed=42):
        self.units, self.c, self.seed = units, c, seed

    def fit(self, X, y):
        held = grouped.held_out(y, self.units[X[:, -1].astype(int)], folds.VAL_SHARE, seed=self.seed)
        x = X[:, :-1]
        self.mean_, self.scale_ = x[~held].mean(axis=0), x[~held].std(axis=0)
        self.head_ = LogisticRegression(C=self.c, tol=1e-10, max_iter=10_000).fit((x - self.mean_) / self.scale_, y)
        self.classes_ = self.head_.classes_
        return self

    def predict(self, X):
        return self.head_.predict((X[:, :-1] - self.mean_) / self.scale_)


@pytest.mark.parametrize("per_group", [None, 4])
def test_the_predictions_are_those_of_scikit_learns_cross_val_predict(per_group):
    given = features(spread=2.0, per_group=per_group)
    result = bb.probe(given, folds=5, grid=(0.1,))
    n = len(given.labels)
    units = np.arange(n) if per_group is None else np.arange(n) // per_group
    x = np.column_stack([given.features.astype(float), np.arange(n)])
    cv = StratifiedGroupKFold(5, shuffle=True, random_state=42)
    if per_group is None:  # without groups it is StratifiedKFold, whose folds differ
        _, _, fold = folds.draw(given, 5, seed=42)
        cv = [(np.flatnonzero(fold != f), np.flatnonzero(fold == f)) for f in range(5)]
    expected = cross_val_predict(Probe(units, c=0.1), x, given.labels, groups=units, cv=cv)
    assert result.details["predicted"] == expected.tolist()
    assert result.top1 == (expected == given.labels).mean()
    assert 0.6 < result.top1 < 0.95


@pytest.mark.parametrize("method", ["logistic", "ridge", "knn", "centroid"])
def test_every_method_predicts_every_image_once(method):
    given = features(split=np.arange(120) % 2 * 2)  # no val: the file's own split has no part
    result = bb.probe(given, method, folds=4)
    row = result.row
    assert result.head is None
    assert (row["n_folds"], row["n_train"], row["n_val"], row["n_test"], row["shots"]) == (4, 90, None, 120, None)
    assert row["settings"]["folds"] == 4
    assert "the file's own split is not used" in row["protocol"]["split"]
    assert row["top1"] == pytest.approx(np.mean(row["fold_top1"]))  # folds of 30 each
    assert len(row["protocol"]["chosen"]) == len(row["fold_top1"]) == 4
    assert row["top1_low"] < row["top1"] <= row["top1_high"]
    assert 0 < row["temperature"] < 100
    assert result.details["labels"] == given.labels.tolist()
    assert row["top1"] > 0.8
    assert bb.probe(given, method, folds=4).row["top1"] == row["top1"]


def alike_in_pairs(n=80, d=30):
    """Images of random classes, each with a twin that is nearly equal: only the twin tells the class."""
    rng = np.random.default_rng(3)
    x = np.repeat(rng.normal(size=(n // 2, d)), 2, axis=0) + 1e-4 * rng.normal(size=(n, d))
    return x.astype("f4"), np.repeat(rng.permutation(np.arange(n // 2) % 2), 2)


def test_a_group_is_never_in_train_and_test():
    x, labels = alike_in_pairs()
    given = bb.Features(x, labels)
    assert bb.probe(given, "knn", folds=10).top1 > 0.85
    given.groups = np.repeat(np.arange(40).astype(str), 2)
    alone = bb.probe(given, "knn", folds=10)
    assert alone.top1 < 0.7
    assert alone.row["n_groups"] == 40
    assert accuracy.BY_GROUPS in alone.row["protocol"]["intervals"]


def test_equal_images_are_in_one_fold_and_so_are_groups_that_share_one():
    x, labels = alike_in_pairs()
    given = bb.Features(np.repeat(x[::2], 2, axis=0), labels)
    assert bb.probe(given, "knn", folds=10).top1 < 0.7
    given.groups = np.array([f"p{i // 4}" for i in range(2, 82)])  # p0: 0, 1; p1: 2 to 5; ...
    x = given.features.copy()
    x[2] = x[1]
    joined = bb.Features(x, labels)
    joined.groups = given.groups
    unit = folds.units(joined, np.arange(80))
    assert len({*unit[:6]}) == 1  # p0 and p1, by the image that both have
    assert len({*unit}) == 20
    assert unit[6] != unit[5]


def test_skipped_images_are_left_out():
    given = features()
    given.done = np.where(np.arange(120) == 7, schema.SKIPPED, schema.DONE)
    result = bb.probe(given, "centroid", folds=3)
    assert result.row["n_test"] == 119
    assert result.details["ids_digest"] == details.ids_digest(id for id in given.ids if id != "000007")


def sizes(*counts):
    labels = np.repeat(np.arange(len(counts)), counts)
    x = np.random.default_rng(0).normal(size=(len(labels), 4)) + 3 * labels[:, None]
    return bb.Features(x.astype("f4"), labels, class_names=[f"class {i}" for i in range(len(counts))])


def test_too_few_images_of_a_class_for_so_many_folds():
    with pytest.raises(UserError) as caught:
        bb.probe(sizes(20, 4, 3), folds=5)
    assert "2 classes have fewer than 5 different images: class 1 (4), class 2 (3). --folds 3 is possible." in str(
        caught.value
    )
    assert bb.probe(sizes(20, 4, 3), folds=3).row["n_test"] == 27
    with pytest.raises(UserError, match=r"class 1 \(1\)\. Add images or leave these out"):
        bb.probe(sizes(20, 1), folds=5)
    with pytest.raises(UserError, match="of 2 folds the others hold one image or group of each class"):
        bb.probe(sizes(3, 2), folds=2)
    with pytest.raises(UserError, match="one class, 'class 0': at least two are needed"):
        bb.probe(sizes(20), folds=5)
    with pytest.raises(UserError, match="3 classes have fewer than 100"):
        bb.probe(sizes(20, 4, 3), folds=100)


def test_groups_count_and_classes_that_are_groups_are_refused():
    given = features(per_group=30)  # 4 groups of all classes
    with pytest.raises(
        UserError, match=r"fewer than 5 groups of different images: 0 \(4\), 1 \(4\), 2 \(4\)\. --folds 4 is possible"
    ):
        bb.probe(given, folds=5)
    assert bb.probe(given, "centroid", folds=4).row["n_groups"] == 4
    given.groups = given.labels.astype(str)
    with pytest.raises(
        UserError, match=r"fewer than 5 groups of different images: 0 \(1\).*Add images or leave these out"
    ):
        bb.probe(given, folds=5)


def test_what_does_not_go_with_folds(probe, tmp_path):  # noqa: F811
    toy(tmp_path / "a.h5")
    args = ("--features", tmp_path, "--folds", "3")
    said = probe(*args, "--shots", "2", "--curve", "0.5", "--save", tmp_path / "h", code=2).stderr
    assert "--folds fits 3 heads on all images: it doesn't go with --shots and --curve and --save." in said
    assert "--seeds repeats the draw of --shots" in probe(*args, "--seeds", "2", code=2).stderr
    assert "--folds" in probe("--features", tmp_path, "--folds", "1", code=2).stderr
    with pytest.raises(UsageError, match="folds= fits heads on all images"):
        bb.probe(features(), folds=3, shots=2)
    with pytest.raises(UsageError, match="at least 2"):
        bb.probe(features(), folds=1)
    views = features()
    views.identity = views.identity | {"views": "rows3"}
    with pytest.raises(UserError, match="several views of an image as rows"):
        bb.probe(views, folds=3)


def test_rows_details_and_what_report_makes_of_them(probe, tmp_path):  # noqa: F811
    toy(tmp_path / "a.h5", spread=3.0)
    toy(tmp_path / "b.h5", spread=3.0, seed=1, identity=IDENTITY | {"model": "vit_base"})
    args = ("--features", tmp_path, "--json")
    found = json.loads(probe(*args, "--folds", "5", "--method", "ridge").stdout)
    plain = json.loads(probe(*args, "--method", "ridge").stdout)
    other = json.loads(probe("--features", tmp_path / "a.h5", "--json", "--folds", "5", "--seed", "7").stdout)
    said = probe("--features", tmp_path / "a.h5", "--folds", "5", "--method", "ridge")
    assert said.stdout.splitlines()[1].startswith("toy (5 folds)  resnet18  ridge")
    assert "toy resnet18 ridge: 5 folds, seed 42, top-1" in said.stderr
    told = [details.of(tmp_path / "results", row) for row in (*found, *plain, *other)]
    assert [len(one["labels"]) for one in told] == [240, 240, 60, 60, 240]
    shown_images = Files(tmp_path).tested  # by which the page finds the most confident errors
    assert all((one["dataset_digest"], one["ids_digest"]) in shown_images for one in told)
    tests = [one["test_digest"] for one in told]
    assert tests[0] == tests[1]
    assert len({*tests}) == 3  # the same folds, the file's own test, other folds

    def shown(*words):
        result = CliRunner().invoke(report, [*words, "--results-dir", str(tmp_path / "results")])
        assert result.exit_code == 0, result.output
        return result

    table = shown("table", "--format", "md")
    assert "toy (n 60) top-1 %" in table.stdout
    assert "toy (5 folds) (n 240) top-1 %" in table.stdout
    assert "The val images are test images of other folds" in table.stdout
    compared = shown("compare", "--json")
    records = [(r["dataset"], r["model"], r["method"]) for r in json.loads(compared.stdout)]
    assert sorted(records) == [
        (name, model, "ridge") for name in ("toy", "toy (5 folds)") for model in ("resnet18", "vit_base")
    ]
    assert "Left out: toy (5 folds), resnet18, logistic: it was measured on other test images" in compared.stderr


def test_a_set_that_is_all_test_will_do(probe, tmp_path):  # noqa: F811
    toy(tmp_path / "a.h5", split=np.full(240, 2))
    (row,) = json.loads(probe("--features", tmp_path, "--folds", "3", "--method", "centroid", "--json").stdout)
    assert row["n_test"] == 240


def test_a_file_that_can_not_be_folded_stops_no_other(probe, tmp_path):  # noqa: F811
    toy(tmp_path / "a.h5")
    toy(tmp_path / "b.h5", n=8)
    result = probe("--features", tmp_path, "--folds", "5", "--method", "centroid", "--json", code=1)
    assert len(json.loads(result.stdout)) == 1
    assert "b.h5: 4 classes have fewer than 5 different images" in result.stderr


def test_comparisons_of_images_in_groups_say_what_they_do_not_know(tmp_path):
    given = features(spread=2.5, per_group=4)
    kept = [bb.probe(given, method, folds=5, results_dir=tmp_path) for method in ("ridge", "knn")]
    result = CliRunner().invoke(report, ["compare", "--json", "--results-dir", str(tmp_path)])
    assert "arrays (5 folds): images of one group are alike, which the paired tests don't know" in result.stderr
    ends = {r["method"]: (r["top1_low"], r["top1_high"]) for r in json.loads(result.stdout)}
    assert ends == {one.row["method"]: one.interval for one in kept}
