"""The fixed first layer: patches of the training pictures made uncorrelated and of equal spread."""

import torch

PICTURES = 5000
"""At most, from which patches are taken: 4.8 million of 2 x 2 pixels at 32 a side, for a matrix of 12 x 12."""

EPS = 5e-4
"""Added to the patches' variances, which keeps the faintest components from being all noise; airbench's."""


def filters(pictures: torch.Tensor, side: int, *, eps: float = EPS) -> torch.Tensor:
    """(2 P, 3, side, side) filters from normalised ``pictures`` (N, 3, H, W), with P = 3 side^2.

    Eigenvectors of the patches' second moments, each divided by the root of its eigenvalue, and the same negated, since
    the GELU that follows keeps one sign only. Greatest first; the largest entry of each is positive.
    """
    patches = pictures.unfold(2, side, 1).unfold(3, side, 1)  # (N, 3, H', W', side, side)
    rows = patches.permute(0, 2, 3, 1, 4, 5).reshape(-1, pictures.shape[1] * side * side).double()
    values, vectors = torch.linalg.eigh(rows.T @ rows / len(rows))
    values, vectors = values.flip(0), vectors.flip(1).T
    largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
    scaled = vectors * largest.sign() / (values.clamp(min=0) + eps).sqrt()[:, None]
    scaled = scaled.reshape(-1, pictures.shape[1], side, side).float()
    return torch.cat([scaled, -scaled])


@torch.no_grad()
def put(model, pictures: torch.Tensor) -> None:
    """Set the first layer of a ``CifarNet`` from pictures as it is given them."""
    layer = model.whiten
    layer.weight.copy_(filters(pictures.float().cpu(), layer.kernel_size[0]))
