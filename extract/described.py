"""Models that a config.json describes: ``hf-hub:OWNER/NAME`` on the Hugging Face hub, ``local-dir:PATH`` in a folder.

Such a file may come from a stranger, and JSON has no tuples: what it says is checked and brought into timm's types.
"""

from pathlib import Path
from typing import NamedTuple

from backbench import UserError
from backbench.extract import weights_file

WEIGHTS = (
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
)
"""Names of the weights in a folder, in the order in which timm takes them (timm/models/_hub.py)."""

LARGEST = 4096
"""Longest side in pixels of a model's input."""

LARGEST_CROP = 2
"""Largest crop_pct. timm's largest is 1.15: an image is resized to less than the input, and padded."""

WORDS = {
    "interpolation": ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"),
    "crop_mode": ("center", "squash", "border"),
}
"""timm's words for preprocessing that is the same each time."""

ARGUMENTS = (bool, int, float, str)
"""Types of a model's arguments that a config.json may set, besides lists of them."""

OWN = ("num_classes", "pretrained")
"""Arguments of ``timm.create_model`` that are set here."""

FORBIDDEN = ("checkpoint_path", "cache_dir", "pretrained_cfg", "pretrained_cfg_overlay", "features_only")
"""Those that a config.json has no business with: the first would read any file."""


class Description(NamedTuple):
    """What a config.json says: timm's ``architecture``, ``arguments`` of it, and ``config``, timm's pretrained_cfg."""

    architecture: str
    arguments: dict
    config: dict


def describe(name: str) -> Description:
    """Read the config.json of the model. Raises UserError where there is none or it isn't timm's."""
    import timm
    from timm.models import _hub

    source, place = name.split(":", 1)
    load = _hub.load_model_config_from_hf if source == "hf-hub" else _hub.load_model_config_from_path
    try:
        config, architecture, arguments = load(place)
    except KeyError as error:
        raise UserError(
            f"{name}: its config.json is not one of timm's, since it has no {error}. A model of another library, such "
            "as transformers, can't be run. timm may have the same weights under a name of its own."
        ) from error
    except (AttributeError, TypeError) as error:
        raise UserError(f"{name}: its config.json is damaged: {error}.") from error
    if not timm.is_model(architecture):
        raise UserError(f"{name}: its config.json names {architecture!r}, which timm {timm.__version__} doesn't have.")
    arguments = {key: value for key, value in (arguments or {}).items() if key not in OWN}
    if wrong := odd(arguments):
        raise UserError(f"{name}: its config.json sets {', '.join(wrong)}, which can't be set there, or not so.")
    data_config(name, config)  # before a model is built for images of that size
    return Description(architecture, arguments, config)


def odd(arguments: dict) -> list[str]:
    """Return those of a model's arguments, from a file, that are not an architecture's own or no plain values."""
    return [
        key
        for key, value in arguments.items()
        if key in FORBIDDEN
        or not all(isinstance(v, ARGUMENTS) for v in (value if isinstance(value, list) else [value]))
    ]


def weights(name: str, config: dict):
    """Return what the model's weights file holds, for ``extract.state_dict.choose``.

    Raises UserError where a folder has none, or several and none by a name of ``WEIGHTS``. On the hub timm's own errors
    are raised.
    """
    source, place = name.split(":", 1)
    if source == "hf-hub":
        from timm.models import load_state_dict_from_hf

        asked = [config["hf_hub_filename"]] if config.get("hf_hub_filename") else []
        return load_state_dict_from_hf(place, *asked, weights_only=True)
    folder = Path(place)
    found = [folder / file for file in WEIGHTS if (folder / file).is_file()][:1]
    found = found or sorted(one for one in folder.iterdir() if one.suffix in weights_file.ENDINGS)
    if len(found) != 1:
        held = f"has {', '.join(one.name for one in found[:5])}" if found else "has no weights"
        raise UserError(f"{name}: the folder {held}, but one file is expected, such as {WEIGHTS[0]}.")
    return weights_file.read(found[0])


def data_config(name: str, pretrained_cfg: dict, asked: dict | None = None) -> dict:
    """Return timm's data config, in tuples: ``asked``, else as in the model's ``pretrained_cfg``, else timm's defaults.

    Raises UserError where its values can't be right.
    """
    import timm

    config = timm.data.resolve_data_config(asked or {}, pretrained_cfg=pretrained_cfg)
    config = {key: tuple(value) if isinstance(value, list) else value for key, value in config.items()}
    size, crop = config["input_size"], config["crop_pct"]
    right = {
        "input_size": _numbers(size, int) and size[0] == 3 and 0 < min(size) <= max(size) <= LARGEST,
        "mean": _numbers(config["mean"], int | float),
        "std": _numbers(config["std"], int | float) and min(config["std"]) > 0,
        "crop_pct": isinstance(crop, int | float) and 0 < crop <= LARGEST_CROP,
    } | {key: config[key] in words for key, words in WORDS.items()}
    wrong = [f"{key} is {config[key]!r}" for key, fits in right.items() if not fits]
    if wrong:
        raise UserError(f"{name}: the preprocessing in its config.json can't be used: {', '.join(wrong)}.")
    return config


def _numbers(values, kind) -> bool:
    """Whether these are three numbers, one a colour or side."""
    return isinstance(values, tuple) and len(values) == 3 and all(isinstance(v, kind) for v in values)
