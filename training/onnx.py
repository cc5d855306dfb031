"""Modules as ONNX graphs, run by onnxruntime and compared with PyTorch; and that of a checkpoint, for ``--onnx``."""

import sys
from importlib import util
from pathlib import Path

from backbench import UserError
from backbench.training import checkpoint

FILE = "model.onnx"

KEPT = "The checkpoint is complete."

AGREE = 1e-3
"""Largest difference from PyTorch's logits, as a share of their standard deviation or of 1."""

PACKAGES = ("onnx", "onnxruntime", "onnxscript")
"""What writing and running a graph takes: the extra [onnx]."""


class NoGraph(UserError):
    """A module has no ONNX graph. ``reason`` is the exporter's."""

    def __init__(self, reason: str):
        super().__init__(f"the model can't be exported to ONNX ({reason}).")
        self.reason = reason


def check_packages(what: str) -> None:
    """Raise UserError, which begins with ``what``, where packages are missing."""
    if missing := [name for name in PACKAGES if not util.find_spec(name)]:
        raise UserError(f"{what} needs {', '.join(missing)}: pip install 'backbench[onnx]'.")


def write(module, example, path: Path, *, name: str, outputs: list[str], metadata: dict[str, str] | None = None):
    """Write the module's graph to ``path``, of one input ``name`` and any number of images, and return its session.

    ``example`` (B, ...) is an input. Raises NoGraph where the module has none, and OSError.
    """
    import torch
    from onnxruntime import InferenceSession

    try:
        program = torch.onnx.export(
            module,
            (example,),
            input_names=[name],
            output_names=outputs,
            dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
            dynamo=True,
            verbose=False,
        )
        assert program is not None
        program.model.metadata_props.update(metadata or {})
        program.save(path, external_data=False)
        return InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # the exporter raises many kinds of its own
        path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise
        raise NoGraph(" ".join(str(error).split())[:300]) from error


def to_onnx(folder: Path) -> Path:
    """Write ``model.onnx`` into the checkpoint's folder, and return its path.

    It maps normalised ``images`` (B, 3, H, W) to ``logits`` (B, K) for any B. Raises UserError where packages are
    missing, the model can't be exported, or its logits differ.
    """
    import numpy as np
    import torch

    try:
        check_packages("--onnx")
        tuned, path = checkpoint.load(folder), folder / FILE
        images = torch.randn(2, *tuned.config["input_size"], generator=torch.Generator().manual_seed(0))
        session = write(tuned.model, images, path, name="images", outputs=["logits"])
    except UserError as error:
        raise UserError(f"{error} {KEPT}") from error
    except OSError as error:
        raise UserError(f"{folder / FILE} can't be written: {error.strerror}. {KEPT}") from error
    (theirs,) = session.run(None, {"images": images.numpy()})
    with torch.inference_mode():
        ours = tuned.model(images).numpy()
    off = float(np.abs(ours - theirs).max())
    if not off <= AGREE * max(float(ours.std()), 1.0):
        path.unlink()
        raise UserError(f"ONNX gives other logits than PyTorch, by up to {off:.3g}, so {path} was not kept. {KEPT}")
    print(f"{path}: its logits lie within {off:.1g} of PyTorch's.", file=sys.stderr)
    return path
