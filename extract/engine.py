"""The forward pass: its number format, whether it is compiled, and how many images it takes at a time.

Which choice is fastest depends on the processor, the backbone and the number of images, so choices are timed on the
first batch. The features of another format, or of a compiled backbone, must agree with float32 there. What was found
and compiled is kept for the next run (``extract.trials``).
"""

import logging
import time
from contextlib import ExitStack, contextmanager

from backbench import UserError
from backbench.devices import has_bfloat16
from backbench.extract import ahead, openvino
from backbench.extract.trials import Kept
from backbench.progress import tell

LEAST_COSINE = 0.95
"""Least cosine, over the first batch, between an image's centred features in float32 and in the chosen format."""

COMPILE_PAYS = {"bfloat16": 25.0, "float16": 25.0, "float32": 120.0}
"""Seconds that the rest of the run must take uncompiled before compiling is tried. Compiling takes 3 to 30 s. In a
reduced format it at least halves the time; in float32 it may save nothing, and beside OpenVINO as little. See
benchmarks/extract.py."""

CONVERT_PAYS = 15.0
"""The same for converting to OpenVINO, which takes 3 to 10 s."""

MOST_COMPILED = 64
"""Number of backbones that may be compiled at a time. Beyond torch's own limit of 8, they would silently run
uncompiled."""

CLEAR = 2
"""How many times as fast as the first batch in float32 another format must be, for float32 not to be timed further."""

FEW = 20
"""With fewer batches left than this, and only one format to choose from, compiling is not even tried."""


class Engine:
    """Computes features: call it with a batch (B, ...) on the device, as ``model`` takes it, for (B, D) float32.

    A compiled engine takes batches of one size, so smaller ones are padded. When a GPU runs out of memory, the batch
    is halved. ``compiled`` is what a feature file calls it: True by torch, or ``openvino.kind()``. ``run`` computes
    features where it isn't for torch to do it now.
    """

    def __init__(self, model, device, precision: str, *, compiled: bool | str = False, run=None):
        import torch

        self.model, self.device, self.precision, self.compiled = model, device, precision, compiled
        self.ready = run is not None
        self.run = run or (torch.compile(model, dynamic=False) if compiled else model)
        self.size, self.most = 0, 0
        self.images, self.seconds = 0, 0.0  # computed so far, and in which time; on a GPU that is only the asking
        self.compile_seconds = None  # spent on compiling this engine, or one that was tried as well

    def __str__(self):
        return named(self.precision, self.compiled)

    def __call__(self, batch):
        import torch

        self.most = self.most or len(batch)
        started = time.perf_counter()
        while True:
            try:
                features = torch.cat([self._forward(part) for part in batch.split(self.most)])
                self.images, self.seconds = self.images + len(batch), self.seconds + time.perf_counter() - started
                return features
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
        if self.ready:
            return self.run(batch)[:n].float()
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


def named(precision: str, compiled: bool | str) -> str:
    """The name of an engine for people, and in what is kept of trials."""
    return f"{precision}, {'compiled' if compiled is True else compiled}" if compiled else precision


def choose(
    model, batch, device, *, left: int, precision: str = "auto", compile: str = "auto", kept: Kept | None = None
) -> tuple[Engine, dict]:
    """Return the fastest engine whose features agree with float32's on ``batch``, and images/s of each that was timed.

    ``left`` is the number of images still to come. ``precision`` and ``compile`` (auto, on, off, openvino) leave a
    choice only where they are auto. Speeds that are ``kept`` aren't measured again. Where compiling isn't possible, a
    message says so and the run goes on without it.
    """
    formats = {"float32": 0, fastest(device): 0} if precision == "auto" else {precision: 0}
    if len(formats) == 1 and (compile == "off" or (compile == "auto" and left < FEW * len(batch))):
        return Engine(model, device, *formats), {}
    trial = _Trial(model, device, batch, kept or Kept())
    best, plain = trial.plain(list(formats), checked=precision == "auto")
    seconds = 0.0
    kinds = _kinds(compile, device, plain.precision)
    if compile == "openvino" and not kinds:
        say(f"OpenVINO doesn't compute in {plain.precision} on this {device.type}, so the run goes on without")
    for kind in kinds:
        name = named(plain.precision, kind)
        known = trial.kept.speeds.get(name, 0.0)
        pays = CONVERT_PAYS if kind is not True else COMPILE_PAYS["float32" if best.compiled else plain.precision]
        free = trial.kept.has(_files(plain.precision, kind))
        if compile == "auto" and not free and left / trial.speed(best) < pays:
            continue
        if known is None or (known and compile == "auto" and known <= trial.speed(best)):
            continue
        engine = compiled(plain, batch, kind, trial.kept)
        if engine:
            seconds += engine.compile_seconds or 0.0
            if (known or trial.agrees(engine)) and (trial.speed(engine) > trial.speed(best) or compile != "auto"):
                best = engine
    best.compile_seconds = seconds or None
    best.images, best.seconds = 0, 0.0
    trial.kept.save()
    return best, {name: speed for name, speed in trial.kept.speeds.items() if speed}


