"""A backbone with a blank classifier: how it is built, and mixed with its initial weights."""

from backbench import UserError
from backbench.extract.backbones import Backbone
from backbench.training import classifier


def build(backbone: Backbone, n_classes: int, *, seed: int, drop_path: float = 0.0, any_size: bool = False):
    """Return a timm model with a blank classifier and the backbone's weights, and the arguments that make it.

    ``any_size`` lets a ViT fit its position embeddings to images of other sizes than the backbone's. Raises UserError
    where timm gives the model no classifier, as it does for encoders that don't pool their features.
    """
    import torch

    torch.manual_seed(seed)
    try:
        model, arguments = classifier.create(backbone, n_classes, drop_path=drop_path, any_size=any_size)
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


def mixed(start: dict, end: dict, share: float) -> dict:
    """Interpolate between two state dicts of one model: ``share`` = 0 gives ``start``, and 1 gives ``end``.

    This is WiSE-FT: M. Wortsman et al. (2022), Robust fine-tuning of zero-shot models. Integer entries, which are
    counters, are copied from ``end``.
    """
    return {
        key: start[key].lerp(tensor, share) if tensor.is_floating_point() else tensor.clone()
        for key, tensor in end.items()
    }
