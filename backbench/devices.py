"""Where the work runs, and what the processor has hardware for."""

import contextlib
import os
from pathlib import Path

from backbench import UsageError
from backbench.progress import loading


def pick_device(name: str):
    """The torch device for ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``; auto prefers a GPU where there is one.

    Raises UsageError where it isn't known or isn't there.
    """
    with loading("torch"):
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


def cores() -> int:
    """Return the number of processor cores that this process may use, by its affinity and its container's limits."""
    import joblib

    return joblib.cpu_count()


def device_name(device) -> str:
    """What the torch device calls itself, for the record."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        return f"cpu, {torch.get_num_threads()} threads"
    return device.type


def memory(device) -> int:
    """Bytes of memory that the torch device has in all; what a container was given counts as the machine's."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    sizes = [8 << 30]  # where nobody says
    with contextlib.suppress(AttributeError, ValueError, OSError):  # Windows
        sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    with contextlib.suppress(ValueError, OSError):  # no container, or "max"
        sizes.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(sizes)


def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 in hardware: Intel's AMX, 8 times as fast as float32 as measured, or
    AVX-512 (AMD since Zen 4, Intel's Cooper Lake), twice. Asked without torch.
    """
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:  # not Linux
        return False
    return not flags.isdisjoint({"amx_bf16", "avx512_bf16"})
