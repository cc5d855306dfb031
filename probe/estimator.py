"""The logistic probe as a scikit-learn estimator, for pipelines and cross-validation.

Unlike the rest of this room it needs scikit-learn, and is imported only where it is asked for.
"""

import warnings
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state, compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from backbench.calibration import temperature
from backbench.probe.classifier import probabilities
from backbench.probe.logistic import Logistic
from backbench.probe.subsets import Splits, Subset
from backbench.progress import silenced

VAL_SHARE = 0.125
"""Share of each class's rows on which the penalty is chosen, as where a data set has no val of its own."""


class LogisticProbe(ClassifierMixin, BaseEstimator):
    """Multinomial logistic regression on features, its penalty chosen along the whole path, as ``probe`` does it.

    ``fit`` cuts a val from its own rows: of the n rows of each class ``val_share * n``, rounded, but one at least and
    n - 1 at most, drawn by ``random_state``; a class of one row has none there. The features are standardised by the
    rows that are left. The penalty with the lowest cross-entropy on val is chosen and the head is fitted again on all
    rows. ``predict_proba`` is scaled by the temperature that val chose for the head fitted without it.

    Features are computed in float32. No row given to ``score`` or ``predict`` decides anything.

    Parameters
    ----------
    class_weight : dict, "balanced" or None
        Weights of the classes in the loss, as in scikit-learn's LogisticRegression.
    val_share : float
        Share of each class's rows that the penalty is chosen on, between 0 and 1.
    device : str
        Where it is computed: auto, cpu, cuda, cuda:N or mps.
    random_state : int, RandomState or None
        Decides which rows are val. Elsewhere in backbench this is called the seed.

    Attributes
    ----------
    classes_ : ndarray (K,)
        The classes, sorted.
    n_features_in_ : int
        D, the number of features.
    C_ : float
        The penalty chosen, as scikit-learn counts it.
    val_score_ : float
        Accuracy on val of the head fitted without it, 0..1: the highest figure that may be quoted before test.
    temperature_ : float
        By which scores are divided before they become probabilities.
    converged_ : bool
        Whether every bound shows the tolerances kept; where not, ``fit`` warns.
    head_ : backbench.probe.head.LinearHead
        Mean, scale, weights and intercept.
    """

    def __init__(self, *, class_weight=None, val_share=VAL_SHARE, device="auto", random_state=42):
        self.class_weight = class_weight
        self.val_share = val_share
        self.device = device
        self.random_state = random_state

    def fit(self, X, y):
        """Choose the penalty and fit the head on features ``X`` (N, D) and labels ``y`` (N,).

        Raises ValueError where there are fewer than two classes, or no class of two rows to choose a penalty on.
        """
        X, y = validate_data(self, X, y, dtype=np.float32, order="C")
        check_classification_targets(y)
        if not 0 < self.val_share < 1:
            raise ValueError(f"val_share={self.val_share!r}: a share between 0 and 1 is expected")
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"LogisticProbe needs at least two classes, y has one class, {self.classes_[0]!r}")
        val = _val(labels, self.val_share, check_random_state(self.random_state))
        if not val.any():
            raise ValueError(f"n_samples={len(X)}: no class has two rows, so there is none to choose a penalty on")
        order = np.concatenate([np.flatnonzero(~val), np.flatnonzero(val)])
        rows: Any = X
        final, n = Subset(rows[order], labels[order]), int((~val).sum())
        data = Splits(final[:n], final[n:], final)
        weight = "none"
        if self.class_weight is not None:
            weight = compute_class_weight(self.class_weight, classes=self.classes_, y=y)
        with silenced():
            fitted = Logistic(data, n_classes=len(self.classes_), seed=0, device=self.device, class_weight=weight)
        self.head_, self.converged_, self.C_ = fitted.head, fitted.converged, fitted.protocol["C"]
        self.val_score_ = fitted.val_top1
        self.temperature_ = temperature(fitted.val_scores, data.val.labels)
        if not self.converged_:
            warnings.warn("LogisticProbe has not converged to its tolerances", ConvergenceWarning, stacklevel=2)
        return self

    def predict(self, X):
        """The class of each row of ``X`` (N, D), (N,)."""
        scores = self._scores(X)
        return self.classes_[scores.argmax(axis=1)]

    def predict_proba(self, X):
        """The probability of each class (N, K) in the order of ``classes_``, for each row of ``X`` (N, D)."""
        return probabilities(self._scores(X), self.temperature_)

    def _scores(self, X) -> np.ndarray:
        check_is_fitted(self)
        rows: Any = validate_data(self, X, dtype=np.float32, reset=False)
        return self.head_.scores(rows)


def _val(labels: np.ndarray, share: float, random) -> np.ndarray:
    """Which rows are val (N,) bool: of each class its share, one at least, but never all."""
    val = np.zeros(len(labels), bool)
    for label in range(labels.max() + 1):
        rows = np.flatnonzero(labels == label)
        count = min(max(1, round(share * len(rows))), len(rows) - 1)
        val[random.permutation(rows)[:count]] = True
    return val
