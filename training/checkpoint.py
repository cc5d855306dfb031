"""Checkpoints: the folders in which trained models are kept.

``model.safetensors`` loads with ``timm.create_model(..., checkpoint_path=...)``. ``model.json`` holds that call's
arguments, the classes, the preprocessing, the recipe and the result row. A checkpoint may come from a stranger, so
everything in it is checked.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from backbench import UserError
from backbench.extract import described, names
from backbench.extract.backbones import Backbone
from backbench.files import write_whole
from backbench.reference import Reference
from backbench.training import checkpoint_kind

TENSORS, ABOUT = "model.safetensors", "model.json"


FORMAT, SCHEMA = "backbench-checkpoint", 1


LARGEST = 64 << 20
"""Largest size in bytes of a model.json that is read."""


KEYS = {
    "schema": int, "sha256": str, "model": str, "timm_name": str, "arguments": dict, "classes": list,
    "transform": dict, "pooling": str, "recipe": dict, "seed": int, "precision": str, "dataset": str,
    "dataset_digest": str, "identity": dict, "ended": str, "row": dict,
}  # fmt: skip
"""The keys of model.json besides its format, with their types."""


SEALED = ("model", "timm_name", "arguments", "classes", "transform", "dataset_digest")
"""The keys that model.safetensors repeats, so that files of two checkpoints are not mixed up."""


ARGUMENTS = {"num_classes": int, "dynamic_img_size": bool}
"""Types of the arguments of ``timm.create_model`` that are set here. Others come from a backbone's config.json."""


@dataclass(frozen=True)
class Tuned:
    """A loaded checkpoint: ``about`` is the content of model.json, ``config`` timm's data config."""

    folder: Path
    about: dict
    model: object
    config: dict

    @property
    def stage(self) -> str:
        return checkpoint_kind.stage(self.about["timm_name"])

    @property
    def method(self) -> str:
        return checkpoint_kind.method(self.stage, self.about["recipe"])


def save(folder: Path, state: dict, about: dict) -> dict:
    """Write the checkpoint, model.json last, and return model.json's content.

    Raises UserError where it can't be written.
    """
    from safetensors.torch import save

    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}
    # One key only: safetensors writes several in any order, and equal weights should give equal files.
    content = save(tensors, {"backbench": _seal(about)})
    about = {"format": FORMAT, "schema": SCHEMA, "sha256": hashlib.sha256(content).hexdigest(), **about}
    try:
        write_whole(folder / TENSORS, content)
        write_whole(folder / ABOUT, json.dumps(about, indent=1, allow_nan=False).encode())
    except OSError as error:
        raise UserError(
            f"{folder} can't be written: {error.strerror}. Make room there, or name another folder with --out. "
            "The training is kept."
        ) from error
    return about


def _seal(about: dict) -> str:
    return json.dumps({key: about[key] for key in SEALED}, sort_keys=True)


def folder_of(checkpoint: Path) -> Path:
    """Return the checkpoint's folder, where ``checkpoint`` is that folder or a file in it."""
    return checkpoint.parent if checkpoint.name in (TENSORS, ABOUT) else checkpoint


def read_about(folder: Path) -> dict:
    """Return the content of model.json. Raises UserError where it is missing, damaged or of another version."""
    path = folder / ABOUT
    try:
        if path.stat().st_size > LARGEST:
            raise UserError(f"{path} is larger than {LARGEST >> 20} MB, so it is not read.")
        about = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(
            f"{path} can't be read: {error.strerror}. A checkpoint is a folder with {TENSORS} and {ABOUT}, as finetune "
            "writes it."
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: it is not JSON ({error}). Train it again.") from None
    if not isinstance(about, dict) or about.get("format") != FORMAT or about.get("schema") != SCHEMA:
        raise UserError(f"{path} is not a backbench checkpoint that this version reads (schema {SCHEMA}).")
    wrong = [key for key, kind in KEYS.items() if not isinstance(about.get(key), kind)]
    if wrong or not _sound(about):
        fault = f"missing or of a wrong type: {', '.join(wrong)}" if wrong else "some of its values are invalid"
        raise UserError(f"{path} is damaged: {fault}.")
    try:
        reference(about)
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}.") from None
    return about


