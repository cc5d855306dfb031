"""A backbone with a linear classifier: its architecture, and a probe's head that is folded into the classifier."""

import numpy as np

from backbench import UserError
from backbench.extract.backbones import Backbone

AGREE = 1e-3
"""Largest difference from the probe head's logits, as a share of their spread. Rounding in float32 leaves 1e-5."""


class Misfit(UserError):
    """A probe's head doesn't fit the classifier. ``reason`` says why, the message also how to fine-tune without it."""

    def __init__(self, reason: str):
        super().__init__(f"{reason} Use --strategy full, gradual or discriminative.")
        self.reason = reason


def create(backbone: Backbone, n_classes: int, *, drop_path: float = 0.0, any_size: bool = False):
    """Return the backbone's architecture without its weights, and those of the arguments that it takes."""
    arguments = backbone.arguments | {"num_classes": n_classes}
    wanted = {"drop_path_rate": drop_path or None, "dynamic_img_size": any_size or None}
    model, taken = _create(backbone.architecture, arguments, {k: v for k, v in wanted.items() if k not in arguments})
    return model, arguments | ({"dynamic_img_size": True} if "dynamic_img_size" in taken else {})


def _create(timm_name: str, arguments: dict, wanted: dict):
    """Return the model, and those of the wanted arguments that its architecture takes."""
    import timm

    wanted = {key: value for key, value in wanted.items() if value is not None}
    while True:
        try:
            return timm.create_model(timm_name, pretrained=False, **arguments, **wanted), wanted
        except TypeError as error:  # timm raises it for an argument that an architecture doesn't have
            unknown = [key for key in wanted if key in str(error)]
            if not unknown:
                raise
            wanted = {key: value for key, value in wanted.items() if key not in unknown}


def linear(model):
    """Return the classifier. Raises Misfit where it is anything but one linear layer with a bias."""
    from torch.nn import Linear

    head = model.get_classifier()
    if isinstance(head, Linear) and head.bias is not None:
        return head
    raise Misfit(
        f"the classifier of {type(model).__name__} is not a single linear layer but a {type(head).__name__}, so a "
        "probe's head does not fit it."
    )


def fold(head, model) -> None:
    """Copy a ``probe.head.LinearHead`` into the classifier, with its standardisation folded into the weights.

    ((x - mean) / scale) W^T + b = x (W / scale)^T + (b - (W / scale) mean), in float64.
    """
    import torch

    layer = linear(model)
    weights = head.weights.astype(np.float64) / head.scale
    if weights.shape != tuple(layer.weight.shape):
        raise Misfit(
            f"the probe's head does not fit: it maps {weights.shape[1]} features to {weights.shape[0]} classes, and "
            f"the classifier maps {layer.in_features} to {layer.out_features}."
        )
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weights))
        layer.bias.copy_(torch.from_numpy(head.intercept - weights @ head.mean))


def check_head(head, model, backbone: Backbone, images) -> None:
    """Raise Misfit unless the model's logits for ``images`` (B, 3, H, W) equal the head's logits on the features."""
    import torch

    model.eval()
    with torch.inference_mode():
        ours = model(images).float().cpu().numpy()
        theirs = head.scores(backbone.model(images).float().cpu().numpy())
    if not np.abs(ours - theirs).max() <= AGREE * max(theirs.std(), 1.0):
        raise Misfit(
            f"the probe's head does not fit: with it {backbone.name} gives other logits than the probe, by up to "
            f"{np.abs(ours - theirs).max():.3g}. timm computes more than the classifier between features and logits."
        )
