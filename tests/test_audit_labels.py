"""Wrong labels: the confident joint is cleanlab's, and what is planted is ranked at least as well as by it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from backbench.audit import labels
from benchmarks.synthetic import clusters

LIMIT = 1 << 30


@settings(max_examples=25)
@given(seed=st.integers(0, 99), k=st.integers(2, 6))
def test_the_confident_joint_is_cleanlabs(seed, k):
    from cleanlab.count import compute_confident_joint

    rng = np.random.default_rng(seed)
    given = np.concatenate([np.arange(k), rng.integers(0, k, 300)])
    probabilities = rng.dirichlet(np.ones(k), len(given)) + 2 * np.eye(k)[rng.permutation(given)]
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    theirs = compute_confident_joint(given, probabilities, calibrate=True)  # rounded to whole numbers
    assert np.abs(theirs - labels.confident_joint(probabilities, given)).max() < k


def test_by_hand():
    """Four images; the mean own probability is 0.7 for class 0 and 0.8 for 1, so only image 1 counts as mislabelled."""
    probabilities = np.array([[0.9, 0.1], [0.5, 0.5], [0.1, 0.9], [0.3, 0.7]])
    given = np.array([0, 0, 1, 1])
    assert labels.confident_joint(probabilities, given).tolist() == [[2, 0], [0, 2]]
    probabilities[1] = [0.1, 0.9]  # thresholds 0.5 and 0.8
    assert labels.confident_joint(probabilities, given).tolist() == [[1, 1], [0, 2]]
    found = labels.suspects(probabilities, given)
    assert found.expected == 1
    assert found.probability.sum() == pytest.approx(1, abs=1e-6)
    assert found.probability.argmax() == 1
    assert found.suggested[1] == 1


@pytest.fixture(scope="module")
def planted():
    """A tenth of the labels is moved to the next class or the one after: features, labels, which, and the classes."""
    x, true = clusters(2_000, 64, 8, spread=0.5)
    rng = np.random.default_rng(1)
    wrong = rng.random(len(true)) < 0.1
    given = np.where(wrong, (true + rng.integers(1, 3, len(true))) % 8, true)
    unit = np.arange(len(true))
    found = labels.out_of_fold(x, unit, given, unit, n_classes=8, seed=0, memory_limit=LIMIT)
    return found, given, wrong, true


def test_planted_errors_are_ranked_at_least_as_well_as_by_cleanlab(planted):
    from cleanlab.rank import get_label_quality_scores

    probabilities, given, wrong, true = planted
    found = labels.suspects(probabilities, given)
    ours = average_precision_score(wrong, found.probability)
    theirs = average_precision_score(wrong, -get_label_quality_scores(given, probabilities))
    assert ours >= theirs > 3 * wrong.mean()
    surest = np.argsort(-found.probability)[:100]
    assert (found.suggested[surest] == true[surest]).mean() > 0.8


def test_probabilities_are_those_of_heads_that_dont_know_the_image(planted):
    """Each row is a distribution, and its accuracy is that of scikit-learn's cross-validation at the same penalty."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probabilities, given, _, _ = planted
    assert probabilities.sum(axis=1) == pytest.approx(1)
    x, _ = clusters(2_000, 64, 8, spread=0.5)
    theirs = cross_val_predict(make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000)), x, given)
    assert (probabilities.argmax(axis=1) == given).mean() == pytest.approx((theirs == given).mean(), abs=0.03)


def test_copies_are_in_one_fold():
    """The images are noise, and each is there twice: a head that knew the copy would be right."""
    rng = np.random.default_rng(0)
    x = np.repeat(rng.standard_normal((200, 300)), 2, axis=0).astype(np.float32)
    given = np.repeat(rng.integers(0, 2, 200), 2)
    unit = np.repeat(np.arange(200), 2)
    rows = np.arange(400)
    kept = labels.out_of_fold(x, rows, given, unit, n_classes=2, seed=0, memory_limit=LIMIT)
    torn = labels.out_of_fold(x, rows, given, rows, n_classes=2, seed=0, memory_limit=LIMIT)
    assert (kept.argmax(axis=1) == given).mean() < 0.62
    assert (torn.argmax(axis=1) == given).mean() > 0.75


def test_classes_that_overlap_are_told_from_single_errors():
    """Half of the images of 0 and of 1 are labelled by chance; a few of 3 are labelled 2."""
    rng = np.random.default_rng(0)
    true = np.repeat(np.arange(4), 500)
    given = true.copy()
    given[:1000] = rng.integers(0, 2, 1000)
    given[1500:1510] = 2
    probabilities = np.full((2000, 4), 0.01)
    probabilities[np.arange(2000), true] = 0.97
    found = labels.suspects(probabilities, given)
    assert [pair[:2] for pair in labels.overlapping(found, given, n_classes=4)] == [(0, 1)]
