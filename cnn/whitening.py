"""The fixed first layer, which whitens patches of the training images: uncorrelated, and with equal variances."""

import torch

IMAGES = 5000
"""Largest number of images from which patches are taken. With 32 pixels a side they give 4.8 million patches of 2 x 2
pixels, for a matrix of 12 x 12."""

EPS = 5e-4
"""Added to the patches' variances, so that the faintest components aren't amplified noise. The value is airbench's."""


def filters(images: torch.Tensor, side: int, *, eps: float = EPS) -> torch.Tensor:
    """Return filters (2 P, 3, side, side) from normalised ``images`` (N, 3, H, W), with P = 3 side^2.

    They are the eigenvectors of the patches' second moments, each divided by the root of its eigenvalue. The same
    filters follow with negated sign, since the GELU that follows keeps one sign only. They are in order of falling
    eigenvalues, and the largest entry of each is positive before negation.
    """
    patches = images.unfold(2, side, 1).unfold(3, side, 1)  # (N, 3, H', W', side, side)
    rows = patches.permute(0, 2, 3, 1, 4, 5).reshape(-1, images.shape[1] * side * side).double()
    values, vectors = torch.linalg.eigh(rows.T @ rows / len(rows))
    values, vectors = values.flip(0), vectors.flip(1).T
    largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
    scaled = vectors * largest.sign() / (values.clamp(min=0) + eps).sqrt()[:, None]
    scaled = scaled.reshape(-1, images.shape[1], side, side).float()
    return torch.cat([scaled, -scaled])


@torch.no_grad()
def put(model, images: torch.Tensor) -> None:
    """Set the first layer's filters of a ``CifarNet`` from normalised images."""
    layer = model.whiten
    layer.weight.copy_(filters(images.float().cpu(), layer.kernel_size[0]))
