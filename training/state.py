"""The training state from which a stopped run resumes: one safetensors file with JSON in its header, replaced whole.

It holds no pickle, so that it may be copied between machines.
"""

import contextlib
import json
import os
from pathlib import Path

from backbench import UserError

FILE = "state.safetensors"

FORMAT = "backbench-training 1"


def write(folder: Path, *, model, optimizer, ema, kept: dict, about: dict) -> None:
    """Write the tensors of the model, its optimizer, its moving average (or None) and the state dicts ``kept``.

    ``about`` is written as JSON. Raises UserError where the file can't be written; the earlier state then stays.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = {f"model.{key}": tensor for key, tensor in model.state_dict().items()}
    tensors |= {f"{name}.{key}": tensor for name, one in kept.items() for key, tensor in one.items()}
    if ema is not None:
        tensors |= {f"ema.{key}": tensor for key, tensor in ema.module.state_dict().items()}
    numbers = {}
    for i, values in optimizer.state_dict()["state"].items():
        for key, value in values.items():
            if isinstance(value, torch.Tensor):
                tensors[f"optimizer.{i}.{key}"] = value
            else:
                numbers[f"{i}.{key}"] = value
    # Copies, since safetensors rejects tensors that share memory, and the best weights may be the initial ones.
    tensors = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in tensors.items()}
    header = {"backbench": json.dumps({"format": FORMAT, **about, "optimizer": numbers})}
    path, new = folder / FILE, folder / f".{FILE}.{os.getpid()}.new"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, new, header)
        with new.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(new, path)
    except (OSError, SafetensorError) as error:  # safetensors wraps some errors of the system
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"{path} can't be written: {reason}. The run stops here, and the state saved before is kept. Make room "
            "there and run the same command again."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)


def about(folder: Path) -> dict | None:
    """Return the JSON of the state in ``folder``, or None where there is none. Raises UserError where it is damaged."""
    from safetensors import SafetensorError, safe_open

    path = folder / FILE
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            found = json.loads((file.metadata() or {})["backbench"])
        if found["format"] != FORMAT:
            raise ValueError(f"its format is {found['format']!r}")
        return found
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a training state ({error}). --overwrite starts again.") from None


def read(folder: Path, *, model, optimizer, ema) -> dict:
    """Load model, optimizer and moving average from the state in ``folder``, and return the kept state dicts."""
    from safetensors.torch import load_file

    found: dict[str, dict] = {"model": {}, "ema": {}, "optimizer": {}}
    for key, tensor in load_file(folder / FILE).items():
        kind, _, name = key.partition(".")
        found.setdefault(kind, {})[name] = tensor
    try:
        model.load_state_dict(found["model"])
        if ema is not None:
            ema.module.load_state_dict(found["ema"])
        state: dict[int, dict] = {}
        for name, value in [*found["optimizer"].items(), *about(folder)["optimizer"].items()]:
            i, _, key = name.partition(".")
            state.setdefault(int(i), {})[key] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    except (RuntimeError, KeyError, ValueError) as error:
        raise UserError(
            f"{folder / FILE} doesn't fit this run ({' '.join(str(error).split())[:300]}). --overwrite starts again."
        ) from error
    return {"best": {}} | found


def apart(key: str, ours, theirs) -> list[str]:
    """Return a line for each value in which two identities differ."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return [line for k in sorted({*ours, *theirs}) for line in apart(f"{key}.{k}", ours.get(k), theirs.get(k))]
    return [] if ours == theirs else [f"{key}: there it was {theirs!r}, now {ours!r}"]
