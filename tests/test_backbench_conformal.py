"""Prediction sets and p-values: by hand, by enumeration, by simulation, and beside MAPIE."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backbench import UserError, conformal
from backbench.calibration import temperature
from backbench.probe.classifier import probabilities
from backbench.probe.ridge import Ridge
from backbench.probe.subsets import Splits, Subset

LEVELS = (0.5, 0.8, 0.9, 0.95, 0.99)


def simulated(n, k, seed=0, sharpness=3.0):
    """Calibrated probabilities (n, k) and labels (n,) drawn by them."""
    rng = np.random.default_rng(seed)
    logits = sharpness * rng.normal(size=(n, k))
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    return p, (rng.uniform(size=(n, 1)) > p.cumsum(axis=1)).sum(axis=1).clip(max=k - 1)


def own(p, labels, kind):
    return conformal.nonconformity(p, kind)[np.arange(len(p)), labels]


def test_scores_by_hand():
    p = np.array([[0.3, 0.5, 0.2], [0.25, 0.25, 0.5]])
    np.testing.assert_allclose(conformal.nonconformity(p, "lac"), [[0.7, 0.5, 0.8], [0.75, 0.75, 0.5]])
    # 0.5 | 0.5 + 0.3 + one rank | all + two ranks; of the equal two the first ranks first
    expected = [[0.9, 0.5, 1.2], [0.85, 1.2, 0.5]]
    np.testing.assert_allclose(conformal.nonconformity(p, "raps"), expected)
    with pytest.raises(UserError, match="'aps' is no kind of prediction sets: lac or raps is expected"):
        conformal.nonconformity(p, "aps")


def test_thresholds_by_hand():
    """Of nine scores the ceil(10 level)-th smallest."""
    scores = np.array([5, 3, 1, 9, 8, 2, 6, 7, 4.0])
    found = [conformal.threshold(scores, level) for level in (0.1, 0.11, 0.5, 0.9, 0.91)]
    assert found == [1, 2, 5, 9, math.inf]
    assert conformal.threshold(np.array([]), 0.5) == math.inf


@pytest.mark.parametrize("level", [*LEVELS, 0.001, 0.07, 0.29, 0.57, 0.999])
def test_so_many_images_of_val_a_level_takes(level):
    n = conformal.images_needed(level)
    assert conformal.threshold(np.zeros(n), level) == 0
    assert n == 1 or conformal.threshold(np.zeros(n - 1), level) == math.inf
    assert {0.9: 9, 0.95: 19, 0.99: 99}.get(level, n) == n


@pytest.mark.parametrize("level", [0, 1, 95, -0.1, math.nan])
def test_a_level_that_is_no_share_is_refused(level):
    for ask in (conformal.images_needed, lambda level: conformal.threshold(np.ones(3), level)):
        with pytest.raises(UserError, match="a number between 0 and 1 is expected"):
            ask(level)


def test_sets_by_hand():
    p = np.array([[0.3, 0.5, 0.2], [0.05, 0.05, 0.9]])
    found = conformal.sets(p, kind="lac", threshold=0.7)
    assert found.tolist() == [[True, True, False], [False, False, True]]
    # Too strict for any class of the first image: its most probable one is in all the same.
    assert conformal.sets(p, kind="lac", threshold=0.2).tolist() == [[False, True, False], [False, False, True]]
    assert conformal.sets(p, kind="raps", threshold=0.9).tolist() == [[True, True, False], [False, False, True]]
    for kind in conformal.KINDS:
        assert conformal.sets(p, kind=kind, threshold=math.inf).all()


def test_scores_that_float32_rounds_alike_are_alike():
    """kNN's probabilities tie in numbers: a class as probable as the threshold's is in, whichever way that rounds."""
    for p in np.linspace(0.01, 0.3, 300):
        scores = own(np.array([[p, 1 - p]]), [0], "lac").astype(np.float32)
        threshold = conformal.threshold(np.repeat(scores, 9), 0.9)
        assert conformal.sets(np.array([[p, 1 - p]]), kind="lac", threshold=threshold)[0, 0]


def test_p_values_by_hand():
    found = conformal.p_values(np.array([1.0, 2, 2, 3]), np.array([0, 1, 2, 2.5, 3, 4, np.nan, np.inf]))
    assert (found * 5).tolist() == [5, 5, 4, 2, 2, 1, 1, 1]
    assert conformal.p_values(np.array([]), np.array([3.0])).tolist() == [1]


scores = st.lists(st.integers(0, 30), min_size=2, max_size=40)


@given(scores=scores, level=st.floats(0.01, 0.99))
def test_each_of_exchangeable_images_taken_as_new_a_share_of_the_level_is_covered(scores, level):
    """Every one of the M + 1 is as likely to be the new one: enumerated, ties and all."""
    scores = np.array(scores, float)
    rest = [np.delete(scores, i) for i in range(len(scores))]
    covered = [own <= conformal.threshold(val, level) for own, val in zip(scores, rest, strict=True)]
    assert np.mean(covered) >= level - 1e-9
    p = np.array([conformal.p_values(val, own) for own, val in zip(scores, rest, strict=True)])
    assert (p <= level).mean() <= level + 1e-9
    if len(set(scores)) == len(scores):
        assert sum(covered) == min(math.ceil(round(len(scores) * level, 9)), len(scores))


@given(
    k=st.integers(2, 12),
    seed=st.integers(0, 99),
    kind=st.sampled_from(conformal.KINDS),
    levels=st.tuples(st.floats(0.01, 0.99), st.floats(0.01, 0.99)),
)
def test_a_larger_level_gives_a_superset_and_the_first_class_is_always_in(k, seed, kind, levels):
    p, labels = simulated(60, k, seed)
    val = own(p[:30], labels[:30], kind)
    small, large = (
        conformal.sets(p[30:], kind=kind, threshold=conformal.threshold(val, level)) for level in sorted(levels)
    )
    assert (large | ~small).all()
    assert small[np.arange(30), p[30:].argmax(axis=1)].all()


@pytest.mark.parametrize(
    ("kind", "k", "sharpness"),
    [("lac", 2, 1), *((kind, k, s) for kind in conformal.KINDS for k, s in ((10, 3), (256, 1), (256, 3)))],
)
def test_coverage_in_simulation(kind, k, sharpness):
    """Over 400 draws of val the mean coverage is the level: (M + 1) level is a whole number."""
    p, labels = simulated(60_000, k, sharpness=sharpness)
    score = own(p, labels, kind)
    val, new = score[: 400 * 99].reshape(400, 99), score[400 * 99 :]
    for level in (0.9, 0.95):
        covered = [(new <= conformal.threshold(one, level)).mean() for one in val]
        assert abs(np.mean(covered) - level) < 4 * np.std(covered) / 20


def test_probabilities_that_are_too_sure_are_covered_all_the_same():
    p, labels = simulated(20_000, 10)
    p = p**3 / (p**3).sum(axis=1, keepdims=True)
    for kind in conformal.KINDS:
        threshold = conformal.threshold(own(p[:10_000], labels[:10_000], kind), 0.9)
        found = conformal.sets(p[10_000:], kind=kind, threshold=threshold)
        assert found[np.arange(10_000), labels[10_000:]].mean() == pytest.approx(0.9, abs=0.01)


class Given:
    """A classifier, as MAPIE asks for one, whose "images" are its probabilities."""

    def __init__(self, k):
        self.classes_ = np.arange(k)

    def fit(self, X, y):
        raise AssertionError

    def predict(self, X):
        return X.argmax(axis=1)

    def predict_proba(self, X):
        return np.asarray(X)

    def __sklearn_is_fitted__(self):
        return True


class Zero(np.random.RandomState):
    """MAPIE's RAPS takes a random part of each score away: none."""

    def uniform(self, *args, size=None, **kwargs):
        return np.zeros(size)


