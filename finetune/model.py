"""A backbone with a classifier: how it is built, takes a probe's head, and is mixed with its initial weights."""

import numpy as np

from backbench import UserError
from backbench.extract.backbones import Backbone

AGREE = 1e-3
"""Largest difference from the probe head's logits, as a share of their spread. Rounding in float32 leaves 1e-5."""


def build(backbone: Backbone, n_classes: int, *, seed: int, drop_path: float = 0.0, any_size: bool = False):
    """Return a timm model with a blank classifier and the backbone's weights, and the arguments that make it.

    ``any_size`` lets a ViT fit its position embeddings to images of other sizes than the backbone's. Raises UserError
    where timm gives the model no classifier, as it does for encoders that don't pool their features.
    """
    import torch

    torch.manual_seed(seed)
    try:
        model, arguments = create(backbone, n_classes, drop_path=drop_path, any_size=any_size)
        _, unexpected = model.load_state_dict(backbone.model.state_dict(), strict=False)
        blank(model)
        with torch.inference_mode():
            given = tuple(model.eval()(torch.zeros(1, *backbone.config["input_size"])).shape)
        model.train()
    except Exception as error:  # each architecture raises its own errors for what it can't do
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{backbone.name} can't be fine-tuned: timm gives it no classifier ({reason}).") from error
    if given != (1, n_classes):
        raise UserError(
            f"{backbone.name} can't be fine-tuned: it doesn't pool its features, so that with a classifier it gives "
            f"{given} for an image, not {(1, n_classes)}. Probe it instead: extract --model {backbone.name} --pool avg"
        )
    if unexpected:
        raise UserError(
            f"{backbone.name} can't be fine-tuned: with a classifier it has no place for its weights "
            f"{', '.join(unexpected[:5])}."
        )
    return model, arguments


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


def blank(model) -> None:
    """Set the classifier's weights to zero, so that every class is equally likely.

    This follows Dosovitskiy et al. (2021). The initialisation of MobileNet and EfficientNet is meant for 1,000 classes.
    With ten classes it gives a first loss of 8, where log(10) is 2.3.
    """
    import torch

    found = model.get_classifier()
    for head in found if isinstance(found, tuple | list) else [found]:
        for module in head.modules():
            if isinstance(module, torch.nn.Linear):
                torch.nn.init.zeros_(module.weight)
                if module.bias is not None:
                    torch.nn.init.zeros_(module.bias)


def linear(model):
    """Return the classifier. Raises UserError where it is anything but one linear layer with a bias."""
    from torch.nn import Linear

    head = model.get_classifier()
    if isinstance(head, Linear) and head.bias is not None:
        return head
    raise UserError(
        f"the classifier of {type(model).__name__} is not a single linear layer but a {type(head).__name__}, so a "
        "probe's head does not fit it. Use --strategy full, gradual or discriminative."
    )


def fold(head, model) -> None:
    """Copy a ``probe.head.LinearHead`` into the classifier, with its standardisation folded into the weights.

    ((x - mean) / scale) W^T + b = x (W / scale)^T + (b - (W / scale) mean), in float64.
    """
    import torch

    layer = linear(model)
    weights = head.weights.astype(np.float64) / head.scale
    if weights.shape != tuple(layer.weight.shape):
        raise UserError(
            f"the probe's head does not fit: it maps {weights.shape[1]} features to {weights.shape[0]} classes, and "
            f"the classifier maps {layer.in_features} to {layer.out_features}. Use --strategy full, gradual or "
            "discriminative."
        )
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weights))
        layer.bias.copy_(torch.from_numpy(head.intercept - weights @ head.mean))


def check_head(head, model, backbone: Backbone, images) -> None:
    """Raise UserError unless the model's logits for ``images`` (B, 3, H, W) equal the head's logits on the features."""
    import torch

    model.eval()
    with torch.inference_mode():
        ours = model(images).float().cpu().numpy()
        theirs = head.scores(backbone.model(images).float().cpu().numpy())
    if not np.abs(ours - theirs).max() <= AGREE * max(theirs.std(), 1.0):
        raise UserError(
            f"the probe's head does not fit: with it {backbone.name} gives other logits than the probe, by up to "
            f"{np.abs(ours - theirs).max():.3g}. timm computes more than the classifier between features and logits. "
            "Use --strategy full, gradual or discriminative."
        )


def mixed(start: dict, end: dict, share: float) -> dict:
    """Interpolate between two state dicts of one model: ``share`` = 0 gives ``start``, and 1 gives ``end``.

    This is WiSE-FT: M. Wortsman et al. (2022), Robust fine-tuning of zero-shot models. Integer entries, which are
    counters, are copied from ``end``.
    """
    return {
        key: start[key].lerp(tensor, share) if tensor.is_floating_point() else tensor.clone()
        for key, tensor in end.items()
    }
