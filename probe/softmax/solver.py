"""L-BFGS on the softmax objective, from one penalty to the next, each solved from where the last ended."""

import numpy as np

from backbench.probe.softmax.array_backends import numpy
from backbench.probe.softmax.lbfgs_memory import LbfgsMemory, dot
from backbench.probe.softmax.objective import Objective, Point
from backbench.probe.softmax.preconditioner import Covariance, Preconditioner

MEMORY = 20
"""LbfgsMemory of steps and gradient differences kept."""

EVALUATIONS = 500
"""Most passes over the rows for one penalty."""

DECAY, LEAST = 0.3, 0.05
"""What ``damping`` falls by after a step as good as predicted, and below what it is none."""

FRESH = 10
"""Steps after which the curvature is taken anew."""


class Solver:
    """Minimises mean cross-entropy + penalty / 2 ||W||^2 over (K, D) weights W and a free intercept.

    Weights, gradients and steps are arrays of the objective's own kind.
    """

    def __init__(self, objective: Objective, covariance: Covariance | None = None):
        self.objective = objective
        covariance = covariance or Covariance(objective.rows)
        self.preconditioner = Preconditioner(objective.rows, objective.n_classes, covariance, objective.arrays)
        self.point = objective.start()
        self.memory = LbfgsMemory(MEMORY, self.objective.native)
        self.penalty = None
        self.direction = None  # how the weights change with the penalty's logarithm, (K, D + 1)
        self.damping, self.scales = 1.0, []

    @property
    def weights(self) -> np.ndarray:
        """(K, D + 1), where the solver stands."""
        return numpy(self.point.weights)

    def start(self, weights: np.ndarray) -> None:
        """Go on from (K, D + 1) ``weights``."""
        self.point = self.objective.evaluate(self.objective.native(weights))
        self.penalty = self.direction = None
        self.damping = 0.1

    def solve(self, penalty: float, tolerance: float) -> dict:
        """Solve for ``penalty`` until a bound shows the objective to lie above its optimum by a share of ``tolerance``.

        The bound counts the errors of the arithmetic. It is returned as ``gap_bound``, beside the number of
        ``evaluations``, and is larger than the tolerance where ``EVALUATIONS`` did not suffice.
        """
        before, since, ratio, left = self.objective.evaluations, None, 1.0, (self.weights, self.penalty)
        if self.penalty is not None:
            self._predict(penalty)
        self.penalty = penalty
        # LbfgsMemory of another penalty hold back more than they help: the loss bends less where its fit is better.
        self.memory = LbfgsMemory(MEMORY, self.objective.native)
        while True:
            value, gradient = self.point.at(penalty)
            bound, allowed = _gap_bound(self.point, numpy(gradient), penalty), tolerance * value
            safe = bound + self.objective.gradient_error(self.point) / (2 * penalty)
            if safe <= allowed:
                break
            gap_error = self.objective.gap_error(self.point, penalty)
            if bound > allowed:
                if self.objective.evaluations - before >= EVALUATIONS:
                    break
                if since is None or since >= FRESH:
                    self.preconditioner.update(self.point, penalty, self.damping)
                    since = 0
                step, fall = self._step(gradient)
                gap = fall / 2 * max(1.0, ratio) / self.scale
            if bound <= allowed or gap_error > max(gap, allowed):
                self.point = self.objective.evaluate(self.point.weights)
                continue
            found, ratio = self._search(value, gradient, step, fall)
            since += 1
            if found is None:
                if not self.objective.gap_error(self.point, penalty) and self.damping < 1 and since > 1:
                    self.damping, since = 1.0, None
                elif self._raise_precision():
                    since = None
                else:
                    break
                ratio = 1.0
                continue
            if ratio < 0:  # the step was shortened
                self.damping, since = min(1.0, max(self.damping, 0.1) * 1.5), None
            elif ratio > 0.6 and self.damping:
                self.damping, since = (self.damping * DECAY if self.damping > LEAST else 0.0), None
            ratio = abs(ratio)
            self.memory.add(found.weights - self.point.weights, found.at(penalty)[1] - gradient)
            self.point = found
        if left[1] not in (None, penalty):
            self.direction = (self.weights - left[0]) / np.log(penalty / left[1])
        return {"gap_bound": safe / value, "evaluations": self.objective.evaluations - before}

    def _predict(self, penalty: float) -> None:
        """Start from where the last two penalties' weights point to, if that is better than from the last's."""
        if self.direction is None or penalty == self.penalty:
            return
        moved = self.objective.native(self.direction * np.log(penalty / self.penalty))
        last = self.point
        self.point = self.objective.evaluate(last.weights + moved)
        if self.point.at(penalty)[0] >= last.at(penalty)[0]:
            self.point = self.objective.evaluate(last.weights)

    def verified(self) -> dict:
        """What the weights are worth, measured in float64 whatever they were found in.

        ``gap_bound`` is how far ``objective`` may lie above the optimum, as a share of it.
        """
        exact = Objective(self.objective.rows, self.objective.n_classes, dtype=np.float64)
        point = exact.evaluate(self.weights)
        value, gradient = point.at(self.penalty)
        return {
            "objective": value,
            "gap_bound": _gap_bound(point, gradient, self.penalty) / value,
            "gradient_norm": float(np.linalg.norm(gradient)),
        }

    def _raise_precision(self) -> bool:
        """Go on in finer arithmetic from where the solver stands; False where there is none."""
        if self.objective.gap_error(self.point, self.penalty) == 0:
            weights = self.weights
            if not self.objective.raise_precision():
                return False
            self.point = self.point._replace(weights=self.objective.native(weights))
            self.memory = LbfgsMemory(MEMORY, self.objective.native)
        self.point = self.objective.evaluate(self.point.weights)
        return True

    def _step(self, gradient) -> tuple:
        """L-BFGS around ``curvature``: the step, and how far along it the objective falls at first."""
        native, pairs = self.objective.native, self.memory
        rest = gradient - pairs.before(gradient)
        if len(pairs):
            # Two classes between which an image lies bend the objective together, up to twice as much as each alone.
            y, curvature = pairs.last
            step, of_y = (native(found) for found in self.preconditioner(rest, y))
            # One pair's scale jumps from step to step; the mean of some cuts the passes by a quarter.
            self.scales = [*self.scales[-3:], min(1.0, max(0.1, curvature / dot(y, of_y)))]
        else:
            step = native(self.preconditioner(rest)[0])
        self.scale = float(np.exp(np.log(self.scales or [1.0]).mean()))
        step *= self.scale
        step += pairs.after(step)
        return -step, dot(gradient, step)

    def _search(self, value, gradient, step, fall) -> tuple[Point | None, float]:
        """The first good enough point along ``step``, and what the objective fell beside what was predicted.

        Negative where the step had to be shortened. (None, 0) where arithmetic this coarse shows no descent.
        """
        length, hidden = 1.0, self.objective.noise * value
        along = self.objective.along(self.point, step)
        for _ in range(8):
            found = along(length)
            there, slope = found.at(self.penalty)
            gain = value - there
            if gain >= 1e-4 * length * fall:
                return found, gain / (length * (1 - length / 2) * fall) * (1 if length == 1.0 else -1)
            if abs(gain) <= hidden:
                # Too near for values to tell: the approximate Wolfe condition (Hager & Zhang 2005) asks the slopes.
                rise = dot(slope, step)
                if -0.9 * fall <= rise <= 0.8 * fall:
                    return found, 1.0
                # Slopes as coarse as values leave a gap that is their square.
                if length < 0.1 or fall < self.objective.noise**2 * value:
                    break
                length *= max(0.1, fall / (fall + rise)) if rise > 0 else 0.5
            else:
                length *= min(0.5, max(0.1, length * fall / (2 * (length * fall - gain))))
        return None, 0.0


def _gap_bound(point: Point, gradient: np.ndarray, penalty: float) -> float:
    """How far the objective may lie above its optimum: ||g||^2 / (2 penalty) for the weights, their duality gap.

    The unpenalised intercepts have none. Their curvature is their own at the point, unless weights make up for them, at
    a penalty that the mean square length D of a standardised image divides: both are counted, as 1 / curvature. In
    1,200 random problems the optimum was never further off.
    """
    squares = np.square(gradient, dtype=np.float64)
    intercepts = (squares[:, -1] / (2 * np.maximum(point.stray, 1e-12))).sum()
    return float(intercepts + (squares[:, :-1].sum() + gradient.shape[1] * squares[:, -1].sum()) / (2 * penalty))
