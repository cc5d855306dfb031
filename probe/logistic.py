"""Multinomial logistic regression with L2 on standardised features: the whole regularisation path, then one head.

Minimises, over weights W (K, D) and an unpenalised intercept, for n images of relative weights s_i (all equal unless
``class_weight`` is balanced or gives each class its own),

    F(W) = sum_i s_i cross-entropy_i / sum_i s_i + ||W||^2 / (2 C n).

C is scikit-learn's. Of two classes scikit-learn keeps one row w, here (-w/2, w/2): its C is twice ours.
"""

import numpy as np

from backbench.accuracy import top_k
from backbench.calibration import nll
from backbench.probe.head import LinearHead
from backbench.probe.softmax.array_backends import numpy
from backbench.probe.softmax.objective import Rows
from backbench.probe.softmax.solver import Solver
from backbench.probe.softmax.torch_objective import objective
from backbench.probe.subsets import Splits, moments
from backbench.progress import tell

GRID = tuple(float(f"{c:.4g}") for c in np.logspace(-6, 5, 45))
"""Values of C tried, from strong to weak regularisation: 45, log-spaced, as Kornblith et al. (2019)."""

PATH_TOLERANCE, TOLERANCE = 1e-4, 1e-5
"""How far F may lie above its optimum, as a share of F and by a bound: while C is chosen, and for the head."""

START = 0.03
"""Value of C that is tried first: about the middle of those that real features choose."""

TURNED = 2
"""Values of C in a row, clearly worse on val than the best, after which no more are tried in that direction.
In 600 draws of real features, of 2 to 10 classes, the cross-entropy on val fell to one minimum and rose after it: one
would have done."""

CLOSE = 0.1
"""Values of C are solved more tightly where their cross-entropies on val differ by less than ``CLOSE`` times the square
root of the tolerance, as a share. On real features the tolerance moves them by 0.02 to 0.07 times its square root."""

TIGHTEST = 1e-8
"""Tolerance at which close values of C are no longer told apart."""


