"""A backbone compiled ahead of time by torch: a library that later runs load at once, without tracing it again.

torch.compile gives the same features, but each process traces the backbone anew, which takes 5 to 15 s.
"""

import shutil
from pathlib import Path

LIBRARY = "model.so"
"""The compiled backbone with its weights."""

OPTIONS = {"freezing": True}
"""Options of torch's compiler: constant weights are laid out for the processor once, which is twice as fast."""


def build(module, batch, precision: str, folder: Path) -> None:
    """Compile a module for batches like ``batch`` (B, ...) on the CPU into ``folder``. Raises errors of many kinds."""
    import torch

    class InPrecision(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.training = False  # not eval(), which would hide that a module of the model is in train mode
            self.module = module

        def forward(self, batch):
            with torch.autocast("cpu", getattr(torch, precision), enabled=precision != "float32"):
                return self.module(batch)

    path = folder / "build" / LIBRARY
    path.parent.mkdir()
    with torch.inference_mode(False), torch.no_grad():
        like = torch.zeros(batch.shape, dtype=batch.dtype).contiguous(memory_format=torch.channels_last)
        program = torch.export.export(InPrecision(), (like,))
        options = OPTIONS | {"aot_inductor.output_path": str(path)}
        torch._inductor.aot_compile(program.module(), (like,), options=options)  # type: ignore[arg-type]
    path.replace(folder / LIBRARY)
    shutil.rmtree(path.parent)


def load(folder: Path, precision: str, batch):
    """Return a function from a batch as given to ``build`` to features (B, D). Raises RuntimeError."""
    import torch

    runner = torch._C._aoti.AOTIModelContainerRunnerCpu(str(folder / LIBRARY), 1)
    return lambda batch: runner.run([batch])[0]
