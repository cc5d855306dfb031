"""One pass of one frozen backbone over one data set, into a feature file."""

import os
import sys
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backbench import UserError, __version__
from backbench.devices import device_name
from backbench.progress import progress
from cache import disk, layout
from cache.shards import choosing, look
from cache.writer import Writer
from extract.engine import Engine, choose, compiled
from extract.guard import InputGuard
from extract.pixels import Pixels

AHEAD = 3
"""Batches read while a GPU computes one: bounds what is held in memory. A CPU takes turns, all cores at either: side by
side, the threads of the two wait for each other (tf_efficientnet_lite0 on 2 cores: 251 images/s, in turns 286)."""

SEEN = 4
"""The input guard looks at every fourth row of pixels: at all of them it took a twentieth of a fast backbone's time."""


NAMED = 20
"""Unreadable images that are listed one by one."""


@dataclass(frozen=True)
class Settings:
    """How to run: ``precision`` and ``compile`` auto take what is fastest, if its features agree with float32's."""

    device: object
    precision: str = "auto"
    compile: str = "auto"  # auto, on, off
    batch_size: int | None = None  # 32, on a GPU 128
    threads: int | None = None  # for decoding: one a core, at most 8
    dtype: str = "float32"
    input_scale: float = 1.0
    input_guard: bool = True
    skip_unreadable: bool = False
    overwrite: bool = False
    wait: bool = False  # for another run on the same file, or refuse
    seed: int = 42


class UnreadableImages(UserError):
    """Images that could not be read; all other rows are done."""

    def __init__(self, dataset: str, reasons: list[str]):
        more = [f"and {len(reasons) - NAMED:,} more"] if len(reasons) > NAMED else []
        super().__init__(
            f"{len(reasons):,} of the images of {dataset} can't be read; all others are done:\n  "
            + "\n  ".join(reasons[:NAMED] + more)
            + "\nMend them and run the same command again, or leave them out with --on-error skip."
        )
        self.dataset, self.reasons = dataset, reasons

    def __reduce__(self):  # comes back from a worker process
        return type(self), (self.dataset, self.reasons)


def batch_size(device_type: str) -> int:
    """Images a forward pass where nothing is asked for."""
    return 128 if device_type == "cuda" else 32


def identity(imageset, backbone, settings: Settings) -> dict:
    """What the features will be. ``precision`` and ``compiled`` are None while that is left open."""
    import timm
    import torch

    shard = {}
    if imageset.span:
        size = settings.batch_size or batch_size(settings.device.type)
        shard = {layout.SHARD: {"rows": list(imageset.span[:2]), "of": imageset.span[2], "batch_size": size}}
    return {
        "schema": layout.SCHEMA,
        "model": backbone.name,
        "weights": backbone.weights,
        "weights_sha256": backbone.weights_sha256,
        "transform": {k: list(v) if isinstance(v, tuple) else v for k, v in backbone.config.items()}
        | {"exif": imageset.exif},
        "pooling": backbone.pooling,
        "dtype": settings.dtype,
        "precision": None if settings.precision == "auto" else settings.precision,
        "compiled": False if settings.compile == "off" else None,
        "dataset": imageset.name,
        "dataset_digest": imageset.digest,
        "seed": settings.seed,
        "input_scale": settings.input_scale,
        "versions": {"backbench": __version__, "timm": timm.__version__, "torch": torch.__version__},
        **shard,
    }


def extract(imageset, backbone, path: Path, settings: Settings) -> bool:
    """Bring the feature file at ``path`` to its end: all rows, those still pending, or none where it is finished.

    Rows are computed in fixed groups of ``batch_size`` neighbours, so that a stopped and resumed run computes each row
    in the same company, and hence to the same bits, as an unbroken one. The model stays in eval mode throughout.

    Returns False where the file was finished already. Raises UserError: a file made otherwise, a full disk, input off
    the backbone's scale, features not finite, and, when all other rows are done, images that couldn't be read.
    """
    wanted = identity(imageset, backbone, settings)
    if look(path, wanted, overwrite=settings.overwrite)[0] == "complete":
        return False
    with disk.hold(path, wait=settings.wait):
        return _extract(imageset, backbone, path, settings, wanted)


def _extract(imageset, backbone, path: Path, settings: Settings, wanted: dict) -> bool:
    import torch

    model = backbone.model.to(settings.device, memory_format=torch.channels_last)
    job = _Job(imageset, backbone, model, settings)
    with (
        ThreadPoolExecutor(settings.threads or min(8, os.cpu_count() or 1)) as pool,
        torch.inference_mode(),
        ExitStack() as first,
    ):
        first.enter_context(choosing(path, wanted))
        state, found = look(path, wanted, overwrite=settings.overwrite)  # again: another run may have ended meanwhile
        if state == "complete":
            return False
        engine = job.engine(pool, found)
        wanted |= {"precision": engine.precision, "compiled": engine.compiled}
        writer = Writer(
            path,
            identity=wanted,
            labels=imageset.labels,
            split=imageset.split,
            ids=imageset.ids,
            class_names=imageset.class_names,
            dim=backbone.num_features,
            dtype=settings.dtype,
            fresh=state == "new",
            held=True,
        )
        first.close()
        with writer:
            try:
                unreadable = job.run(writer, pool, engine)
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
            if unreadable and not settings.skip_unreadable:
                raise UnreadableImages(imageset.name, unreadable)
            writer.finish(device=device_name(settings.device))
    for reason in unreadable:
        _say(f"left out: {reason}")
    return True


