"""Modules around a timm model: the normalisation in front of it, and other layers and poolings than its own behind it.

Everything is found through timm's own interface, never from a model's name. ``feature_info`` names the layers,
``forward_intermediates`` gives their output, and ``num_prefix_tokens`` is how many of their tokens belong to no part of
the image.
"""

import inspect
from dataclasses import replace

import torch

from backbench import UserError

POOLS = ("default", "avg", "cls", "gem", "avg+cls")
"""``avg`` is the mean over an image's positions, ``gem`` their generalised mean, and ``cls`` the class token. At the
last layer ``default`` is all that timm does before the classifier; elsewhere it is cls where the model itself pools so,
else avg."""

GEM_POWER, GEM_LEAST = 3, 1e-6
"""The exponent and the least value of GeM pooling, from Radenovic et al., arXiv:1711.02512."""

OWN = {"token": "cls"}
"""timm's names for poolings that have another name here."""


class FromPixels(torch.nn.Module):
    """``model`` with the normalisation in front of it, so that a compiler can fuse the two."""

    def __init__(self, model, mean, std, scale: float = 1.0):
        super().__init__()
        self.training = False  # not eval(), which would hide that a module of the model is in train mode
        self.model, self.scale = model, scale
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def normalise(self, pixels):
        batch = pixels.float().div_(255)
        batch = batch if self.scale == 1 else batch.mul_(self.scale)
        return batch.sub_(self.mean.to(batch.device)).div_(self.std.to(batch.device))

    def forward(self, pixels):
        return self.model(self.normalise(pixels))


class FeatureTap(torch.nn.Module):
    """Maps (B, 3, H, W) normalised images to (B, D) features from the pooled layer ``index``, None for the last.

    A layer is taken as it leaves its block, and the last one after the model's final norm.
    """

    def __init__(self, model, index: int | None, pool: str):
        super().__init__()
        self.training = False
        self.model, self.index, self.pool = model, index, pool
        self.global_pool = pool  # the attribute that timm's models have

    def forward(self, images):
        positions, token = self._last(images) if self.index is None else self._middle(images)
        parts = []
        if "avg" in self.pool:
            parts.append(positions.mean(1))
        if self.pool == "gem":
            parts.append(positions.float().clamp(min=GEM_LEAST).pow(GEM_POWER).mean(1).pow(1 / GEM_POWER))
        if "cls" in self.pool:
            parts.append(token)
        return torch.cat(parts, dim=1)

    def _last(self, images):
        """Return the image's positions (B, L, C) and the class token (B, C), or None where there is none."""
        features = self.model.forward_features(images)
        if features.ndim == 4:
            if getattr(self.model, "output_fmt", "NCHW") == "NCHW":
                features = features.permute(0, 2, 3, 1)
            return features.flatten(1, 2), None
        return features[:, _prefix(self.model) :], features[:, 0]

    def _middle(self, images):
        prefixed = {"return_prefix_tokens": True} if "cls" in self.pool else {}
        (features,) = self.model.forward_intermediates(
            images, indices=[self.index], stop_early=True, intermediates_only=True, **prefixed
        )
        features, prefix = features if prefixed else (features, None)
        return features.flatten(2).transpose(1, 2), prefix[:, 0] if prefixed else None


def tap(backbone, layer: str = "last", pool: str = "default"):
    """Return the backbone with pooled features from ``layer``, a number or timm's name (``layer3``, ``blocks.5``).

    ``last``, or -1, with the model's own pooling gives the backbone unchanged. Raises UserError, which says what is
    possible, where there is no such layer or it can't be pooled so.
    """
    model = backbone.model
    index = None if layer in ("last", "-1") else _index(backbone, layer)
    own = OWN.get(backbone.pooling, backbone.pooling)
    token = _prefix(model) > 0 and getattr(model, "cls_token", None) is not None
    if index is not None:
        token &= "return_prefix_tokens" in inspect.signature(model.forward_intermediates).parameters
    if pool == "default" and index is not None:
        pool = "cls" if own == "cls" and token else "avg"
    if index is None and pool in ("default", own):
        _check_pooled(backbone, token=token)
        return backbone
    if "cls" in pool and not token:
        raise UserError(f"--pool {pool}: {backbone.name} has no class token there. Use default, avg or gem.")
    name = "last" if index is None else names(model)[index]
    tapped = FeatureTap(model, index, pool)
    tapped.num_features = _tried(tapped, backbone, f"--layer {layer} --pool {pool}").shape[1]
    return replace(backbone, model=tapped, layer=name, pool=pool)


def _check_pooled(backbone, *, token: bool) -> None:
    """Raise UserError, which names the poolings that there are, where the model gives no vector (1, D) for an image."""
    given = _tried(backbone.model, backbone, "--pool default")
    shape = tuple(getattr(given, "shape", ()))
    if shape != (1, backbone.num_features):
        pools = ["avg", "gem", *(["cls", "avg+cls"] if token else [])]
        raise UserError(
            f"{backbone.name} doesn't pool its features: for an image it gives {shape or type(given).__name__}, not "
            f"(1, {backbone.num_features}). Its authors say how they pool them. Choose one of: "
            f"{', '.join(f'--pool {pool}' for pool in pools)}."
        )


def _tried(module, backbone, asked: str):
    """What the module gives for one empty image. Raises UserError, which begins with ``asked``, where it fails."""
    try:
        with torch.inference_mode():
            return module(torch.zeros(1, *backbone.config["input_size"]))
    except Exception as error:  # each architecture raises its own errors for what it can't do
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{asked}: timm can't do this for {backbone.name} ({reason}).") from error


def names(model) -> list[str]:
    """timm's names for the layers that features can be taken from, first to last."""
    found = getattr(model, "feature_info", None) or []
    return [info["module"] for info in getattr(found, "info", found)]


def _index(backbone, layer: str) -> int:
    known = names(backbone.model)
    if not known or not hasattr(backbone.model, "forward_intermediates"):
        raise UserError(f"--layer {layer}: timm gives only the last layer of {backbone.name}.")
    if layer in known:
        return known.index(layer)
    try:
        return range(len(known))[int(layer)]
    except (ValueError, IndexError):
        raise UserError(
            f"--layer {layer}: {backbone.name} has no such layer. It has last, {', '.join(known)}, or a number from 0 "
            f"to {len(known) - 1}; negative numbers count from the end."
        ) from None


def _prefix(model) -> int:
    return getattr(model, "num_prefix_tokens", 0)
