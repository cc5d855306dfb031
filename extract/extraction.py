"""One backbone's way through an image set: its file, its engine, its input guard, its clock."""

import time
from collections.abc import Callable
from contextlib import ExitStack, contextmanager

import numpy as np

from backbench import UserError
from backbench.cache import locking
from backbench.cache.shards import choosing, look
from backbench.cache.writer import Writer
from backbench.devices import device_name
from backbench.extract.engine import Engine, choose, compiled, say
from backbench.extract.guard import InputGuard
from backbench.extract.plan import Planned, Settings
from backbench.extract.preprocess import Pixels

SEEN = 4
"""The input guard looks at every fourth row of pixels, a fiftieth of a fast backbone's time."""


class Lane:
    """A backbone and its planned feature file of ``rows``, an image set's ``extract.views.Rows``.

    A UserError ends the lane, not those beside it: it is kept in ``fault``. ``complete`` says that there was nothing to
    do, ``trial`` what its engine was chosen by.
    """

    def __init__(self, planned: Planned, settings: Settings, rows):
        self.imageset, self.backbone, self.settings, self.rows = planned.imageset, planned.backbone, settings, rows
        backbone = self.backbone
        self.fault: UserError | None = None
        self.complete, self.writer, self.trial = False, None, {}
        self.unread = False  # whether images could not be read that this file lacks
        self.pixels = Pixels(backbone)
        self.wanted, self.label, self.path = planned.wanted, planned.label, planned.path
        self.guard = InputGuard(
            backbone.config["mean"], backbone.config["std"], name=backbone.name, scale=backbone.scale
        )
        self.confirmed = False
        self.held = ExitStack()
        with self.collect():
            self._look()

    def _look(self) -> None:
        state, self.found = look(self.path, self.wanted, overwrite=self.settings.overwrite)
        self.complete, self.fresh = state == "complete", state == "new"

    def hold(self) -> None:
        """Keep other runs from this file until ``close``."""
        with self.collect():
            self.held.enter_context(locking.hold(self.path, wait=self.settings.wait))

    @contextmanager
    def collect(self):
        """Keep a UserError raised inside instead of passing it on, and close the file."""
        try:
            yield
        except UserError as error:
            self.fault = self.fault or error
            self.close()

    def close(self) -> None:
        """Close the file, if it is open, with all that was computed marked, and let others have it."""
        writer, self.writer = self.writer, None
        if writer:
            with self.collect():
                writer.__exit__(None, None, None)
        self.held.close()

    @property
    def at_work(self) -> bool:
        return not self.complete and self.fault is None

    @property
    def way(self) -> tuple:
        """What its pixels depend on: backbones alike in this share them."""
        return tuple(self.backbone.config.get(k) for k in ("input_size", "crop_pct", "interpolation", "crop_mode"))

    def start(self, first: Callable) -> None:
        """Move the model to the device, choose its engine on the batch that ``first()`` gives, open its file.

        Raises torch.OutOfMemoryError where the device has no room beside what it holds.
        """
        import torch

        with choosing(self.path, self.wanted):
            self._look()  # again: another run may have ended meanwhile
            if self.complete:
                return
            model = self.backbone.from_pixels.to(self.settings.device, memory_format=torch.channels_last)
            engine = self.engine = self._engine(model, first)
            self.wanted = self.wanted | {"precision": engine.precision, "compiled": engine.compiled}
            rows = self.rows
            self.writer = Writer(
                self.path,
                identity=self.wanted,
                labels=rows.labels,
                split=rows.split,
                ids=rows.ids,
                class_names=self.imageset.class_names,
                dim=self.backbone.num_features,
                dtype=self.settings.dtype,
                fresh=self.fresh,
                held=True,
            )
        self.pending = np.zeros(len(rows), bool)
        self.pending[self.writer.pending] = True

    def _engine(self, model, first) -> Engine:
        """As the unfinished file was begun, so that all its rows are made alike, or the fastest."""
        settings, found = self.settings, self.found
        if not found:
            how = {"precision": settings.precision, "compile": settings.compile}
            engine, speeds = choose(model, first(), settings.device, left=self.rows.images.size, **how)
            if speeds:
                say(f"{self.label}: {engine}: " + ", ".join(f"{k} {v:,.0f} images/s" for k, v in speeds.items()))
                self.trial = {"images_per_second": speeds, "compile_seconds": engine.compile_seconds}
            return engine
        engine = Engine(model, settings.device, found["precision"])
        if found["compiled"]:
            engine = compiled(engine, first())
        if engine is None:
            raise UserError(
                f"the unfinished features of {self.imageset.name} by {self.label} were begun compiled, which "
                "isn't possible here. Finish them where it is, or begin anew with --overwrite --compile off."
            )
        return engine

    def compute(self, group: np.ndarray, pixels, batch, readable: np.ndarray) -> None:
        """Features of the pending rows of ``group`` (n,) from ``pixels`` (n * views, 3, H, W) uint8, on the device
        ``batch``. ``readable`` (n,) says which rows have pixels."""
        started = time.monotonic()
        views = self.rows.views.shape[1]
        seen = pixels.permute(0, 2, 3, 1)[:, ::SEEN].numpy()
        if not readable.all():
            seen = seen[np.repeat(readable, views)]
        sums = self.guard.see(seen, check=self.settings.input_guard)
        if not self.confirmed:
            self.guard.confirm(pixels[:1].permute(0, 2, 3, 1).numpy(), self.backbone.normalise(batch[:1]))
            self.confirmed = True
        if any(module.training for module in self.engine.model.modules()):
            raise RuntimeError(f"a module of the frozen backbone {self.backbone.name} is in train mode")
        features = np.concatenate(
            [self.engine(part).cpu().numpy() for part in batch.split(self.settings.images_a_batch)]
        )
        if views > 1:
            features = features.reshape(len(group), views, -1).mean(1)
        with np.errstate(over="ignore"):  # what float16 can't hold is named below
            features = features.astype(self.settings.dtype)
        broken = ~np.isfinite(features).all(axis=1) & readable
        if broken.any():
            ids = [self.rows.ids[i] for i in group[broken][:5]]
            raise UserError(
                f"{self.label} gives NaN or infinite features in {self.engine}, stored as {self.settings.dtype}, "
                f"for {int(broken.sum())} of {len(group)} images: {', '.join(ids)}. "
                "Try --precision float32 --feature-dtype float32."
            )
        keep = readable & self.pending[group]
        self.writer.rows(group[keep], features[keep])
        for key, value in zip(("input_count", "input_sum", "input_squares"), sums, strict=True):
            self.writer.running[key] += value
        self.writer.running["images"] += int(keep.sum())
        self.writer.running["seconds"] += time.monotonic() - started

    def finish(self) -> None:
        """Give the file its checksum and its name."""
        self.writer.finish(device=device_name(self.settings.device))