def mapies(p, labels, new, kind, level):
    """MAPIE's threshold and sets (N, K), with our constants of RAPS and without its random part.

    Its LAC leaves sets empty where ours hold the first class. By ``include_last_label=False`` the class whose score
    would exceed the threshold is left out, but never the first.
    """
    from mapie.classification import SplitConformalClassifier
    from mapie.conformity_scores import LACConformityScore, RAPSConformityScore
    from mapie.conformity_scores.sets.aps import APSConformityScore
    from mapie.utils import _compute_classification_quantile

    class Raps(RAPSConformityScore):
        def split_data(self, X, y, y_enc, sample_weight=None, groups=None):
            self.n_samples_ = len(y_enc)
            return X, y, y_enc, sample_weight, groups

        def get_conformity_scores(self, y, y_pred, y_enc=None, **kwargs):
            return APSConformityScore.get_conformity_scores(self, y, y_pred, y_enc)

        def get_conformity_score_quantiles(self, conformity_scores, alpha_np, *args, **kwargs):
            self.k_star, self.lambda_star = np.array([conformal.FREE]), conformal.PENALTY
            ranked = self._regularize_conformity_score(self.k_star, self.lambda_star, conformity_scores, self.cutoff)
            return _compute_classification_quantile(ranked, alpha_np)

    score = {"lac": LACConformityScore, "raps": Raps}[kind]()
    found = SplitConformalClassifier(
        Given(p.shape[1]), confidence_level=level, conformity_score=score, prefit=True, random_state=Zero(0)
    )
    found.conformalize(p, labels)
    sets = found.predict_set(new, conformity_score_params={"include_last_label": False})[1][:, :, 0]
    return score.quantiles_[0], sets.astype(bool)


def of_digits():
    """A ridge head's probabilities and labels of real images that it was not fitted on: scikit-learn's digits."""
    from sklearn.datasets import load_digits

    x, labels = load_digits(return_X_y=True)
    part = Subset(x.astype("f4"), labels)
    head = Ridge(Splits(part[:400], part[400:], part[:400]), n_classes=10, seed=0)
    return probabilities(head.val_scores, temperature(head.val_scores, labels[400:])), labels[400:]


def data_of(name):
    return of_digits() if name == "digits" else simulated(8400, name, seed=name)


@pytest.mark.parametrize(
    ("name", "kind"), [(2, "lac"), *((n, k) for n in ("digits", 10, 256) for k in conformal.KINDS)]
)
def test_thresholds_and_sets_are_mapies(name, kind):
    """To the last bit. MAPIE takes no RAPS of two classes."""
    p, labels = data_of(name)
    n = len(p) - 400
    for level in (0.8, 0.9, 0.95):
        threshold, theirs = mapies(p[:n], labels[:n], p[n:], kind, level)
        assert conformal.threshold(own(p[:n], labels[:n], kind), level) == threshold
        found = conformal.sets(p[n:], kind=kind, threshold=threshold)
        theirs |= np.arange(p.shape[1]) == np.where(theirs.any(axis=1), -1, p[n:].argmax(axis=1))[:, None]
        np.testing.assert_array_equal(found, theirs)
