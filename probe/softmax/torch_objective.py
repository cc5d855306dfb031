"""The softmax objective where there is hardware for it: GPUs, and processors that multiply bfloat16 matrices.

bfloat16 has 8 bits of mantissa: on its own it comes to rest at a gap of 5e-4 and looks converged. Here it multiplies
differences only. A pass in float32 gives the logits Z, the residuals R (probability less truth, times the image's
share) and the gradient G at some weights W. A step S then leads to

    Z' = Z + X S,    G' = G + (R' - R)^T X,

with X, S and R' - R in bfloat16 and all else in float32; from there the next step goes on. Rounding takes its share of
every step, not of W itself, and leaves the difference of two gradients, which is what L-BFGS lives on, as good as its
8 bits. A new float32 pass now and then makes the sum of it as small as one likes (iterative refinement, as for linear
systems). A step shortened costs one product instead of two.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from backbench.devices import has_bfloat16, pick_device
from backbench.packages import has
from backbench.probe.softmax.array_backends import Numpy, Torch, numpy
from backbench.probe.softmax.lbfgs_memory import dot
from backbench.probe.softmax.objective import Objective, Point, Rows

WORTH_TORCH = 2e9
"""Multiply-adds of one pass over the rows from which importing torch (a second or two) pays."""

DOUBT, DOUBT_AT_FIRST = 1e-3, 1e-2
"""Gap at which bfloat16 begins to mislead, as a share of how far the objective's linear model at W falls short at W0.
The errors of slopes make a tenth of it by themselves, as measured; a new W0 earlier than they matter costs fewer
passes. The second counts where W0 is the start, without features.
"""


ROUNDING = 16 * 2**-9
"""Share of a number that bfloat16 rounds off, times 16: errors that images have in common don't cancel. Gradients were
1.2 to 14 times as wrong as independent errors would make them, on 3 real and 4 synthetic sets of features."""


def objective(rows: Rows, n_classes: int, *, device: str) -> Objective:
    """For ``device`` as on the command line. auto: a GPU for large problems; a CPU's bfloat16 units where it has them.

    Without torch: numpy's. Raises UsageError for a device that isn't there.
    """
    small = len(rows) * rows.dim * n_classes < WORTH_TORCH
    if device in ("auto", "cpu") and (small or not has("torch") or (device == "cpu" and not has_bfloat16())):
        return Objective(rows, n_classes)
    chosen = pick_device(device)
    if chosen.type == "cpu" and not has_bfloat16():
        return Objective(rows, n_classes)
    # What bfloat16 takes beside the rows: them twice more, at half the size, and logits and residuals at two points.
    fits = rows.kept is not None and len(rows) * (8 * rows.dim + 20 * n_classes) <= rows.limit
    return (MixedPrecisionObjective if chosen.type == "cpu" and fits else TorchObjective)(
        rows, n_classes, device=chosen
    )


class TorchObjective(Objective):
    """Its passes in torch's float32, and at the end in numpy's float64.

    Rows that are kept in memory are kept on the device, others go there block by block.
    """

    def __init__(self, rows: Rows, n_classes: int, *, device):
        import torch

        super().__init__(rows, n_classes)
        self.torch, self.arrays, self.device = torch, Torch(device), device.type
        self.blocks = None if rows.kept is None else [self._block(at, x) for at, x in rows.blocks()]

    def native(self, array):
        return super().native(array) if self.precision == "float64" else self.arrays.of(array)

    def raise_precision(self) -> bool:
        self.blocks, self.device, self.arrays = None, "cpu", Numpy()
        return super().raise_precision()

    def start(self) -> Point:
        start = super().start()
        return start._replace(weights=self.native(start.weights), slope=self.native(start.slope))

    def evaluate(self, weights) -> Point:
        if self.precision == "float64":
            return super().evaluate(weights)
        self.evaluations += 1
        free, intercept, found = weights[:, :-1].contiguous(), weights[:, -1], self._sums(weights)
        for i, block in enumerate(self.blocks or (self._block(*b) for b in self.rows.blocks())):
            z = self.torch.nn.functional.linear(block.x, free, intercept)
            r = self._residuals(z, block, found)
            found.slope[:, :-1] += r.T @ block.x
            self._keep(i, z, r)
        return self._point(weights, found)

    def _keep(self, i: int, logits, residuals) -> None:
        """Of block ``i``; for who needs them."""

    def _residuals(self, logits, block: "Block", found: "Sums", *, out=None):
        """Probability less truth, times the image's share, (m, K); what else is wanted of the block goes to ``found``.

        Probabilities given away are summed over the others: one less the own would lose all digits where it nears 1.
        """
        torch = self.torch
        p = torch.softmax(logits, 1, out=out)
        own = p.gather(1, block.labels)
        rest = p.scatter_(1, block.labels, 0).sum(1, keepdim=True)
        each = torch.where(own > 0.5, -torch.log1p(-rest.clamp(max=0.5)), -torch.log(own))
        if float(own.min()) < 1e-30:
            each = torch.logsumexp(logits, 1, keepdim=True) - logits.gather(1, block.labels)
        found.loss.append(float((block.share * each).sum()))
        found.miss[block.at] = numpy(rest[:, 0])
        p *= block.share
        rest *= block.share
        found.stray.add_(p.sum(0))
        found.own.index_add_(0, block.labels[:, 0], rest[:, 0])
        return p.scatter_(1, block.labels, -rest)

    def _sums(self, weights) -> "Sums":
        none = self.torch.zeros_like(weights)
        return Sums(none, none[:, 0].clone(), none[:, 0].clone(), np.empty(len(self.rows)), [])

    def _point(self, weights, found: "Sums") -> Point:
        found.slope[:, -1] = found.stray - found.own
        return Point(weights, sum(found.loss), found.slope, found.miss, numpy(found.stray).astype(np.float64))

    def _block(self, at: slice, x: np.ndarray) -> "Block":
        labels, share = self.torch.from_numpy(self.rows.labels[at]), self.arrays.of(self.rows.share[at])
        return Block(at, self.arrays.of(x), labels.to(self.arrays.device)[:, None], share[:, None])


class Block(NamedTuple):
    """Which rows, and theirs: features (m, D), labels (m, 1), shares (m, 1)."""

    at: slice
    x: object
    labels: object
    share: object


class Sums(NamedTuple):
    """Over the blocks, as in a Point; ``own`` (K,) is what each class's own images give away."""

    slope: object
    stray: object
    own: object
    miss: np.ndarray
    loss: list[float]