class Logistic:
    """Choose C on val along the path, then fit once on final with that C. The standardisation is always train's."""

    def __init__(
        self,
        data: Splits,
        *,
        n_classes: int,
        seed: int,
        device: str = "auto",
        class_weight: str | np.ndarray = "none",
        grid=GRID,
        path_tolerance: float = PATH_TOLERANCE,
        tolerance: float = TOLERANCE,
    ):
        mean, scale = moments(data.train)
        problem = _Problem(mean, scale, n_classes=n_classes, class_weight=class_weight, device=device)
        solver = problem.solver(data.train)
        tried, best = path(solver, problem.rows(data.val), grid=grid, tolerance=path_tolerance)
        weights, c, self.val_top1 = best["weights"], best["C"], best["val_top1"]
        self.val_scores = problem.head(weights).over(data.val)
        if data.final is not data.train:
            covariance = solver.preconditioner.covariance
            solver = None  # the rows of both need not fit beside each other
            solver = problem.solver(data.final, covariance)
        solver.start(weights)
        found = solver.solve(1 / (c * len(data.final)), tolerance)
        check, precision = solver.verified(), solver.objective.precision
        self.converged = check["gap_bound"] <= 2 * tolerance and all(t["gap_bound"] <= path_tolerance for t in tried)
        self.head = problem.head(solver.weights)
        self.train_top1 = self.head.top1(data.train)
        self.device = solver.objective.device
        self.chosen = f"C={c:g}"
        self.protocol = {
            "objective": "mean cross-entropy + ||W||^2 / (2 C n), intercept free",
            "solver": "L-BFGS, class-wise curvature",
            "precision": {"bfloat16": "bfloat16 around float32"}.get(precision, precision),
            "standardised": "mean and standard deviation of train",
            "class_weight": class_weight,
            "C": c,
            "C_tried": tried,
            "C_at_edge": c in (grid[0], grid[-1]),
            "chosen_on": "val cross-entropy, ties to the stronger penalty",
            "refit_on": "train+val" if data.final is not data.train else "train",
            "path_tolerance": path_tolerance,
            "tolerance": tolerance,
            "evaluations": found["evaluations"],
            **check,
        }
        if self.protocol["C_at_edge"] and len(grid) > 1:
            tell(f"C={c:g} is the end of the range tried: the best may lie beyond.")

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Logits (N, K) for features (N, D)."""
        return self.head.scores(features)


def path(solver: Solver, val: Rows, *, grid, tolerance: float) -> tuple[list[dict], dict]:
    """Solve for the C of ``grid`` nearest to START, then for stronger and weaker penalties until val has turned.

    Returns what each C gave, sorted by C, and the best with its weights. Best is the lowest mean cross-entropy on val,
    then the strongest penalty. Values too close to be told apart at this ``tolerance`` are solved again at a hundredth
    of it, so that the choice is that of exact solutions.
    """

    def solved(c: float, tolerance: float, weights=None) -> dict:
        if weights is not None:
            solver.start(weights)
        found = solver.solve(1 / (c * len(solver.objective.rows)), tolerance)
        top1, loss = _on(val, solver)
        tried[c] = {"C": c, "val_top1": top1, "val_cross_entropy": loss, **found}
        return tried[c] | {"weights": solver.weights}

    def best_of(candidates: list[dict]) -> list[dict]:
        """The best first, and then those that are too close to it."""
        candidates = sorted(candidates, key=_rank)
        limit = candidates[0]["val_cross_entropy"] * (1 + CLOSE * tolerance**0.5)
        return [one for one in candidates if one["val_cross_entropy"] <= limit]

    tried, grid = {}, sorted(grid)
    start = int(np.argmin(np.abs(np.log(np.array(grid) / START))))
    first = solved(grid[start], tolerance)
    candidates = [first]
    for weights, values in ((None, grid[start + 1 :]), (first["weights"], grid[:start][::-1])):
        worse = 0
        for c in values:
            found, weights = solved(c, tolerance, weights), None
            candidates = best_of([*candidates, found])
            worse = 0 if any(one is found for one in candidates) else worse + 1
            if worse == TURNED:
                break
    while len(candidates) > 1 and tolerance > TIGHTEST:
        tolerance = max(tolerance / 100, TIGHTEST)
        candidates = best_of([solved(one["C"], tolerance, one["weights"]) for one in candidates])
    return sorted(tried.values(), key=lambda one: one["C"]), candidates[0]


def _rank(found: dict) -> tuple[float, float]:
    return found["val_cross_entropy"], found["C"]


def _on(rows: Rows, solver: Solver) -> tuple[float, float]:
    """The top-1 and mean cross-entropy of the solver's weights on ``rows``."""
    # By the solver's kind of array: numpy's products would leave threads that wait in the way of torch's.
    of, right, loss = solver.objective.arrays.of, 0, 0.0
    weights = of(solver.point.weights)
    for at, x in rows.blocks():
        logits, labels = numpy(of(x) @ weights[:, :-1].T + weights[:, -1]), rows.labels[at]
        right += top_k(logits, labels, k=1).sum()
        loss += nll(logits, labels) * len(labels)
    return float(right / len(rows)), loss / len(rows)


class _Problem:
    """What the path and the last fit have in common."""

    def __init__(self, mean, scale, *, n_classes, class_weight, device):
        self.mean, self.scale = mean, scale
        self.n_classes, self.class_weight, self.device = n_classes, class_weight, device

    def rows(self, part, weights=None) -> Rows:
        return Rows(part, self.mean, self.scale, weights=weights, limit=part.memory_limit)

    def solver(self, part, covariance=None) -> Solver:
        rows = self.rows(part, relative(part.labels, self.class_weight))
        return Solver(objective(rows, self.n_classes, device=self.device), covariance)

    def head(self, weights: np.ndarray) -> LinearHead:
        return LinearHead(self.mean, self.scale, weights[:, :-1], weights[:, -1])


def relative(labels: np.ndarray, class_weight: str | np.ndarray) -> np.ndarray | None:
    """Each image's weight (N,): its class's among (K,), or as ``balanced``; None where it is none, all are equal."""
    if isinstance(class_weight, str):
        return balanced(labels) if class_weight == "balanced" else None
    return class_weight[labels]


def balanced(labels: np.ndarray) -> np.ndarray:
    """Weights (N,) that give every class the same sum, as scikit-learn's class_weight='balanced'."""
    counts = np.bincount(labels)
    return len(labels) / (np.count_nonzero(counts) * counts[labels])
