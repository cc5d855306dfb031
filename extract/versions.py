"""Versions that decide pixels and features besides the settings: libraries, this project's code, the kind of device.

A finished feature file is used whatever versions made it. An unfinished one is continued only by the versions that
began it, so that no file holds rows of two kinds.
"""

import functools
import hashlib
from importlib import metadata
from pathlib import Path

from backbench import version

LIBRARIES = {"timm": "timm", "torch": "torch", "torchvision": "torchvision", "Pillow": "pillow"}
"""Distributions that decode, resize or compute, by name."""

ROOMS = ("data", "extract")
"""Folders whose code decides which pixels are read and what is computed from them."""


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
    """Digest of the sources in ``ROOMS``, except for the command lines.

    The commit would not do: most commits change nothing that decides features, and uncommitted changes may.
    """
    sha, root = hashlib.sha256(), Path(__file__).parents[1]
    for path in sorted(path for room in ROOMS for path in (root / room).glob("*.py") if path.name != "cli.py"):
        sha.update(f"{path.parent.name}/{path.name}".encode() + path.read_bytes())
    return sha.hexdigest()[:12]
