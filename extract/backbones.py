"""A frozen backbone: a timm model without its classifier, its weights, and the preprocessing they were trained with."""

import hashlib
import os
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from backbench import UserError
from backbench.extract import names, pypi_weights


@dataclass(frozen=True)
class Backbone:
    """``model`` maps (B, 3, H, W) normalised images to (B, num_features) pooled pre-logits features."""

    name: str
    weights: str
    weights_sha256: str
    model: object
    config: dict  # timm's data config: input_size, interpolation, mean, std, crop_pct, crop_mode
    layer: str = "last"  # with ``pool``, see extract.feature_tap
    pool: str = "default"
    scale: float = 1.0
    """Factor on x / 255. Anything but 1 is wrong on purpose, to show what the input guard is for."""

    @property
    def num_features(self) -> int:
        """Length D of one feature vector."""
        return getattr(self.model, "head_hidden_size", None) or self.model.num_features

    @property
    def pooling(self) -> str:
        """How timm pools the last feature map of this model: avg, token, ..."""
        pool = getattr(self.model, "global_pool", None) or getattr(getattr(self.model, "head", None), "global_pool", "")
        return pool if isinstance(pool, str) else getattr(pool, "pool_type", type(pool).__name__)

    def transform(self):
        """Return timm's evaluation transform up to uint8 (3, H, W); ``normalise`` does its last step."""
        from timm.data import create_transform

        return create_transform(**self.config, is_training=False, use_prefetcher=True)

    @cached_property
    def from_pixels(self):
        """The model with ``normalise`` in front of it: a module that maps (B, 3, H, W) uint8 to features."""
        from backbench.extract.feature_tap import FromPixels

        return FromPixels(self.model, self.config["mean"], self.config["std"], self.scale)

    def normalise(self, batch):
        """Turn (B, 3, H, W) uint8 into the model's input: x / 255, then mean and std, as timm's transform does it."""
        return self.from_pixels.normalise(batch)


def origin(name: str, weights: str) -> str:
    """Where the weights come from: for ``auto``, ``offline`` or ``hub``; other ``weights`` are returned unchanged."""
    if weights != "auto":
        return weights
    source = names.PACKAGED.get(name)
    return "offline" if source and (pypi_weights.installed(source) or source.img_size) else "hub"


def create(name: str, *, weights: str = "auto", seed: int = 42) -> Backbone:
    """Create the backbone ``name`` on the CPU, in eval mode and without gradients.

    ``weights`` is ``auto``, ``hub``, ``offline`` (the PyPI package), ``random`` (seeded by ``seed``), or a
    .safetensors, .pth, .pt or .bin file. ``auto`` takes the PyPI package where ``name`` has one and it is installed,
    otherwise the hub.

    Raises UserError where the weights can't be loaded or don't fit the model.
    """
    import timm
    import torch

    source, weights = names.PACKAGED.get(name), origin(name, weights)
    if weights == "offline" and not source:
        raise UserError(f"no PyPI package holds weights of {name}. There are packages for {', '.join(names.PACKAGED)}.")
    size = {"img_size": source.img_size} if source and source.img_size else {}
    timm_name = names.timm_name(name)
    if weights == "hub" and ":" not in timm_name and not timm.get_pretrained_cfg(timm_name).has_weights:
        raise UserError(_no_weights(name, timm_name, "timm has none."))  # before a model of gigabytes is built
    try:
        if weights == "hub":
            model = timm.create_model(timm_name, pretrained=True, num_classes=0, **size)
            tag = model.pretrained_cfg.get("tag") if ":" not in timm_name else None  # hf-hub:OWNER/NAME says it all
            tag = f"{timm_name.split('.')[0]}.{tag}" if tag else timm_name
        else:
            torch.manual_seed(seed)
            model = timm.create_model(timm_name, pretrained=False, num_classes=0, **size)
            tag = f"random, seed {seed}"
    # timm and the hub raise these for weights they don't have, names they don't know and networks that are down.
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise UserError(_no_weights(name, timm_name, _in_one_line(error))) from error
    if weights == "offline":
        tag, state_dict = pypi_weights.load(source, model)
        _load(model, timm_name, state_dict, origin=tag)
    elif weights not in ("hub", "random"):
        _load(model, timm_name, _read(Path(weights)), origin=weights)
        tag = f"file {Path(weights).name}"
    model.eval().requires_grad_(False)
    asked = {"input_size": (3, source.img_size, source.img_size)} if size else {}
    config = timm.data.resolve_data_config(asked, model=model)
    return Backbone(name, tag, digest(model), model, config)


def _no_weights(name: str, timm_name: str, reason: str) -> str:
    return (
        f"the weights of {name} ({timm_name}) can't be loaded: {reason} Give a file with --weights FILE, go online "
        "once, or choose a backbone whose weights come from PyPI (pip install '.[offline]'): "
        f"{', '.join(names.PACKAGED)}."
    )


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:500] or type(error).__name__


def _read(path: Path) -> dict:
    """Read the state dict of a weights file by safetensors or torch.load(weights_only=True): nothing is executed."""
    from safetensors import SafetensorError
    from timm.models import load_state_dict

    if path.suffix not in (".safetensors", ".pth", ".pt", ".bin"):
        raise UserError(
            f"--weights {path}: expected auto, hub, offline, random or a .safetensors, .pth, .pt or .bin file."
        )
    if not path.is_file():
        raise UserError(f"--weights {path}: there is no such file.")
    try:
        return load_state_dict(os.fspath(path), weights_only=True)
    except (OSError, RuntimeError, ValueError, KeyError, EOFError, SafetensorError) as error:
        raise UserError(f"--weights {path} can't be read as tensors: {_in_one_line(error)}") from error


def _load(model, timm_name: str, state_dict: dict, *, origin: str) -> None:
    """Load the state dict strictly, except for a classifier, which a backbone does not use.

    timm's own loading is not strict without a classifier: a file of another model would load nothing, silently.
    """
    from timm.models import model_entrypoint

    architecture = timm_name.split(".")[0]
    module = sys.modules[model_entrypoint(architecture).__module__]
    convert = getattr(module, "checkpoint_filter_fn", None)  # converts original names and sizes
    classifier = model.pretrained_cfg.get("classifier") or ()
    classifier = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    try:
        if convert:
            state_dict = convert(state_dict, model)
        state_dict = {k: v for k, v in state_dict.items() if not k.startswith(tuple(f"{c}." for c in classifier))}
        model.load_state_dict(state_dict, strict=True)
    except (RuntimeError, KeyError, AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{origin} doesn't fit {timm_name}: {_in_one_line(error)}") from error


def digest(model) -> str:
    """SHA-256 (hex) over every tensor of the model as it will run: name, dtype, shape and bytes."""
    import torch

    digest = hashlib.sha256()
    for key, tensor in sorted(model.state_dict().items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
