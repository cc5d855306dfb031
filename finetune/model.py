"""A backbone with a classifier: built, given a probe's head, mixed with its start, and kept as a checkpoint.

A checkpoint is a folder: ``model.safetensors`` loads with ``timm.create_model(..., checkpoint_path=...)``, and
``model.json`` says with which arguments, the classes, the preprocessing, how it was trained and its result row. It may
come from a stranger: nothing in it is believed.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backbench import UserError
from backbench.files import write_whole
from extract import names
from extract.backbones import Backbone
from finetune import kinds

TENSORS, ABOUT = "model.safetensors", "model.json"

FORMAT, SCHEMA = "backbench-checkpoint", 1

LARGEST = 64 << 20
"""Bytes of model.json beyond which it is not read."""

KEYS = {
    "schema": int, "sha256": str, "model": str, "timm_name": str, "arguments": dict, "classes": list,
    "transform": dict, "pooling": str, "recipe": dict, "seed": int, "precision": str, "dataset": str,
    "dataset_digest": str, "identity": dict, "ended": str, "row": dict,
}  # fmt: skip
"""What model.json holds besides its format."""

SEALED = ("model", "timm_name", "arguments", "classes", "transform", "dataset_digest")
"""What model.safetensors repeats of it, so that neither is taken for another's."""

ARGUMENTS = {"num_classes": int, "img_size": int, "dynamic_img_size": bool}
"""What a checkpoint may ask of ``timm.create_model``."""

AGREE = 1e-3
"""How far logits may lie from the probe head's, as a share of their spread: float32 rounding leaves 1e-5."""


@dataclass(frozen=True)
class Tuned:
    """A checkpoint, loaded: ``about`` is model.json, ``config`` timm's data config."""

    folder: Path
    about: dict
    model: object
    config: dict

    @property
    def stage(self) -> str:
        return kinds.stage(self.about["timm_name"])

    @property
    def method(self) -> str:
        return kinds.method(self.stage, self.about["recipe"])


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


def save(folder: Path, state: dict, about: dict) -> dict:
    """Write the checkpoint, model.json last; gives it back. Raises UserError where it can't be written."""
    from safetensors.torch import save

    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}
    # One key: safetensors writes several in any order, and equal weights should be equal files.
    content = save(tensors, {"backbench": _seal(about)})
    about = {"format": FORMAT, "schema": SCHEMA, "sha256": hashlib.sha256(content).hexdigest(), **about}
    try:
        write_whole(folder / TENSORS, content)
        write_whole(folder / ABOUT, json.dumps(about, indent=1, allow_nan=False).encode())
    except OSError as error:
        raise UserError(
            f"{folder} can't be written: {error.strerror}. Make room there, or name another folder with --out; "
            "the training is kept."
        ) from error
    return about


def _seal(about: dict) -> str:
    return json.dumps({key: about[key] for key in SEALED}, sort_keys=True)


def folder_of(checkpoint: Path) -> Path:
    """The checkpoint's folder, which may be named by a file in it."""
    return checkpoint.parent if checkpoint.name in (TENSORS, ABOUT) else checkpoint


def read_about(folder: Path) -> dict:
    """model.json, its shape checked. Raises UserError."""
    path = folder / ABOUT
    try:
        if path.stat().st_size > LARGEST:
            raise UserError(f"{path} is larger than {LARGEST >> 20} MB: not read.")
        about = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(
            f"{path} can't be read: {error.strerror}. A checkpoint is a folder with {TENSORS} and {ABOUT}, as finetune "
            "makes it."
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: not JSON ({error}). Train it again.") from None
    if not isinstance(about, dict) or about.get("format") != FORMAT or about.get("schema") != SCHEMA:
        raise UserError(f"{path} is no checkpoint of backbench that this version reads (schema {SCHEMA}).")
    wrong = [key for key, kind in KEYS.items() if not isinstance(about.get(key), kind)]
    if wrong or not _sound(about):
        raise UserError(f"{path} is damaged: {', '.join(wrong) or 'its values'} not as finetune writes it.")
    return about


def _sound(about: dict) -> bool:
    arguments, classes, transform, recipe = (about[k] for k in ("arguments", "classes", "transform", "recipe"))
    size, mean, std = (transform.get(key) for key in ("input_size", "mean", "std"))
    crop = transform.get("crop_pct")
    return (
        all(ARGUMENTS.get(key) is type(value) for key, value in arguments.items())
        and arguments.get("num_classes") == len(classes) > 1
        and all(isinstance(name, str) for name in classes)
        and isinstance(size, list) and len(size) == 3 and all(type(n) is int and 0 < n <= 4096 for n in size)
        and all(isinstance(v, list) and len(v) == 3 and all(type(x) in (int, float) for x in v) for v in (mean, std))
        and all(x > 0 for x in std)
        and type(crop) in (int, float) and 0 < crop <= 1
        and transform.get("exif") in ("ignore", "apply")
        and all(isinstance(recipe.get(key), str) for key in ("name", "strategy"))
        and about["precision"] in ("float32", "bfloat16")
        and isinstance(about.get("seen", []), list) and all(isinstance(one, str) for one in about.get("seen", []))
    )  # fmt: skip


def load(checkpoint: Path) -> Tuned:
    """The checkpoint in a folder, or beside its ``model.safetensors``, in eval mode.

    Raises UserError where a file is missing, damaged, another checkpoint's, or another model's.
    """
    import timm
    from safetensors import SafetensorError
    from safetensors.torch import load as tensors_of

    folder = folder_of(checkpoint)
    about = read_about(folder)
    path = folder / TENSORS
    try:
        content = path.read_bytes()
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        seal = json.loads(header["__metadata__"]["backbench"])
        state = tensors_of(content)
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}.") from None
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no checkpoint of backbench ({error}). Train it again.") from None
    if lines := [f"{key}: {TENSORS} has {seal.get(key)!r}, {ABOUT} {about[key]!r}" for key in SEALED
                 if seal.get(key) != about[key]]:  # fmt: skip
        raise UserError(f"{folder}: its two files belong to different checkpoints:\n  " + "\n  ".join(lines))
    if hashlib.sha256(content).hexdigest() != about["sha256"]:
        raise UserError(f"{path} is not the file that {ABOUT} was written with: copy the two together.")
    kinds.prepare(about, folder)
    names.resolve([about["model"]])
    if about["timm_name"] != names.timm_name(about["model"]):
        raise UserError(f"{folder}: {about['model']} is {names.timm_name(about['model'])}, not {about['timm_name']}.")
    try:
        model = timm.create_model(about["timm_name"], pretrained=False, **about["arguments"])
        model.load_state_dict(state, strict=True)
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        reason = " ".join(str(error).split())[:500]
        raise UserError(f"{path} doesn't fit {about['timm_name']}: {reason}") from error
    config = {k: tuple(v) if isinstance(v, list) else v for k, v in about["transform"].items() if k != "exif"}
    return Tuned(folder, about, model.eval().requires_grad_(False), config)


def as_backbone(tuned: Tuned) -> Backbone:
    """The tuned model without its classifier, for ``extract``: a backbone named after model and recipe."""
    from extract.backbones import digest

    about = tuned.about
    tuned.model.reset_classifier(0)
    name = f"{about['model']}+{about['recipe']['name']}-{about['recipe']['strategy']}"
    tag = f"tuned on {about['dataset']}, {tuned.method}, seed {about['seed']}"
    return Backbone(name, tag, digest(tuned.model), tuned.model.eval().requires_grad_(False), tuned.config)
