"""The forward pass: its number format, whether it is compiled, and how many images it takes at a time.

Which choice is fastest depends on the processor, the backbone and the number of images, so choices are timed on the
first batch. The features of another format, or of a compiled backbone, must agree with float32 there.
"""

import logging
import time
from contextlib import ExitStack, contextmanager

from backbench import UserError
from backbench.devices import has_bfloat16
from backbench.progress import tell

LEAST_COSINE = 0.95
"""Least cosine, over the first batch, between an image's centred features in float32 and in the chosen format."""

COMPILE_PAYS = {"bfloat16": 25.0, "float16": 25.0, "float32": 120.0}
"""Seconds that the rest of the run must take uncompiled before compiling is tried. Compiling takes 3 to 30 s. In a
reduced format it at least halves the time; in float32 it may save nothing. See benchmarks/extract.py."""

MOST_COMPILED = 64
"""Number of backbones that may be compiled at a time. Beyond torch's own limit of 8, they would silently run
uncompiled."""

FEW = 20
"""With fewer batches left than this, and only one format to choose from, compiling is not even tried."""


class Engine:
    """Computes features: call it with a batch (B, ...) on the device, as ``model`` takes it, for (B, D) float32.

    A compiled engine takes batches of one size, so smaller ones are padded. When a GPU runs out of memory, the batch
    is halved.
    """

    def __init__(self, model, device, precision: str, *, compiled: bool = False):
        import torch

        self.model, self.device, self.precision, self.compiled = model, device, precision, compiled
        self.run = torch.compile(model, dynamic=False) if compiled else model
        self.size, self.most = 0, 0
        self.compile_seconds = None  # spent on compiling this engine, or one that was tried as well

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
                        f"not even one image at a time fits in the memory of {self.device}. Use --device cpu."
                    ) from None
            self.most, self.size = self.most // 2, 0
            torch.cuda.empty_cache()
            say(f"{self.device} ran out of memory, so the run goes on with {self.most} images at a time")

    def _forward(self, batch):
        import torch

        n = len(batch)
        if self.compiled:
            self.size = self.size or n
            if n < self.size:
                batch = torch.cat([batch, batch.new_zeros(self.size - n, *batch.shape[1:])])
                batch = batch.contiguous(memory_format=torch.channels_last)
        with ExitStack() as stack:
            if self.compiled:  # constant weights are laid out for the processor once: twice as fast
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
    """Make float32 on CUDA exact for convolutions and matrix products while the context lasts.

    By default torch computes float32 convolutions in TF32, which keeps 10 of the 23 bits after the point.
    """
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
    """The format that this device has matrix units for: bfloat16, float16, or float32 where it has none."""
    import torch

    if device.type == "cuda":
        return "bfloat16" if torch.cuda.get_device_capability(device) >= (8, 0) else "float16"
    return "bfloat16" if device.type == "cpu" and has_bfloat16() else "float32"


def choose(model, batch, device, *, left: int, precision: str = "auto", compile: str = "auto") -> tuple[Engine, dict]:
    """Return the fastest engine whose features agree with float32's on ``batch``, and images/s of each that was timed.

    ``left`` is the number of images still to come. ``precision`` and ``compile`` (auto, on, off) leave a choice only
    where they are auto. Where compiling isn't possible, a message says so and the run goes on without it.
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
    """Least cosine, over the batch, between an image's centred features from the two engines."""
    import torch

    reference = exact(batch)
    centre = reference.mean(0)
    return torch.cosine_similarity(reference - centre, engine(batch) - centre).nan_to_num(0).min().item()


def _agrees(engine: Engine, exact: Engine, batch) -> bool:
    if (engine.precision, engine.compiled) == ("float32", False):
        return True
    cosine = agreement(engine, exact, batch)
    if cosine < LEAST_COSINE:
        say(f"{engine} is not used, because its features disagree with float32 (cosine {cosine:.3f})")
    return cosine >= LEAST_COSINE


def compiled(engine: Engine, batch) -> Engine | None:
    """Compile the engine's model for batches like this one. Where that isn't possible, say why and return None."""
    log = logging.getLogger("torch.utils.cpp_extension")  # warns of a CUDA toolkit that nobody asked for
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        started = time.monotonic()
        faster = Engine(engine.model, engine.device, engine.precision, compiled=True)
        faster(batch)
        faster.compile_seconds = time.monotonic() - started
        say(f"the backbone was compiled in {faster.compile_seconds:.0f} s")
        return faster
    except Exception as error:  # compilers raise errors of many kinds: no C++ compiler, an unknown operation, ...
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        say(f"the backbone can't be compiled here, so the run goes on without ({reason})")
        return None
    finally:
        log.setLevel(level)


def _speed(engine: Engine, batch) -> float:
    """Images per second in the faster of two batches that follow a first."""
    engine(batch)
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        engine(batch).cpu()
        seconds.append(time.perf_counter() - started)
    return len(batch) / min(seconds)


def say(line: str) -> None:
    tell(line)
