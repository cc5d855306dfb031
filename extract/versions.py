"""What decides pixels and features besides the settings: the libraries, this project's own code, the kind of device.

A finished feature file answers for its features whatever they were made with; an unfinished one goes on only with what
it was begun with, so that no file holds rows of two kinds.
"""

import functools
import hashlib
from importlib import metadata
from pathlib import Path

from backbench import version

LIBRARIES = {"timm": "timm", "torch": "torch", "torchvision": "torchvision", "Pillow": "pillow"}
"""By name, the distributions that decode, resize or compute."""

ROOMS = ("data", "extract")
"""Folders whose code decides which pixels are read and what is computed of them."""


def versions(device=None) -> dict[str, str]:
    """All of it. ``device``, a torch.device, adds its kind and which build of torch; without one torch isn't loaded."""
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
    """Digest of the sources in ``ROOMS``, the command lines aside.

    A commit is no measure: most change nothing that decides features, and one that isn't committed yet may.
    """
    sha, root = hashlib.sha256(), Path(__file__).parents[1]
    for path in sorted(path for room in ROOMS for path in (root / room).glob("*.py") if path.name != "cli.py"):
        sha.update(f"{path.parent.name}/{path.name}".encode() + path.read_bytes())
    return sha.hexdigest()[:12]
