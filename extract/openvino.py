"""OpenVINO as an engine for processors: it needs no C++ compiler, and knows more of a processor's units than torch.

On 2 cores with AMX it computes resnet50 in bfloat16 1.4 times as fast as torch's compiler does
(``benchmarks/extract.py``).
"""

import functools
import logging
import re
from importlib import metadata, util
from pathlib import Path

import numpy as np

from backbench import UsageError
from backbench.devices import cores, has_bfloat16

FILE = "model.xml"
"""OpenVINO's description of a network. Its weights lie beside it, in model.bin."""

STREAMS = 2
"""Parts of a batch that are computed side by side, each by its share of the cores, which wait less for each other. On 2
cores resnet50 computes 16 images beside 16 1.2 to 1.9 times as fast as 32 at once, by how quiet the machine is."""

PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}
"""OpenVINO's names for the number formats that it computes in here."""


def kind() -> str | None:
    """Return what a feature file calls this engine, ``openvino 2026.4.1``, or None where it is not installed."""
    return f"openvino {metadata.version('openvino')}" if util.find_spec("openvino") else None


def possible(precision: str) -> bool:
    """Whether it is installed and the processor computes in this format: others it would silently replace."""
    return kind() is not None and (precision == "float32" or (precision == "bfloat16" and has_bfloat16()))


def check(compile: str | None) -> None:
    """Raise UsageError where ``--compile openvino`` is asked for and OpenVINO isn't installed."""
    if compile == "openvino" and kind() is None:
        raise UsageError("--compile openvino needs OpenVINO. Install it with: pip install 'backbench[openvino]'")


def lacking(wanted: str) -> str:
    """Return which engine ``wanted``, a ``kind`` that a feature file names, is and how to have it; empty if it is here.

    Rows of two versions may differ in their last bits, so that a file is finished by the one that began it.
    """
    if wanted == kind():
        return ""
    version = re.fullmatch(r"openvino (\d{1,6}(?:\.\d{1,6}){1,3})", wanted)
    if not version:
        return "an engine that this version doesn't know. Finish them with the version of backbench that began them"
    return f"OpenVINO {version[1]}, which isn't here. Install it with: pip install openvino=={version[1]}"


def build(module, batch, precision: str, folder: Path) -> None:
    """Convert a module for batches like ``batch`` (B, 3, H, W) uint8, channels last, into files in ``folder``.

    Its own frontend is asked, since ``openvino.convert_model`` sends usage data to its makers.
    """
    import openvino
    import torch
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder
    from openvino.preprocess import PrePostProcessor

    shape = (len(batch) // _streams(batch), *batch.shape[1:])
    logging.disable(logging.WARNING)  # of operations that the network doesn't have
    try:
        with torch.inference_mode(False), torch.no_grad():
            program = torch.export.export(module, (torch.zeros(shape, dtype=batch.dtype),))
            decoder = TorchFXPythonDecoder.from_exported_program(program, dynamic_shapes=False)
    finally:
        logging.disable(logging.NOTSET)
    frontend = FrontEndManager().load_by_framework("pytorch")
    model = frontend.convert(frontend.load(decoder))
    model.reshape(list(shape))
    steps = PrePostProcessor(model)
    steps.input().tensor().set_layout(openvino.Layout("NHWC")).set_element_type(openvino.Type.u8)
    steps.input().model().set_layout(openvino.Layout("NCHW"))
    openvino.save_model(steps.build(), folder / FILE, compress_to_fp16=False)


def load(folder: Path, precision: str, batch):
    """Return a function from a batch as given to ``build`` to features (B, D) float32. Raises RuntimeError.

    The cores are those that this process may use, and no thread is bound to one, since workers share them.
    """
    import torch

    options = {
        "INFERENCE_PRECISION_HINT": PRECISIONS[precision],
        "INFERENCE_NUM_THREADS": min(torch.get_num_threads(), cores()),
        "NUM_STREAMS": _streams(batch),
        "ENABLE_CPU_PINNING": False,
    }
    model = _core().compile_model(folder / FILE, "CPU", options)
    requests = [model.create_infer_request() for _ in range(_streams(batch))]

    def run(batch):
        parts = batch.permute(0, 2, 3, 1).contiguous().chunk(len(requests))
        for request, part in zip(requests, parts, strict=True):
            request.start_async([part.numpy()], share_inputs=True)
        for request in requests:
            request.wait()
        return torch.from_numpy(np.concatenate([request.get_output_tensor().data for request in requests]))  # copies

    return run


@functools.cache
def _core():
    """Return OpenVINO's runtime, which stays loaded as long as the process lives.

    It gives the thread that loads it a stack for signal handlers, and takes it away in whichever thread unloads it. The
    next signal that Python handles would end the process with SIGSEGV (OpenVINO 2026.4, on processors with AMX).
    """
    import openvino

    return openvino.Core()


def _streams(batch) -> int:
    return 1 if len(batch) % STREAMS else STREAMS
