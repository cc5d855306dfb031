"""LogisticProbe keeps scikit-learn's contract, and does what the logistic probe does."""

import os
import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits, load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import backbench as bb
from backbench.probe.estimator import _val
from backbench.probe.logistic import GRID
from tests.conftest import ROOT

CHECK = """
import collections, warnings
warnings.simplefilter("ignore")
from sklearn.utils.estimator_checks import check_estimator
import backbench as bb
done = check_estimator(bb.LogisticProbe(device="cpu"))
print(*sorted(collections.Counter(check["status"] for check in done).items()))
"""


def test_it_passes_all_of_scikit_learns_checks():
    """SCIPY_ARRAY_API is read when scipy is imported; without it one of the checks would be skipped."""
    how = {"cwd": ROOT, "env": os.environ | {"SCIPY_ARRAY_API": "1"}, "capture_output": True, "text": True}
    done = subprocess.run([sys.executable, "-c", CHECK], **how, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    (status,) = done.stdout.strip().splitlines()
    assert status.startswith("('passed', "), status
    assert "skipped" not in status


def test_val_is_a_share_of_every_class_but_never_all_of_it():
    labels = np.repeat(np.arange(5), [80, 12, 2, 1, 4])
    val = _val(labels, 0.125, np.random.RandomState(0))
    assert np.bincount(labels, weights=val).tolist() == [10, 2, 1, 0, 1]  # 12 / 8 is 1.5, rounded to even


def test_the_penalty_is_as_good_as_the_best_of_scikit_learns_and_fitted_on_all_rows():
    x, y = load_digits(return_X_y=True)
    rows = np.random.default_rng(0).permutation(len(x))
    train, test = rows[:600], rows[600:]
    ours = bb.LogisticProbe(device="cpu").fit(x[train], y[train])
    assert ours.C_ in GRID
    assert ours.converged_
    assert 0.9 < ours.val_score_ <= 1
    scaled = StandardScaler().fit(x[train])
    theirs = [
        LogisticRegression(C=c, max_iter=2000)
        .fit(scaled.transform(x[train]), y[train])
        .score(scaled.transform(x[test]), y[test])
        for c in (1e-3, 1e-2, 1e-1, 1)
    ]
    assert ours.score(x[test], y[test]) > max(theirs) - 0.01
    # What is fitted on all rows says of them what a fit with that C says.
    same = LogisticRegression(C=ours.C_, max_iter=5000, tol=1e-8).fit(
        (x[train] - ours.head_.mean) / ours.head_.scale, y[train]
    )
    np.testing.assert_allclose(ours.head_.weights, same.coef_, atol=0.02)


def test_names_are_predicted_and_probabilities_are_calibrated_and_seeded():
    x, y = load_iris(return_X_y=True, as_frame=True)
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    one, two = (bb.LogisticProbe(random_state=3, device="cpu").fit(x, names) for _ in range(2))
    assert one.predict(x[:1]).tolist() == ["setosa"]
    assert one.feature_names_in_.tolist() == list(x.columns)
    proba = one.predict_proba(x)
    np.testing.assert_allclose(proba.sum(axis=1), 1)
    np.testing.assert_array_equal(proba, two.predict_proba(x))
    assert one.temperature_ != 1


def test_it_goes_into_pipelines_and_cross_validation():
    x, y = load_iris(return_X_y=True)
    scores = cross_val_score(make_pipeline(StandardScaler(), bb.LogisticProbe(device="cpu")), x, y, cv=3)
    assert scores.min() > 0.9


@pytest.mark.parametrize(
    ("labels", "how", "said"),
    [
        ([0, 0, 0, 0], {}, "at least two classes"),
        ([0, 1, 2, 3], {}, "no class has two rows"),
        ([0, 1, 0, 1], {"val_share": 0.0}, "val_share"),
        ([0, 1, 0, 1], {"class_weight": "some"}, "class_weight"),
    ],
)
def test_what_cannot_be_fitted_is_a_value_error(labels, how, said):
    with pytest.raises(ValueError, match=said):
        bb.LogisticProbe(**how).fit(np.eye(4), labels)


def test_balanced_is_as_the_weights_it_stands_for():
    rng = np.random.default_rng(1)
    y = np.repeat([0, 1], [90, 10])
    x = rng.normal(size=(100, 5)) + y[:, None]
    a = bb.LogisticProbe(class_weight="balanced", device="cpu").fit(x, y)
    b = bb.LogisticProbe(class_weight={0: 100 / 180, 1: 100 / 20}, device="cpu").fit(x, y)
    np.testing.assert_allclose(a.predict_proba(x), b.predict_proba(x), atol=1e-6)
    plain = bb.LogisticProbe(device="cpu").fit(x, y)
    assert a.predict(x).sum() > plain.predict(x).sum()
