"""What every training loop keeps and says: where it is, why it ends, a device that fails."""

from dataclasses import dataclass, field

from backbench import UserError

SAVING = 0.02
"""Most of the time that saving may take."""


@dataclass
class Progress:
    """Where a run is: all that a state keeps beside tensors. ``step`` of ``epoch`` is the next one."""

    epoch: int = 0
    step: int = 0
    updates: int = 0
    loss: float = 0.0  # sum over the epoch's steps
    seconds: float = 0.0
    epoch_seconds: float = 0.0
    collapsed: int = 0
    gradual: dict = field(default_factory=dict)
    best: dict = field(default_factory=dict)  # epoch, weights (tuned or EMA), val_top1, val_nll
    history: list = field(default_factory=list)
    ended: str = ""  # why training is over; empty while it isn't


class Diverged(Exception):
    """The loss is no longer finite, or val has collapsed; says where."""


def device_failed(error: RuntimeError, device) -> None:
    """Raise UserError where a GPU is gone: what was saved is kept, and said."""
    words = str(error)
    if any(word in words for word in ("CUDA error", "CUDA driver", "HIP error", "MPS backend", "NCCL error")):
        raise UserError(
            f"{device} failed: {' '.join(words.split())[:200]}. What was saved up to then is kept: the same command "
            "goes on, on another device with --device."
        ) from error
