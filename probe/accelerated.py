"""The softmax objective where there is hardware for it: GPUs, and processors that multiply bfloat16 matrices."""

import numpy as np

from backbench.devices import has_amx, pick_device
from probe.objective import Objective, Point, Rows

WORTH_TORCH = 2e9
"""Multiply-adds of one pass over the rows from which importing torch (a second or two) pays."""

COARSE = {"bfloat16": 3e-3}
"""Gap, as a share of the objective, below which arithmetic this coarse can't be believed: bfloat16 alone comes to rest
at 5e-4 and looks converged."""


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
    steps = ("bfloat16", "float32") if chosen.type == "cpu" else ("float32",)
    return Accelerated(rows, n_classes, device=chosen, steps=steps)


class Accelerated(Objective):
    """Its passes in torch, in the number formats ``steps`` one after another, and at the end in numpy's float64.

    Rows that are kept in memory are kept on the device, others go there block by block.
    """

    def __init__(self, rows: Rows, n_classes: int, *, device, steps: tuple[str, ...]):
        super().__init__(rows, n_classes)
        self.place, self.device, self.steps = device, device.type, list(steps)
        self.on_device = None
        self._place()

    @property
    def precision(self) -> str:
        return self.steps[0] if self.steps else super().precision

    @property
    def coarse(self) -> float:
        return COARSE.get(self.precision, 0.0)

    def sharpen(self) -> bool:
        if not self.steps:
            return super().sharpen()
        self.steps.pop(0)
        self._place()
        return True if self.steps else super().sharpen()

    def _place(self) -> None:
        self.on_device = None
        if self.steps and self.rows.kept is not None:
            self.on_device = [(at, self._tensor(x)) for at, x in self.rows.blocks()]

    def _tensor(self, array: np.ndarray):
        import torch

        return torch.from_numpy(array).to(self.place, getattr(torch, self.steps[0]))

    def evaluate(self, weights: np.ndarray) -> Point:
        if not self.steps:
            return super().evaluate(weights)
        import torch

        self.evaluations += 1
        weights = weights.astype(np.float32)
        free, intercept = self._tensor(weights[:, :-1]), torch.from_numpy(weights[:, -1].copy()).to(self.place)
        slope = torch.zeros(weights.shape, device=self.place)
        stray = torch.zeros(self.n_classes, device=self.place)
        miss, loss = np.empty(len(self.rows)), 0.0
        for at, x in self.on_device or ((at, self._tensor(x)) for at, x in self.rows.blocks()):
            labels = torch.from_numpy(self.rows.labels[at]).to(self.place)[:, None]
            share = torch.from_numpy(self.rows.share[at].astype(np.float32)).to(self.place)[:, None]
            logits = (x @ free.T).float() + intercept
            each = torch.logsumexp(logits, 1, keepdim=True)
            loss += float((share * (each - logits.gather(1, labels))).sum())
            p = torch.exp(logits - each).scatter_(1, labels, 0)
            rest = p.sum(1, keepdim=True)
            miss[at] = rest[:, 0].cpu().numpy()
            p *= share
            stray += p.sum(0)
            p.scatter_(1, labels, -rest * share)
            slope[:, :-1] += (p.to(x.dtype).T @ x).float()
            slope[:, -1] += p.sum(0)
        return Point(weights, loss, slope.cpu().numpy(), miss, stray.cpu().numpy().astype(np.float64))