def reference(about: dict) -> Reference | None:
    """What val says of new images, or None of a run without val, of one that diverged, and by an earlier version.

    Raises ValueError where model.json's content is damaged.
    """
    held = about.get("reference")
    return None if held is None else Reference.of_lists(held)


def _sound(about: dict) -> bool:
    arguments, classes, transform, recipe = (about[k] for k in ("arguments", "classes", "transform", "recipe"))
    size, mean, std = (transform.get(key) for key in ("input_size", "mean", "std"))
    crop = transform.get("crop_pct")
    return (
        all(ARGUMENTS.get(key, type(value)) is type(value) for key, value in arguments.items())
        and not described.odd(arguments)
        and arguments.get("num_classes") == len(classes) > 1
        and all(isinstance(name, str) for name in classes)
        and isinstance(size, list) and len(size) == 3 and all(type(n) is int and 0 < n <= 4096 for n in size)
        and all(isinstance(v, list) and len(v) == 3 and all(type(x) in (int, float) for x in v) for v in (mean, std))
        and all(x > 0 for x in std)
        and type(crop) in (int, float) and 0 < crop <= described.LARGEST_CROP
        and all(transform.get(key) in words for key, words in described.WORDS.items())
        and transform.get("exif") in ("ignore", "apply")
        and all(isinstance(recipe.get(key), str) for key in ("name", "strategy"))
        and about["precision"] in ("float32", "bfloat16")
        and isinstance(about.get("seen", []), list) and all(isinstance(one, str) for one in about.get("seen", []))
    )  # fmt: skip


def load(checkpoint: Path) -> Tuned:
    """Load the checkpoint in a folder, which may be named by a file in it. The model is in eval mode.

    Raises UserError where a file is missing, is damaged, or belongs to another checkpoint or another model.
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
        raise UserError(f"{path} is not a backbench checkpoint ({error}). Train it again.") from None
    if lines := [f"{key}: {TENSORS} has {seal.get(key)!r}, {ABOUT} {about[key]!r}" for key in SEALED
                 if seal.get(key) != about[key]]:  # fmt: skip
        raise UserError(f"{folder}: its two files belong to different checkpoints:\n  " + "\n  ".join(lines))
    if hashlib.sha256(content).hexdigest() != about["sha256"]:
        raise UserError(f"{path} is not the file that {ABOUT} was written with. Copy the two together.")
    checkpoint_kind.prepare(about, folder)
    _check_name(about, folder)
    try:
        model = timm.create_model(about["timm_name"], pretrained=False, **about["arguments"])
        model.load_state_dict(state, strict=True)
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        reason = " ".join(str(error).split())[:500]
        raise UserError(f"{path} doesn't fit {about['timm_name']}: {reason}") from error
    config = {
        k: tuple(v) if isinstance(v, list) else v for k, v in about["transform"].items() if k not in ("exif", "levels")
    }
    return Tuned(folder, about, model.eval().requires_grad_(False), config)


def _check_name(about: dict, folder: Path) -> None:
    """Raise UserError unless the architecture is one of timm's, and that of the named model.

    Of a model from the hub or a folder the checkpoint says the architecture, so that nothing is fetched or read.
    """
    model, timm_name = about["model"], about["timm_name"]
    if names.described(timm_name):
        raise UserError(f"{folder}: an earlier version wrote it without the architecture of {model}. Train it again.")
    if names.described(model):
        names.resolve([timm_name])
        return
    names.resolve([model])
    if names.timm_name(timm_name) != names.timm_name(model):
        raise UserError(f"{folder}: {model} is {names.timm_name(model)}, not {timm_name}.")


def as_backbone(tuned: Tuned) -> Backbone:
    """Return the model without its classifier, for ``extract``, as a backbone that is named after model and recipe."""
    from backbench.extract.backbones import digest

    about = tuned.about
    tuned.model.reset_classifier(0)
    name = f"{about['model']}+{about['recipe']['name']}-{about['recipe']['strategy']}"
    tag = f"tuned on {about['dataset']}, {tuned.method}, seed {about['seed']}"
    return Backbone(name, tag, digest(tuned.model), tuned.model.eval().requires_grad_(False), tuned.config)
