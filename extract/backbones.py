"""A frozen backbone: a timm model without its classifier, its weights, and the preprocessing they were trained with."""

import contextlib
import hashlib
import sys
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from backbench import UserError
from backbench.extract import described, names, pypi_weights, state_dict, weights_file


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
    import timm
    import torch

    source, weights = names.PACKAGED.get(name), origin(name, weights)
    if weights == "offline" and not source:
        raise UserError(f"no PyPI package holds weights of {name}. There are packages for {', '.join(names.PACKAGED)}.")
    weights_file.check(weights)
    timm_name = names.timm_name(name)
    arguments = {"img_size": source.img_size} if source and source.img_size else {}
    described_as, tensors, tag = None, None, f"random, seed {seed}"
    try:
        torch.manual_seed(seed)
        if names.described(name):
            described_as = described.describe(name)
            timm_name, arguments = described_as.architecture, described_as.arguments
            # custom_load: weights in a format of their own, which only the model itself reads.
            custom = weights == "hub" and bool(described_as.config.get("custom_load"))
            model = timm.create_model(
                timm_name, pretrained=custom, pretrained_cfg=described_as.config, num_classes=0, **arguments
            )
            if weights == "hub" and not custom:
                tensors = described.weights(name, described_as.config)
            tag = tag if weights == "random" else names.current(name)
        elif weights == "hub":
            if not getattr(timm.get_pretrained_cfg(timm_name), "has_weights", False):
                raise UserError(_no_weights(name, timm_name, "timm has none."))  # before gigabytes are built
            model = timm.create_model(timm_name, pretrained=True, num_classes=0, **arguments)
            found = model.pretrained_cfg.get("tag")
            tag = f"{timm_name.split('.')[0]}.{found}" if found else timm_name
        else:
            model = timm.create_model(timm_name, pretrained=False, num_classes=0, **arguments)
    except UserError:
        raise
    except Exception as error:  # timm, the hub and each architecture raise errors of many kinds
        raise UserError(_no_weights(name, timm_name, f"{_in_one_line(error)}.")) from error
    if weights == "offline":
        tag, tensors = pypi_weights.load(source, model)
    elif weights not in weights_file.WORDS:
        tag, tensors = f"file {Path(weights).name}", weights_file.read(Path(weights))
    if tensors is not None:
        _load(model, timm_name, tensors, origin=tag if weights in weights_file.WORDS else weights)
    model.eval().requires_grad_(False)
    asked = {"input_size": (3, source.img_size, source.img_size)} if source and source.img_size else {}
    config = described.data_config(name, model.pretrained_cfg, asked)
    return Backbone(name, tag, digest(model), model, config, timm_name=timm_name, arguments=arguments)


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
    classifiers = [classifier for config in configs for classifier in _listed(config.get("classifier"))]
    tensors = {k: v for k, v in tensors.items() if not k.startswith(tuple(f"{c}." for c in classifiers))}
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
