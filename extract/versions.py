"""Versions that decide pixels and features besides the settings: libraries, this project's code, the kind of device.

A finished feature file is used whatever versions made it. An unfinished one is continued only by the versions that
began it, so that no file holds rows of two kinds.
"""

import functools
import hashlib
from importlib import metadata
from pathlib import Path

from backbench import version

LIBRARIES = {
    "timm": "timm",
    "torch": "torch",
    "torchvision": "torchvision",
    "Pillow": "pillow",
    "simplejpeg": "simplejpeg",
}
"""Distributions that decode, resize or compute, by name."""

DECIDING = (
    *(f"data/{name}.py" for name in ("decode", "formats", "jpeg", "levels", "mend")),
    *(f"extract/{name}.py" for name in ("ahead", "backbones", "engine", "extraction", "feature_tap", "openvino")),
    *(f"extract/{name}.py" for name in ("preprocess", "views")),
)
"""Files whose code decides which pixels an image has and what is computed from them. What lists images or writes
features isn't among them, so that a new version of that adds new images to old files."""


def versions(device=None) -> dict[str, str]:
    """Return all versions by name. A torch.device adds its kind and torch's build; without one torch isn't loaded."""
    if not device:
        return _installed()
    import torch

    return _installed() | {"torch": torch.__version__, "device": device.type}


@functools.cache
def _installed() -> dict[str, str]:
    from PIL import features

    libraries = {name: metadata.version(distribution) for name, distribution in LIBRARIES.items()}
    jpeg = features.version("libjpeg_turbo") or features.version("jpg")
    return {"backbench": version(), "code": code(), **libraries, "libjpeg-turbo": str(jpeg)}


@functools.cache
def code() -> str:
    """Digest of the sources ``DECIDING``.

    The commit would not do: most commits change nothing that decides features, and uncommitted changes may.
    """
    sha, root = hashlib.sha256(), Path(__file__).parents[1]
    for name in DECIDING:
        sha.update(name.encode() + (root / name).read_bytes())
    return sha.hexdigest()[:12]
