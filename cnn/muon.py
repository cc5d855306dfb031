"""The optimizer: Muon for filters, and SGD with Nesterov's momentum for everything else."""

import torch

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""The coefficients a, b, c of the quintic a x + b x^3 + c x^5, whose iterates bring every x in (0, 1] near 1 fastest:
K. Jordan (2024), Muon: An optimizer for hidden layers in neural networks. The iterates end between about 0.7 and 1.2,
which does no harm."""


def orthogonal(matrices, *, steps: int = 3, dtype=torch.float32):
    """Return approximately U V^T for each U S V^T of ``matrices`` (G, M, N), by Newton-Schulz iteration in ``dtype``.

    Singular values of at least a hundredth of the largest end near 1; see ``COEFFICIENTS``.
    """
    a, b, c = COEFFICIENTS
    x = matrices.to(dtype)
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    for _ in range(steps):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Muon for groups with ``filters=True``, and SGD with Nesterov's momentum for the other groups.

    Filters are convolution weights (O, I, H, W), taken as matrices of O rows. Their step is the orthogonal matrix
    nearest to the momentum. Each weight is scaled to the norm sqrt(O) before the step, so that ``lr`` is the share of
    it that changes. For the other groups ``weight_decay`` is the share that one step removes at the initial ``lr``; it
    falls with ``lr``. A group's ``lr`` is a tensor on its weights' device, which a CUDA graph reads at each replay;
    ``rates`` changes it.
    """

    def __init__(self, groups, *, dtype=torch.float32):
        super().__init__(groups, {"momentum": 0.0, "weight_decay": 0.0, "filters": False, "steps": 3})
        self.dtype = dtype
        for group in self.param_groups:
            group.setdefault("initial_lr", group["lr"])
            group["lr"] = torch.tensor(float(group["lr"]), device=group["params"][0].device)

    def rates(self, factors) -> None:
        """Set each group's ``lr`` to its initial one times its factor."""
        for group, factor in zip(self.param_groups, factors, strict=True):
            group["lr"].fill_(group["initial_lr"] * factor)

    @torch.no_grad()
    def step(self, closure=None):
        """Make one update from the gradients; weights without a gradient stay."""
        for group in self.param_groups:
            moved = [weight for weight in group["params"] if weight.grad is not None]
            pushes = [self._nesterov(weight, group) for weight in moved]
            if group["filters"]:
                self._turn(moved, pushes, group)
            else:
                for weight, push in zip(moved, pushes, strict=True):
                    if group["weight_decay"]:
                        weight.mul_(1 - group["weight_decay"] * group["lr"] / group["initial_lr"])
                    weight.sub_(push.mul_(group["lr"]))

    def _nesterov(self, weight, group):
        state = self.state[weight]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
        state["momentum"].mul_(group["momentum"]).add_(weight.grad)
        return weight.grad.add(state["momentum"], alpha=group["momentum"])

    def _turn(self, weights, pushes, group) -> None:
        shapes = dict.fromkeys(weight.shape for weight in weights)
        for shape in shapes:  # weights of one shape are updated together
            some = [k for k, weight in enumerate(weights) if weight.shape == shape]
            turned = torch.stack([pushes[k].flatten(1) for k in some])
            for k, turn in zip(some, orthogonal(turned, steps=group["steps"], dtype=self.dtype), strict=True):
                weights[k].mul_(shape[0] ** 0.5 / weights[k].norm())
                weights[k].sub_(turn.view(shape).float() * group["lr"])
