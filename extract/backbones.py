"""A frozen backbone: a timm model without its classifier, its weights, and the preprocessing they were trained with."""

import contextlib
import hashlib
import sys
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from backbench import UserError
from backbench.extract import described, names, pypi_weights, state_dict, weights_file
from backbench.progress import loading, step


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
    timm_name: str = ""  # see ``architecture``
    arguments: dict = field(default_factory=dict)
    """Arguments of timm's architecture that the weights were trained with."""

    @property
    def architecture(self) -> str:
        """The name by which timm creates it, with ``arguments``."""
        return self.timm_name or names.timm_name(self.name)

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

    ``weights`` is ``auto``, ``hub``, ``offline`` (the PyPI package), ``random`` (seeded by ``seed``), or a file as
    trainers write it (``extract.weights_file``). ``auto`` takes the PyPI package where ``name`` has one and it is
    installed, otherwise the hub; of ``local-dir:PATH`` both take the folder's weights.

    Raises UserError where the model can't be created, and where the weights can't be loaded or don't fit it.
    """
    source, weights = names.PACKAGED.get(name), origin(name, weights)
    if weights == "offline" and not source:
        raise UserError(f"no PyPI package holds weights of {name}. There are packages for {', '.join(names.PACKAGED)}.")
    weights_file.check(weights)
    with loading("torch", "timm"):
        import timm  # noqa: F401
    with step(f"creating {name} and reading its weights"):
        return _created(name, source, weights, seed)


def _created(name: str, source, weights: str, seed: int) -> Backbone:
    import torch

    size = source.img_size if source else None
    timm_name, arguments, tensors = names.timm_name(name), {"img_size": size} if size else {}, None
    torch.manual_seed(seed)
    try:
        if names.described(name):
            model, (timm_name, arguments, _), tensors = _described(name, weights)
        else:
            model = _registered(name, timm_name, weights, arguments)
    except UserError:
        raise
    except Exception as error:  # timm, the hub and each architecture raise errors of many kinds
        raise UserError(_no_weights(name, timm_name, f"{_in_one_line(error)}.")) from error
    if weights == "hub":
        tag = names.current(name) if names.described(name) else _tagged(timm_name, model)
    elif weights == "random":
        tag = f"random, seed {seed}"
    elif weights == "offline":
        tag, tensors = pypi_weights.load(source, model)
    else:
        tag, tensors = f"file {Path(weights).name}", weights_file.read(Path(weights))
    if tensors is not None:
        _load(model, timm_name, tensors, origin=tag if weights in weights_file.WORDS else weights)
    model.eval().requires_grad_(False)
    config = described.data_config(name, model.pretrained_cfg, {"input_size": (3, size, size)} if size else {})
    return Backbone(name, tag, digest(model), model, config, timm_name=timm_name, arguments=arguments)


def _described(name: str, weights: str):
    """Return the model of a config.json, its ``described.Description``, and its weights where they are asked for."""
    import timm

    found = described.describe(name)
    # Weights in a format of their own, which only timm's model itself reads.
    custom = weights == "hub" and found.config.get("custom_load") == "hf" and bool(found.config.get("hf_hub_filename"))
    how = {"pretrained": custom, "pretrained_cfg": found.config, "num_classes": 0}
    model = timm.create_model(found.architecture, **how, **found.arguments)
    return model, found, described.weights(name, found.config) if weights == "hub" and not custom else None


def _registered(name: str, timm_name: str, weights: str, arguments: dict):
    """Return timm's model of that name, with timm's weights where ``weights`` is ``hub``."""
    import timm

    pretrained = weights == "hub"
    if pretrained and not getattr(timm.get_pretrained_cfg(timm_name), "has_weights", False):
        raise UserError(_no_weights(name, timm_name, "timm has none."))  # before a model of gigabytes is built
    return timm.create_model(timm_name, pretrained=pretrained, num_classes=0, **arguments)


def _tagged(timm_name: str, model) -> str:
    tag = model.pretrained_cfg.get("tag")
    return f"{timm_name.split('.')[0]}.{tag}" if tag else timm_name


def _no_weights(name: str, timm_name: str, reason: str) -> str:
    return (
        f"the weights of {name} ({timm_name}) can't be loaded: {reason} Give a file with --weights FILE, go online "
        "once, or choose a backbone whose weights come from PyPI (pip install '.[offline]'): "
        f"{', '.join(names.PACKAGED)}."
    )


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:500].rstrip(".") or type(error).__name__


def _load(model, timm_name: str, content, *, origin: str) -> None:
    """Load the model's tensors in ``content`` strictly, except for a classifier, which a backbone does not use.

    timm's own loading is not strict without a classifier: a file of another model would load nothing, silently.
    """
    import timm

    architecture = timm_name.split(".")[0]
    module = sys.modules[timm.models.model_entrypoint(architecture).__module__]
    convert = getattr(module, "checkpoint_filter_fn", None)  # converts original names and sizes
    tensors = state_dict.choose(content, model, origin=origin)
    if convert:
        # It raises one of these for a file of another model; what differs is said below.
        with contextlib.suppress(RuntimeError, KeyError, AttributeError, TypeError, ValueError, IndexError):
            tensors = convert(dict(tensors), model)
    configs = (model.pretrained_cfg, vars(timm.get_pretrained_cfg(architecture) or timm.models.PretrainedCfg()))
    classifiers = [f"{name}." for config in configs for name in _listed(config.get("classifier"))]
    # What stands with a classifier alone, as its BatchNorm does in LeViT, goes with it.
    parents = [name[: name.rindex(".", 0, -1) + 1] for name in classifiers if "." in name[:-1]]
    classifiers += [parent for parent in parents if not any(key.startswith(parent) for key in model.state_dict())]
    tensors = {key: value for key, value in tensors.items() if not key.startswith(tuple(classifiers))}
    state_dict.check(tensors, model, origin=origin, name=timm_name)
    model.load_state_dict(tensors, strict=True)


def _listed(value) -> list:
    return [value] if isinstance(value, str) else list(value or ())


def digest(model) -> str:
    """SHA-256 (hex) over every tensor of the model as it will run: name, dtype, shape and bytes."""
    import torch

    digest = hashlib.sha256()
    for key, tensor in sorted(model.state_dict().items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
