"""The forward pass: in which number format, compiled or not, and how many images at a time.

What is fastest depends on the processor, the backbone and how many images there are, so it is tried on the first batch
and timed. Whatever is not float32, or compiled, must agree with float32 there.
"""

import logging
import time
from contextlib import ExitStack, contextmanager

from backbench import UserError
from backbench.devices import has_bfloat16
from backbench.progress import tell

LEAST_COSINE = 0.95
"""Least cosine between the centred features of an image in float32 and as computed, in the first batch."""

COMPILE_PAYS = {"bfloat16": 25.0, "float16": 25.0, "float32": 120.0}
"""Seconds the run would go on uncompiled from which compiling is tried. It takes 3 to 30 s; in a reduced format it
halves the time or better, in float32 it may save nothing. See benchmarks/extract.py."""

MOST_COMPILED = 64
"""Backbones compiled at a time. From torch's own limit on, 8, they would run uncompiled without a word."""

FEW = 20
"""Batches below which a choice between one format and itself isn't timed."""


class Engine:
    """Call it with a batch (B, ...) on the device, as ``model`` takes it, for features (B, D) float32.

    ``compiled`` takes batches of one size: smaller ones are filled up. Out of memory on a GPU, the batch is halved.
    """

    def __init__(self, model, device, precision: str, *, compiled: bool = False):
        import torch

        self.model, self.device, self.precision, self.compiled = model, device, precision, compiled
        self.run = torch.compile(model, dynamic=False) if compiled else model
        self.size, self.most = 0, 0
        self.compile_seconds = None  # spent on compiling, this engine or one tried beside it

    def __str__(self):
        return f"{self.precision}, compiled" if self.compiled else self.precision

    def __call__(self, batch):
        import torch

        self.most = self.most or len(batch)
        while True:
            try:
                return torch.cat([self._forward(part) for part in batch.split(self.most)])
            except torch.OutOfMemoryError:
                if self.most == 1:
                    raise UserError(
                        f"not even one image at a time fits into the memory of {self.device}. Use --device cpu."
                    ) from None
            self.most, self.size = self.most // 2, 0
            torch.cuda.empty_cache()
            say(f"out of memory on {self.device}: going on with {self.most} images at a time")

    def _forward(self, batch):
        import torch

        n = len(batch)
        if self.compiled:
            self.size = self.size or n
            if n < self.size:
                batch = torch.cat([batch, batch.new_zeros(self.size - n, *batch.shape[1:])])
                batch = batch.contiguous(memory_format=torch.channels_last)
        with ExitStack() as stack:
            if self.compiled:  # as constants, weights are laid out for the processor's units once: twice as fast
                from torch._dynamo import config as dynamo
                from torch._inductor import config

                stack.enter_context(config.patch(freezing=True))
                stack.enter_context(dynamo.patch(cache_size_limit=MOST_COMPILED))
            if self.device.type == "cuda":
                stack.enter_context(exact_float32())
            if self.precision != "float32":
                stack.enter_context(torch.autocast(batch.device.type, getattr(torch, self.precision)))
            return self.run(batch)[:n].float()


@contextmanager
def exact_float32():
    """Within it float32 on CUDA is float32, for convolutions and products alike. By default torch computes float32
    convolutions in TF32, which keeps 10 of the 23 bits after the point."""
    import torch

    switches = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [switch.allow_tf32 for switch in switches]
    try:
        for switch in switches:
            switch.allow_tf32 = False
        yield
    finally:
        for switch, was in zip(switches, before, strict=True):
            switch.allow_tf32 = was


def fastest(device) -> str:
    """The format with matrix units of its own on this device: bfloat16, float16, or float32 where there is none."""
    import torch

    if device.type == "cuda":
        return "bfloat16" if torch.cuda.get_device_capability(device) >= (8, 0) else "float16"
    return "bfloat16" if device.type == "cpu" and has_bfloat16() else "float32"


def choose(model, batch, device, *, left: int, precision: str = "auto", compile: str = "auto") -> tuple[Engine, dict]:
    """The fastest engine whose features agree with float32's on ``batch``, and images/s of each that was timed.

    ``left`` images are to come. ``precision`` and ``compile`` (auto, on, off) leave a choice only where they are auto;
    where compiling isn't possible, the run goes on without, and says so.
    """
    exact, speeds = Engine(model, device, "float32"), {}
    formats = {"float32": 0, fastest(device): 0} if precision == "auto" else {precision: 0}
    if len(formats) == 1 and (compile == "off" or (compile == "auto" and left < FEW * len(batch))):
        return Engine(model, device, *formats), speeds
    engines = [Engine(model, device, format) for format in formats]
    if precision == "auto":
        engines = [engine for engine in engines if _agrees(engine, exact, batch)]
    for engine in engines:
        speeds[engine] = _speed(engine, batch)
    best = max(speeds, key=speeds.get)
    if compile == "on" or (
        compile == "auto" and device.type != "mps" and left / speeds[best] > COMPILE_PAYS[best.precision]
    ):
        faster = compiled(best, batch)
        if faster and _agrees(faster, exact, batch):
            speeds[faster] = _speed(faster, batch)
            best = faster if compile == "on" else max(speeds, key=speeds.get)
        if faster:
            best.compile_seconds = faster.compile_seconds
    return best, {str(engine): speed for engine, speed in speeds.items()}


def agreement(engine: Engine, exact: Engine, batch) -> float:
    """Least cosine, over the batch, between the centred features of an image by the two."""
    import torch

    reference = exact(batch)
    centre = reference.mean(0)
    return torch.cosine_similarity(reference - centre, engine(batch) - centre).nan_to_num(0).min().item()


def _agrees(engine: Engine, exact: Engine, batch) -> bool:
    if (engine.precision, engine.compiled) == ("float32", False):
        return True
    cosine = agreement(engine, exact, batch)
    if cosine < LEAST_COSINE:
        say(f"{engine} features disagree with float32 (cosine {cosine:.3f}): not taken")
    return cosine >= LEAST_COSINE


def compiled(engine: Engine, batch) -> Engine | None:
    """The same, compiled for batches like this one. None, said with the reason, where that isn't possible."""
    log = logging.getLogger("torch.utils.cpp_extension")  # warns of a CUDA toolkit that nobody asked for
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        started = time.monotonic()
        faster = Engine(engine.model, engine.device, engine.precision, compiled=True)
        faster(batch)
        faster.compile_seconds = time.monotonic() - started
        say(f"compiled in {faster.compile_seconds:.0f} s")
        return faster
    except Exception as error:  # the compiler's own, of many kinds: no C++ compiler, an operation it doesn't know, ...
        say(f"can't compile here, going on without ({' '.join(str(error).split())[:200] or type(error).__name__})")
        return None
    finally:
        log.setLevel(level)


def _speed(engine: Engine, batch) -> float:
    """Images/s, of the faster of two batches after a first."""
    engine(batch)
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        engine(batch).cpu()
        seconds.append(time.perf_counter() - started)
    return len(batch) / min(seconds)


def say(line: str) -> None:
    tell(line)
