"""The softmax objective where there is hardware for it: GPUs, and processors that multiply bfloat16 matrices.

bfloat16 has 8 bits of mantissa: on its own it comes to rest at a gap of 5e-4 and looks converged. Here it multiplies
differences only. One pass in float32 gives the logits Z0, the residuals R0 (probability less truth, times the image's
share) and the gradient G0 at some weights W0; then, at W near them,

    Z = Z0 + X (W - W0),    G = G0 + (R - R0)^T X,

with X, W - W0 and R - R0 in bfloat16 and all else in float32. Rounding takes its share of the way from W0, not of W
itself, and a new W0 now and then makes it as small as one likes (iterative refinement, as for linear systems).
"""

from typing import NamedTuple

import numpy as np

from backbench.devices import has_amx, pick_device
from probe.arrays import Numpy, Torch, numpy
from probe.objective import Objective, Point, Rows
from probe.pairs import dot

WORTH_TORCH = 2e9
"""Multiply-adds of one pass over the rows from which importing torch (a second or two) pays."""

DOUBT, DOUBT_AT_FIRST = 1e-3, 1e-2
"""Gap at which bfloat16 begins to mislead, as a share of how far the objective's linear model at W falls short at W0:
30 times the gap that its errors alone make, as measured, since those of values are larger than those of slopes. The
second counts where W0 is the start, without features."""


def objective(rows: Rows, n_classes: int, *, device: str) -> Objective:
    """For ``device`` as on the command line. auto: a GPU for large problems; a CPU's bfloat16 units where it has them.

    Raises UsageError for a device that isn't there.
    """
    small = len(rows) * rows.dim * n_classes < WORTH_TORCH
    if device in ("auto", "cpu") and (small or (device == "cpu" and not has_amx())):
        return Objective(rows, n_classes)
    chosen = pick_device(device)
    if chosen.type == "cpu" and not has_amx():
        return Objective(rows, n_classes)
    # What bfloat16 takes beside the rows: them once more, and logits and residuals.
    fits = rows.kept is not None and len(rows) * (6 * rows.dim + 8 * n_classes) <= rows.limit
    return (Refined if chosen.type == "cpu" and fits else Accelerated)(rows, n_classes, device=chosen)


class Accelerated(Objective):
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

    def sharpen(self) -> bool:
        self.blocks, self.device, self.arrays = None, "cpu", Numpy()
        return super().sharpen()

    def start(self) -> Point:
        start = super().start()
        return start._replace(weights=self.native(start.weights), slope=self.native(start.slope))

    def evaluate(self, weights, *, anew: bool = False) -> Point:
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

    def _residuals(self, logits, block: "Block", found: "Sums"):
        """Probability less truth, times the image's share, (m, K). What else is wanted of the block goes to ``found``.

        Probabilities given away are summed over the others: one less the own would lose all digits where it nears 1.
        """
        torch = self.torch
        p = torch.softmax(logits, 1)
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


class Refined(Accelerated):
    """Passes in bfloat16 around the last one made in float32, as told above, for rows kept in a CPU's memory.

    Once sharpened, like its parent.
    """

    def __init__(self, rows: Rows, n_classes: int, *, device):
        super().__init__(rows, n_classes, device=device)
        self.precision, low = "bfloat16", self.torch.bfloat16
        self.x, self.moved = self._room(rows.dim, low), self._room(n_classes, low)
        self.logits, self.residuals = (self._room(n_classes, self.torch.float32) for _ in range(2))
        for block in self.blocks:
            self.x[block.at].copy_(block.x)

    def sharpen(self) -> bool:
        if self.precision != "bfloat16":
            return super().sharpen()
        self.precision, self.x, self.moved, self.logits, self.residuals = "float32", None, None, None, None
        return True

    def doubt(self, point: Point, penalty: float) -> float:
        if self.precision != "bfloat16":
            return 0.0
        (there, _), (here, gradient) = self.base.at(penalty), point.at(penalty)
        return (DOUBT_AT_FIRST if self.first else DOUBT) * max(
            0.0, there - here - dot(gradient, self.base.weights - point.weights)
        )

    def start(self) -> Point:
        self.base, self.first = super().start(), True
        intercept = self.base.weights[:, -1]
        self.logits[:] = intercept
        for block in self.blocks:
            residuals = self.torch.mul(block.share, intercept.exp(), out=self.residuals[block.at])
            residuals.scatter_add_(1, block.labels, -block.share)
        return self.base

    def evaluate(self, weights, *, anew: bool = False) -> Point:
        if self.precision != "bfloat16":
            return super().evaluate(weights)
        if anew:
            self.base, self.first = super().evaluate(weights), False
            return self.base
        self.evaluations += 1
        torch, found = self.torch, self._sums(weights)
        moved = (weights - self.base.weights).to(torch.bfloat16)
        free, intercept = moved[:, :-1].contiguous().T, (weights - self.base.weights)[:, -1]
        for block in self.blocks:
            z = (self.x[block.at] @ free).float().add_(self.logits[block.at]).add_(intercept)
            self.moved[block.at] = self._residuals(z, block, found).sub_(self.residuals[block.at])
        # One product for all rows: that is half the time of one a block.
        torch.add(self.base.slope[:, :-1], self.moved.T @ self.x, out=found.slope[:, :-1])
        return self._point(weights, found)

    def _keep(self, i: int, logits, residuals) -> None:
        if self.precision == "bfloat16":
            at = self.blocks[i].at
            self.logits[at], self.residuals[at] = logits, residuals

    def _room(self, width: int, dtype):
        """For (N, width) numbers. numpy's arrays lie in huge pages, torch's do not."""
        return self.torch.from_numpy(np.empty((len(self.rows), width), f"u{dtype.itemsize}")).view(dtype)