@dataclass
class Place:
    """Logits and residuals at a point, (N, K) float32 each."""

    logits: object
    residuals: object
    point: Point | None = None
    error: float = 0.0  # of the point's gradient: its square norm, as estimated


class MixedPrecisionObjective(TorchObjective):
    """Steps in bfloat16 from a pass made in float32, as told above, for rows kept in a CPU's memory.

    Once at a higher precision, like its parent.
    """

    def __init__(self, rows: Rows, n_classes: int, *, device):
        super().__init__(rows, n_classes, device=device)
        self.precision, low = "bfloat16", self.torch.bfloat16
        self.arrays = Torch(device, coarse="bfloat16")
        self.x, self.change, self.moved = (self._room(width, low) for width in (rows.dim, n_classes, n_classes))
        self.here, self.ahead = Place(*self._rooms()), Place(*self._rooms())
        for block in self.blocks:
            self.x[block.at].copy_(block.x)

    def raise_precision(self) -> bool:
        if self.precision != "bfloat16":
            return super().raise_precision()
        self.precision, self.x, self.change, self.moved, self.here, self.ahead = "float32", *(None,) * 5
        return True

    def gap_error(self, point: Point, penalty: float) -> float:
        if self.precision != "bfloat16":
            return 0.0
        (there, _), (here, gradient) = self.base.at(penalty), point.at(penalty)
        return (DOUBT_AT_FIRST if self.first else DOUBT) * max(
            0.0, there - here - dot(gradient, self.base.weights - point.weights)
        )

    def gradient_error(self, point: Point) -> float:
        if self.precision != "bfloat16":
            return 0.0
        return self.ahead.error if point is self.ahead.point else self.here.error

    def start(self) -> Point:
        self.base, self.first = super().start(), True
        intercept = self.base.weights[:, -1]
        self.here.logits[:] = intercept
        for block in self.blocks:
            residuals = self.torch.mul(block.share, intercept.exp(), out=self.here.residuals[block.at])
            residuals.scatter_add_(1, block.labels, -block.share)
        self._settle(self.base)
        return self.base

    def _settle(self, base: Point) -> None:
        self.here.point, self.here.error, self.ahead.point = base, 0.0, None
        self.moved.copy_(self.here.residuals)
        self.tilt = base.slope[:, :-1] - self.moved.T @ self.x

    def evaluate(self, weights) -> Point:
        point = super().evaluate(weights)
        if self.precision == "bfloat16":
            self.base, self.first = point, False
            self._settle(point)
        return point

    def along(self, point: Point, step) -> Callable[[float], Point]:
        if self.precision != "bfloat16":
            return super().along(point, step)
        if point is self.ahead.point:
            self.here, self.ahead = self.ahead, self.here
        low = step[:, :-1].to(self.x.dtype)
        self.torch.mm(self.x, low.T, out=self.change)
        step[:, :-1] = low  # so the step itself is exact
        return lambda length: self._ahead(step, length)

    def _ahead(self, step, length: float) -> Point:
        """A product, softmax and a product: where only ``length`` has changed, without the first."""
        self.evaluations += 1
        torch, here, ahead, found = self.torch, self.here, self.ahead, self._sums(step)
        for block in self.blocks:
            at = block.at
            z = torch.add(here.logits[at], self.change[at], alpha=length, out=ahead.logits[at])
            z += length * step[:, -1]
            r = self._residuals(z, block, found, out=ahead.residuals[at])
            torch.sub(r, here.residuals[at], out=self.moved[at])
        # One product for all rows: that is half the time of one a block.
        torch.add(here.point.slope[:, :-1], self.moved.T @ self.x, out=found.slope[:, :-1])
        weights = here.point.weights + length * step
        # Rounded features have another slope at the base than the features: by a known difference, so it is added.
        found.loss.append(dot(self.tilt, (weights - self.base.weights)[:, :-1]))
        ahead.point = self._point(weights, found)
        # The square norm of a standardised image is D on average; of the step's product, as many terms are rounded.
        rounded = torch.linalg.norm(self.moved, dtype=torch.float32) ** 2
        rounded += torch.linalg.norm(ahead.residuals * torch.linalg.norm(length * step[:, :-1], dim=1)) ** 2
        ahead.error = here.error + ROUNDING**2 * self.rows.dim * float(rounded)
        return ahead.point

    def _keep(self, i: int, logits, residuals) -> None:
        if self.precision == "bfloat16":
            at = self.blocks[i].at
            self.here.logits[at], self.here.residuals[at] = logits, residuals

    def _rooms(self):
        return (self._room(self.n_classes, self.torch.float32) for _ in range(2))

    def _room(self, width: int, dtype):
        """For (N, width) numbers. numpy's arrays lie in huge pages, torch's do not."""
        return self.torch.from_numpy(np.empty((len(self.rows), width), f"u{dtype.itemsize}")).view(dtype)