class _Job:
    def __init__(self, imageset, backbone, model, settings):
        self.imageset, self.backbone, self.model, self.settings = imageset, backbone, model, settings
        self.pixels = Pixels(imageset, backbone)
        size = len(imageset)
        step = settings.batch_size or batch_size(settings.device.type)
        self.groups = np.array_split(np.arange(size), range(step, size, step))
        self.guard = InputGuard(backbone.config["mean"], backbone.config["std"], name=backbone.name)

    def engine(self, pool, found: dict | None) -> Engine:
        """As the unfinished file ``found`` was begun, so that all its rows are made alike, or the fastest."""
        settings = self.settings
        begun = Engine(self.model, settings.device, found["precision"]) if found else None
        if begun and not found["compiled"]:
            return begun
        batch = self._normalised(self.pixels.batch(self.groups[0], pool)[0])
        if begun:
            if engine := compiled(begun, batch):
                return engine
            raise UserError(
                f"the unfinished features of {self.imageset.name} by {self.backbone.name} were begun compiled, which "
                "isn't possible here. Finish them where it is, or begin anew with --overwrite --compile off."
            )
        how = {"precision": settings.precision, "compile": settings.compile}
        engine, speeds = choose(self.model, batch, settings.device, left=len(self.imageset), **how)
        if speeds:
            _say(f"{engine}: " + ", ".join(f"{name} {speed:,.0f} images/s" for name, speed in speeds.items()))
        return engine

    def _normalised(self, batch):
        """(B, 3, H, W) uint8 from the pool, normalised, on the device."""
        import torch

        if self.settings.device.type == "cuda":
            batch = batch.pin_memory()
        batch = batch.to(self.settings.device, memory_format=torch.channels_last, non_blocking=True)
        return self.backbone.normalise(batch, scale=self.settings.input_scale)

    def run(self, writer: Writer, pool, engine: Engine) -> list[str]:
        pending = set(writer.pending.tolist())
        groups = deque(g for g in self.groups if not pending.isdisjoint(g.tolist()))
        ahead: deque = deque()
        unreadable: list[str] = []
        label = f"{self.imageset.name} {self.backbone.name}"
        with (
            ThreadPoolExecutor(1) as reader,
            progress(len(self.imageset), label, done=len(self.imageset) - len(pending)) as advance,
        ):
            started = time.monotonic()
            while groups or ahead:
                while groups and len(ahead) < (1 if self.settings.device.type == "cpu" else AHEAD):
                    group = groups.popleft()
                    ahead.append((group, reader.submit(self.pixels.batch, group, pool)))
                group, future = ahead.popleft()
                batch, faults = future.result()
                self.imageset.check_reachable([fault for fault in faults if fault])
                failed = np.array([fault is not None for fault in faults])
                todo = np.array([i in pending for i in group])
                unreadable += [str(fault) for fault in faults if fault]
                if not failed.all():
                    self._compute(writer, batch, group, keep=~failed & todo, readable=~failed, engine=engine)
                if self.settings.skip_unreadable:
                    writer.skip(group[failed & todo])
                now = time.monotonic()
                writer.running["seconds"] += now - started
                writer.running["images"] += int(todo.sum())
                started = now
                advance(int(todo.sum()))
        return unreadable

    def _compute(self, writer, batch, group, *, keep, readable, engine):
        batch = self._normalised(batch)
        seen = batch[:, :, ::SEEN] if readable.all() else batch[readable.nonzero()[0], :, ::SEEN]
        sums = self.guard.see(seen, check=self.settings.input_guard)
        if any(module.training for module in self.model.modules()):
            raise RuntimeError(f"a module of the frozen backbone {self.backbone.name} is in train mode")
        features = engine(batch).cpu().numpy()
        with np.errstate(over="ignore"):  # what float16 can't hold is named below
            features = features.astype(self.settings.dtype)
        broken = ~np.isfinite(features).all(axis=1) & readable
        if broken.any():
            ids = [self.imageset.ids[i] for i in group[broken][:5]]
            raise UserError(
                f"{self.backbone.name} gives NaN or infinite features in {engine}, stored as {self.settings.dtype}, "
                f"for {int(broken.sum())} of {len(group)} images: {', '.join(ids)}. "
                "Try --precision float32 --feature-dtype float32."
            )
        writer.rows(group[keep], features[keep])
        for key, value in zip(("input_count", "input_sum", "input_squares"), sums, strict=True):
            writer.running[key] += value


def _say(line: str) -> None:
    print(line, file=sys.stderr)
