"""Multinomial logistic regression with L2 on standardised features, by scikit-learn's L-BFGS.

Minimises, over weights W (K, D) and an unpenalised intercept,

    F(W) = mean cross-entropy + ||W||^2 / (2 C n).

scikit-learn stops where no entry of F's gradient exceeds ``tol``, by default 1e-4. With many classes every entry is
small from the start: at 256 classes that is 11 % above the optimum, and reported as success. Here the tolerance is
relative to the gradient at W = 0, and what comes back is checked in float64.
"""

import sys
import warnings

import numpy as np

from probe.metrics import top_k

GRID = tuple(float(f"{c:.3g}") for c in np.logspace(-5, 1, 13))
"""Values of C tried, from strong to weak regularisation, each fit starting from the last."""

TOLERANCE, ROUGH = 1e-4, 1e-3
"""Largest gradient entry at the end, as a share of the largest at W = 0: for the head, and while choosing C."""

MAX_ITERATIONS = 3000

TURNED = 3
"""Values of C in a row without a better val top-1 or val cross-entropy after which weaker ones aren't tried."""


class Logistic:
    """C chosen on val, then one fit on train+val with that C. Standardisation is train's throughout."""

    def __init__(self, train, val, *, n_classes: int, seed: int):
        self.mean = train.features.mean(axis=0, dtype=np.float64)
        deviation = train.features.std(axis=0, dtype=np.float64)
        self.scale = np.where(deviation > 0, deviation, 1.0)  # a constant column stays zero
        x_train, x_val = self._standardised(train.features), self._standardised(val.features)

        fit = _Fit(x_train, train.labels, n_classes)
        tried, best, since = [], None, 0
        for c in GRID:
            fit.to(c, ROUGH)
            logits = fit.logits(x_val)
            top1, loss = top_k(logits, val.labels, k=1).mean(), _cross_entropy(logits, val.labels)
            tried.append({"C": c, "val_top1": float(top1), "val_cross_entropy": float(loss)})
            better = best is None or (top1, -loss) > best[:2]
            since = 0 if better or loss <= min(t["val_cross_entropy"] for t in tried) else since + 1
            if better:
                best = top1, -loss, c, fit.parameters()
            if since == TURNED:
                break
        top1, _, c, start = best
        self.val_top1 = float(top1)

        self.fit = _Fit(np.concatenate([x_train, x_val]), np.concatenate([train.labels, val.labels]), n_classes, start)
        check = self.fit.to(c, TOLERANCE)
        self.converged = check["gradient_share"] <= TOLERANCE * 1.5  # measured again, in another order of summation
        self.train_top1 = float(top_k(self.fit.logits(x_train), train.labels, k=1).mean())
        self.chosen = f"C={c:g}"
        self.protocol = {
            "objective": "mean cross-entropy + ||W||^2 / (2 C n), intercept free",
            "solver": "scikit-learn lbfgs, float64",
            "standardised": "mean and standard deviation of train",
            "C": c,
            "C_tried": tried,
            "C_at_edge": c in (GRID[0], GRID[-1]),
            "chosen_on": "val top-1, ties to the lower val cross-entropy, then to the stronger penalty",
            "refit_on": "train+val",
            "tolerance": TOLERANCE,
            **check,
        }
        if self.protocol["C_at_edge"]:
            print(f"C={c:g} is the end of the range tried: the best may lie beyond.", file=sys.stderr)

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Logits (N, K) for features (N, D)."""
        return self.fit.logits(self._standardised(features))

    def _standardised(self, features: np.ndarray) -> np.ndarray:
        return (features - self.mean) / self.scale


class _Fit:
    """One problem, solved for one C after another, each from where the last ended."""

    def __init__(self, x: np.ndarray, labels: np.ndarray, n_classes: int, start=None):
        from sklearn.linear_model import LogisticRegression

        self.x, self.labels, self.n_classes = x, labels, n_classes
        self.model = LogisticRegression(solver="lbfgs", max_iter=MAX_ITERATIONS, warm_start=True)
        # Of two classes scikit-learn keeps one row w, here (-w/2, w/2): of the same logits, and half the penalty.
        self.binary = n_classes == 2
        zero = np.zeros((n_classes, x.shape[1])), np.zeros(n_classes)
        self.initial = np.abs(_gradient(x, labels, *zero, c=1.0)).max() or 1.0
        if start is not None:
            self.model.coef_, self.model.intercept_ = start
            self.model.classes_ = np.arange(n_classes)

    def parameters(self):
        return self.model.coef_.copy(), self.model.intercept_.copy()

    def to(self, c: float, tolerance: float) -> dict:
        """Solve for ``c``. Returns what was checked at the end, in float64."""
        from sklearn.exceptions import ConvergenceWarning

        self.model.set_params(C=2 * c if self.binary else c, tol=tolerance * self.initial)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # told by the figures instead
            self.model.fit(self.x, self.labels)
        weights, intercept = self._both()
        gradient = _gradient(self.x, self.labels, weights, intercept, c=c)
        loss = _cross_entropy(self.logits(self.x), self.labels) + (weights**2).sum() / (2 * c * len(self.x))
        return {
            "iterations": int(self.model.n_iter_.max()),
            "gradient_share": float(np.abs(gradient).max() / self.initial),
            # F is 1/(Cn)-strongly convex in W: the optimum can't lie lower than F by more than |grad|^2 C n / 2.
            "gap_bound": float((gradient**2).sum() * c * len(self.x) / 2 / loss),
        }

    def logits(self, x: np.ndarray) -> np.ndarray:
        weights, intercept = self._both()
        return x @ weights.T + intercept

    def _both(self):
        weights, intercept = self.model.coef_, self.model.intercept_
        if self.binary:
            return np.concatenate([-weights, weights]) / 2, np.concatenate([-intercept, intercept]) / 2
        return weights, intercept


def _cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    top = logits.max(axis=1)
    total = np.log(np.exp(logits - top[:, None]).sum(axis=1)) + top
    return float((total - logits[np.arange(len(labels)), labels]).mean())


def _gradient(x, labels, weights, intercept, *, c: float) -> np.ndarray:
    """Gradient of F by W and intercept, (K, D + 1)."""
    logits = x @ weights.T + intercept
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    p[np.arange(len(labels)), labels] -= 1
    return np.column_stack([p.T @ x / len(x) + weights / (c * len(x)), p.mean(axis=0)])
