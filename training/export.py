"""Export of a checkpoint to ONNX, checked against PyTorch."""

import sys
from pathlib import Path

from backbench import UserError
from backbench.training import checkpoint

FILE = "model.onnx"

KEPT = "The checkpoint is complete."

AGREE = 1e-3
"""Largest difference from PyTorch's logits, as a share of their standard deviation or of 1."""


def to_onnx(folder: Path) -> Path:
    """Write ``model.onnx`` into the checkpoint's folder, and return its path.

    It maps normalised ``images`` (B, 3, H, W) to ``logits`` (B, K) for any B. Raises UserError where packages are
    missing, the model can't be exported, or its logits differ.
    """
    import numpy as np
    import torch

    try:
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"--onnx needs {error.name}: pip install 'backbench[onnx]'. {KEPT}") from None
    tuned, path = checkpoint.load(folder), folder / FILE
    images = torch.randn(2, *tuned.config["input_size"], generator=torch.Generator().manual_seed(0))
    try:
        torch.onnx.export(
            tuned.model,
            (images,),
            path,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes={"x": {0: torch.export.Dim.DYNAMIC}},
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (theirs,) = session.run(None, {"images": images.numpy()})
    except Exception as error:  # the exporter raises many kinds of its own
        path.unlink(missing_ok=True)
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{tuned.about['model']} can't be exported to ONNX ({reason}). {KEPT}") from error
    with torch.inference_mode():
        ours = tuned.model(images).numpy()
    off = float(np.abs(ours - theirs).max())
    if not off <= AGREE * max(float(ours.std()), 1.0):
        path.unlink()
        raise UserError(f"ONNX gives other logits than PyTorch, by up to {off:.3g}, so {path} was not kept. {KEPT}")
    print(f"{path}: its logits lie within {off:.1g} of PyTorch's.", file=sys.stderr)
    return path
