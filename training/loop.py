"""The parts that both training loops share: progress, divergence and the error for a failed device."""

from dataclasses import dataclass, field

from backbench import UserError

SAVING = 0.02
"""Largest share of the time that saving the state may take."""


@dataclass
class Progress:
    """The progress of a run: all of its state but the tensors. ``step`` of ``epoch`` is the next step."""

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
    """The loss is no longer finite, or accuracy on val has collapsed. The message says where."""


def device_failed(error: RuntimeError, device) -> None:
    """Raise UserError where the error says that a GPU failed. The message says that the saved state is kept."""
    words = str(error)
    if any(word in words for word in ("CUDA error", "CUDA driver", "HIP error", "MPS backend", "NCCL error")):
        raise UserError(
            f"{device} failed: {' '.join(words.split())[:200]}. The saved state is kept. The same command resumes the "
            "run; --device names another device."
        ) from error
