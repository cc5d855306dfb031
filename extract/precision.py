"""Where and in what number format the forward pass runs."""

from backbench import UsageError

LEAST_COSINE = 0.95
"""Least cosine between the centred float32 and reduced-precision features of an image in the first batch."""


def pick_device(name: str):
    """The torch device for ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``; auto prefers a GPU where there is one.

    Raises UsageError where it isn't known or isn't there.
    """
    import torch

    there = ["cpu"]
    if torch.backends.mps.is_available():
        there.insert(0, "mps")
    if torch.cuda.is_available():
        there = ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count())), *there]
    if name == "auto":
        return torch.device(there[0])
    if name not in there:
        raise UsageError(f"--device {name}: not on this machine, which has {', '.join(there)}.")
    return torch.device(name)


def device_name(device) -> str:
    """What the device calls itself, for the record."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        return f"cpu, {torch.get_num_threads()} threads"
    return device.type


def keep_freed_memory() -> None:
    """Have glibc keep freed memory for the next batch instead of giving it back to the system and asking anew.

    A forward pass on a CPU frees and claims hundreds of megabytes, each page of which the kernel zeroes again. Measured
    on 2 cores with tf_efficientnet_lite0, batch 32: 28 images/s without, 50 with. Elsewhere than on glibc: nothing.
    """
    import ctypes
    import platform

    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        m_trim_threshold, m_mmap_threshold, most = -1, -3, 2**30  # <malloc.h>; mallopt takes an int
        libc.mallopt(m_mmap_threshold, most)
        libc.mallopt(m_trim_threshold, 2**31 - 1)


def fastest(device) -> str:
    """The format with matrix units of its own on this device: bfloat16, float16, or float32 where there is none."""
    import torch

    if device.type == "cuda":
        return "bfloat16" if torch.cuda.get_device_capability(device) >= (8, 0) else "float16"
    if device.type == "cpu" and getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)():
        return "bfloat16"
    return "float32"


def forward(model, batch, precision: str):
    """Features (B, D) float32 of a normalised batch; reduced precision by autocast, weights stay float32."""
    import torch

    if precision == "float32":
        return model(batch)
    with torch.autocast(batch.device.type, getattr(torch, precision)):
        return model(batch).float()


def agreement(model, batch, precision: str) -> float:
    """Least cosine, over the batch, between the centred float32 and ``precision`` features of an image."""
    import torch

    exact, reduced = forward(model, batch, "float32"), forward(model, batch, precision)
    centre = exact.mean(0)
    return torch.cosine_similarity(exact - centre, reduced - centre).nan_to_num(0).min().item()
