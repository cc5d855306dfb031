"""A backbone with a classifier: built, given a probe's head, mixed with its start, and kept as a checkpoint.

A checkpoint is a folder: ``model.safetensors`` loads with ``timm.create_model(..., checkpoint_path=...)``, and
``model.json`` says with which arguments, the classes, the preprocessing, how it was trained and its result row. It may
come from a stranger: nothing in it is believed.
"""

import numpy as np

from backbench import UserError
from backbench.extract import names
from backbench.extract.backbones import Backbone

AGREE = 1e-3
"""How far logits may lie from the probe head's, as a share of their spread: float32 rounding leaves 1e-5."""


def build(backbone: Backbone, n_classes: int, *, seed: int, drop_path: float = 0.0, any_size: bool = False):
    """A timm model with a blank classifier and the backbone's weights, and the arguments that make it.

    ``any_size``: pictures of other sizes than the backbone's will come, to which a ViT must fit its positions.
    """
    import torch

    torch.manual_seed(seed)
    model, arguments = create(backbone.name, n_classes, drop_path=drop_path, any_size=any_size)
    _, unexpected = model.load_state_dict(backbone.model.state_dict(), strict=False)
    blank(model)
    if unexpected:
        raise UserError(f"{backbone.name} with a classifier has no place for its {', '.join(unexpected[:5])}.")
    return model, arguments


def create(name: str, n_classes: int, *, drop_path: float = 0.0, any_size: bool = False):
    """The architecture alone, and the arguments that make it; of those asked for, the ones that it knows."""
    size = names.PACKAGED[name].img_size if name in names.PACKAGED else None
    arguments = {"num_classes": n_classes} | ({"img_size": size} if size else {})
    wanted = {"drop_path_rate": drop_path or None, "dynamic_img_size": any_size or None}
    model, taken = _create(names.timm_name(name), arguments, wanted)
    return model, arguments | ({"dynamic_img_size": True} if "dynamic_img_size" in taken else {})


def _create(timm_name: str, arguments: dict, wanted: dict):
    """The model with as many of the wanted arguments as its architecture knows."""
    import timm

    wanted = {key: value for key, value in wanted.items() if value is not None}
    while True:
        try:
            return timm.create_model(timm_name, pretrained=False, **arguments, **wanted), wanted
        except TypeError as error:  # timm's word for an argument that an architecture doesn't have
            unknown = [key for key in wanted if key in str(error)]
            if not unknown:
                raise
            wanted = {key: value for key, value in wanted.items() if key not in unknown}


def blank(model) -> None:
    """Zeros for the classifier's weights: every class as likely, whatever the architecture's own habit.

    As in Dosovitskiy et al. (2021). MobileNet's and EfficientNet's habit, made for 1,000 classes, gives ten classes a
    first loss of 8 where log(10) is 2.3.
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
    """The classifier. Raises UserError where it is anything but one linear layer on the features."""
    from torch.nn import Linear

    head = model.get_classifier()
    if isinstance(head, Linear) and head.bias is not None:
        return head
    raise UserError(
        f"the classifier of {type(model).__name__} is no single linear layer (a {type(head).__name__}), so that no "
        "probe's head fits it. Use --strategy full, gradual or discriminative."
    )


def fold(head, model) -> None:
    """Put a ``probe.head.LinearHead`` in the classifier's place, its standardisation folded into the weights.

    ((x - mean) / scale) W^T + b = x (W / scale)^T + (b - (W / scale) mean), in float64.
    """
    import torch

    layer = linear(model)
    weights = head.weights.astype(np.float64) / head.scale
    if weights.shape != tuple(layer.weight.shape):
        raise UserError(
            f"wrong head: it maps {weights.shape[1]} features to {weights.shape[0]} classes, the classifier "
            f"{layer.in_features} to {layer.out_features}. Use --strategy full, gradual or discriminative."
        )
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weights))
        layer.bias.copy_(torch.from_numpy(head.intercept - weights @ head.mean))


def check_head(head, model, backbone: Backbone, images) -> None:
    """Raise UserError unless the model's logits of ``images`` (B, 3, H, W) are the head's on the features."""
    import torch

    model.eval()
    with torch.inference_mode():
        ours = model(images).float().cpu().numpy()
        theirs = head.scores(backbone.model(images).float().cpu().numpy())
    if not np.abs(ours - theirs).max() <= AGREE * max(theirs.std(), 1.0):
        raise UserError(
            f"wrong head: with it {backbone.name} gives other logits than the probe (by up to "
            f"{np.abs(ours - theirs).max():.3g}), since timm puts more than the classifier between its features and "
            "its logits. Use --strategy full, gradual or discriminative."
        )


def mixed(start: dict, end: dict, share: float) -> dict:
    """WiSE-FT: ``share`` of the tuned weights, the rest of the start's. State dicts of one model.

    M. Wortsman et al. (2022), Robust fine-tuning of zero-shot models. Whole numbers (counters) are the end's.
    """
    return {
        key: start[key].lerp(tensor, share) if tensor.is_floating_point() else tensor.clone()
        for key, tensor in end.items()
    }