def _kinds(compile: str, device, precision: str) -> list[bool | str]:
    """Return the ways of compiling that are asked for and possible, in the order in which they are tried."""
    converted = [openvino.kind()] if device.type == "cpu" and openvino.possible(precision) else []
    if compile == "auto":
        return converted + ([True] if device.type != "mps" else [])
    return {"off": [], "on": [True], "openvino": converted}[compile]


class _Trial:
    """Speeds and agreement of engines on one batch, of which ``kept`` may know some already."""

    def __init__(self, model, device, batch, kept: Kept):
        self.exact, self.batch, self.kept = Engine(model, device, "float32"), batch, kept
        self.reference = None
        if not kept.speeds:
            say("the fastest number format for this backbone is looked for, which takes a few seconds")

    def plain(self, formats: list[str], *, checked: bool) -> tuple[Engine, Engine]:
        """Return the fastest of the engines that aren't compiled, and the one to compile. ``checked`` formats must
        agree.

        That is the one of the reduced format if there is one, since what is faster uncompiled may not be compiled: the
        processor has units for the format, and on a busy machine differences of a few batches tell little.
        """
        engines = [self.exact if format == "float32" else self._engine(format) for format in formats]
        engines = [engine for engine in engines if not checked or engine is self.exact or self.agrees(engine)]
        others = [self.speed(engine) for engine in engines if engine is not self.exact]
        if others and self.reference and str(self.exact) not in self.kept.speeds:
            cold = len(self.batch) / self.reference[1]
            if CLEAR * cold < max(others):
                self.kept.speeds[str(self.exact)] = cold
        return max(engines, key=self.speed), engines[-1]

    def _engine(self, format: str) -> Engine:
        return Engine(self.exact.model, self.exact.device, format)

    def speed(self, engine: Engine) -> float:
        """Return its images/s."""
        speeds = self.kept.speeds
        if not speeds.get(str(engine)):
            speeds[str(engine)] = _speed(engine, self.batch)
        return speeds[str(engine)]

    def agrees(self, engine: Engine) -> bool:
        """Whether the engine's features agree with float32's. Where they don't, this is said and kept."""
        name = str(engine)
        if name not in self.kept.speeds:
            if self.reference is None:
                started = time.perf_counter()
                self.reference = self.exact(self.batch).cpu(), time.perf_counter() - started
            cosine = agreement(engine(self.batch).cpu(), self.reference[0])
            if cosine < LEAST_COSINE:
                say(f"{engine} is not used, because its features disagree with float32 (cosine {cosine:.3f})")
                self.kept.speeds[name] = None
        return self.kept.speeds.get(name, 0.0) is not None


def agreement(features, reference) -> float:
    """Least cosine, over a batch, between an image's centred features (B, D) and the centred ``reference`` (B, D)."""
    import torch

    centre = reference.mean(0)
    return torch.cosine_similarity(reference - centre, features - centre).nan_to_num(0).min().item()


def compiled(engine: Engine, batch, kind: bool | str = True, kept: Kept | None = None) -> Engine | None:
    """Compile the engine's model for batches like this one, or load what is kept of that.

    ``kind`` is True for torch, or ``openvino.kind()``. Where it isn't possible, say why and return None.
    """
    log = logging.getLogger("torch.utils.cpp_extension")  # warns of a CUDA toolkit that nobody asked for
    level = log.level
    log.setLevel(logging.ERROR)
    how, kept = (engine.model, engine.device, engine.precision), kept or Kept()
    name, by = _files(engine.precision, kind), ahead if kind is True else openvino
    started, again = time.monotonic(), kept.has(name)
    if not again:
        usual = "20 s to a minute" if kind is True else "5 to 15 s"
        say(f"the backbone is compiled{'' if kind is True else ' by OpenVINO'}, which takes {usual}")
    try:
        run = None
        if engine.device.type == "cpu":
            try:
                folder = kept.built(name, lambda folder: by.build(engine.model, batch, engine.precision, folder))
                run = by.load(folder, engine.precision, batch)
            except Exception:
                if kind is not True:
                    raise  # else torch may still compile it while it runs
        faster = Engine(*how, compiled=kind, run=run)
        faster.kept = kept  # its files are in use
        faster(batch)
        if not again:
            faster.compile_seconds = time.monotonic() - started
            say(f"the backbone was compiled in {faster.compile_seconds:.0f} s")
        return faster
    except Exception as error:  # compilers raise errors of many kinds: no C++ compiler, an unknown operation, ...
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        say(f"the backbone can't be compiled here, so the run goes on without ({reason})")
        return None
    finally:
        log.setLevel(level)


def _files(precision: str, kind: bool | str) -> str:
    """The name under which compiled files are kept."""
    return f"{precision}-{'torch' if kind is True else 'openvino'}"


def _speed(engine: Engine, batch) -> float:
    """Images per second in the faster of two batches that follow a first."""
    if not engine.images:
        engine(batch)
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        engine(batch).cpu()
        seconds.append(time.perf_counter() - started)
    return len(batch) / min(seconds)


def say(line: str) -> None:
    tell(line)
