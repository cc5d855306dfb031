"""One backbone's run over a data set: its feature file, its engine, its input guard and its clock."""

import time
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from operator import attrgetter

import numpy as np

from backbench import UserError
from backbench.cache import locking, reuse
from backbench.cache.shards import check_existing, choosing
from backbench.devices import device_name
from backbench.extract import openvino, trials, views
from backbench.extract.engine import FEW, Engine, choose, compiled, say
from backbench.extract.guard import InputGuard, spread
from backbench.extract.plan import Planned, Settings
from backbench.extract.preprocess import Preprocessor


class BackboneRun:
    """The run of one backbone over ``rows`` (``extract.views.Rows``) of a data set, into its planned feature file.

    A UserError ends this run but not those of other backbones, and is kept in ``fault``. ``complete`` says that there
    was nothing to do, and ``trial`` holds the timings that its engine was chosen by.
    """

    def __init__(self, planned: Planned, settings: Settings, rows):
        self.imageset, self.backbone, self.settings, self.rows = planned.imageset, planned.backbone, settings, rows
        backbone = self.backbone
        self.fault: UserError | None = None
        self.complete, self.writer, self.engine, self.kept, self.trial = False, None, None, None, {}
        self.begun, self.modules = None, []  # the batch that is being computed, and the backbone's parts
        self.computed = None  # rows that aren't taken over from another file
        self.unread = False  # whether this file lacks images that could not be read
        self.preprocessor = Preprocessor(backbone)
        self.wanted, self.label, self.path = planned.wanted, planned.label, planned.path
        self.layout = views.layout(self.imageset, rows)
        self.guard = InputGuard(
            backbone.config["mean"],
            backbone.config["std"],
            name=backbone.name,
            scale=backbone.scale,
            others=lambda: spread(self.imageset, self.preprocessor),
        )
        self.confirmed = False
        self.held = ExitStack()
        with self.collect():
            self._check_existing()

    def _check_existing(self) -> None:
        overwrite = self.settings.overwrite
        self.found = reuse.check_existing(
            self.path, self.wanted, self.layout, overwrite=overwrite, check=check_existing
        )
        self.complete = self.found.state == "complete"

    def lock(self) -> None:
        """Keep other processes from writing this file until ``close``."""
        with self.collect():
            self.held.enter_context(locking.lock(self.path, wait=self.settings.wait))

    @contextmanager
    def collect(self):
        """Keep a UserError that is raised inside in ``fault``, and close the file."""
        try:
            yield
        except UserError as error:
            self.fault = self.fault or error
            self.close()

    def close(self) -> None:
        """Mark all that was computed, close the file if it is open, and release its lock."""
        writer, self.writer = self.writer, None
        if writer:
            with self.collect():
                writer.__exit__(None, None, None)
        self.held.close()

    def suspend(self) -> None:
        """Close the file until ``start`` is called again."""
        writer, self.writer = self.writer, None
        writer.__exit__(None, None, None)
        self.backbone.model.to("cpu")

    @property
    def active(self) -> bool:
        """Whether rows are still to be computed and nothing has gone wrong."""
        return not self.complete and self.fault is None

    @property
    def preprocess_key(self) -> tuple:
        """The settings that preprocessed pixels depend on. Backbones with equal keys share their pixels."""
        return tuple(self.backbone.config.get(k) for k in ("input_size", "crop_pct", "interpolation", "crop_mode"))

    def start(self, first: Callable) -> None:
        """Move the model to the device and open its file. ``first()`` returns the first batch, on the device.

        The engine of a new file is chosen by it. Raises torch.OutOfMemoryError where the device has too little memory.
        """
        import torch

        with choosing(self.path, self.wanted):
            self._check_existing()  # again, since another process may have finished it meanwhile
            if self.complete:
                return
            model = self.backbone.from_pixels.to(self.settings.device, memory_format=torch.channels_last)
            if self.found.identity:
                self.go_on = lambda: self._engine_of(self.found, model, first)
            else:
                engine = self.engine = self._fastest(model, first)
                self.wanted = self.wanted | {"precision": engine.precision, "compiled": engine.compiled}
            dim = {"dim": self.backbone.num_features, "dtype": self.settings.dtype}
            self.writer = reuse.opened(self.path, self.wanted, self.layout, self.found, **dim)
        self.pending = np.zeros(len(self.rows), bool)
        self.pending[self.writer.pending] = True
        self.computed = self.writer.computed

    def _fastest(self, model, first) -> Engine:
        settings, batch = self.settings, first()
        self.kept = kept = trials.Kept(trials.key(self.backbone, settings, batch))
        if settings.overwrite:
            kept.speeds.clear()
        when = time.strftime("%d %B", time.localtime(kept.timed)) if kept.speeds else ""
        options = {"precision": settings.precision, "compile": settings.compile, "kept": kept}
        engine, speeds = choose(model, batch, settings.device, left=self.rows.images.size, **options)
        if speeds:
            timed = f" (as timed here on {when}; --overwrite times again)" if when else ""
            say(f"{self.label}: {engine}: " + ", ".join(f"{k} {v:,.0f} images/s" for k, v in speeds.items()) + timed)
            self.trial = {"images_per_second": speeds, "compile_seconds": engine.compile_seconds}
        return engine

    def _engine_of(self, found: reuse.Existing, model, first) -> Engine:
        """Return the engine that a file was begun with, so that all its rows are alike.

        A few new images beside many that are there aren't worth compiling; their features agree with compiled ones.
        """
        identity, settings = found.identity or {}, self.settings
        engine, kind = Engine(model, settings.device, identity["precision"]), identity["compiled"]
        few = len(self.computed) < min(FEW * settings.images_a_batch, len(self.rows))
        if not kind or few:
            return engine
        begun = f"the unfinished features of {self.imageset.name} by {self.label} were begun "
        if isinstance(kind, str) and (lacking := openvino.lacking(kind)):
            raise UserError(f"{begun}by {lacking}, or start again with --overwrite.")
        batch = first()
        self.kept = trials.Kept(trials.key(self.backbone, settings, batch))
        engine = compiled(engine, batch, kind, self.kept)
        if engine is None:
            raise UserError(
                f"{begun}{'compiled' if kind is True else 'by OpenVINO'}, which isn't possible here. Finish them on a "
                "machine where it is, or start again with --overwrite --compile off."
            )
        return engine

    def copy(self, group: np.ndarray, origin: np.ndarray) -> None:
        """Give pending rows of ``group`` (n,) the features of the rows ``origin`` (n,), -1 where no image is equal."""
        copies = (origin >= 0) & self.pending[group]
        if copies.any():
            self.store()  # some may be among those that are being computed
            self.writer.copy(group[copies], origin[copies])

    def compute(self, batch, pixels, levels: np.ndarray, readable: np.ndarray) -> None:
        """Begin to compute the features of the pending rows of a batch (``readers.Batch``), and store those before it.

        ``pixels`` (n * views, 3, H, W) uint8 is its preprocessed images on the device, and ``levels`` those of them
        (``guard.levels_of``). ``readable`` (n,) bool says which rows have pixels that are to be computed.
        """
        started = time.monotonic()
        if self.engine is None:
            self.engine = self.go_on()
        self.modules = self.modules or [*self.engine.model.modules()]  # walking through them takes a millisecond
        group, images_each = batch.group, self.rows.views.shape[1]
        seen = levels if readable.all() else levels[np.repeat(readable, images_each)]
        sums = self.guard.see(seen.sum(0, dtype=np.int32), check=self.settings.input_guard)
        if not self.confirmed:
            first = batch.pixels[self.preprocess_key][:1].permute(0, 2, 3, 1).numpy()
            self.guard.confirm(first, self.backbone.normalise(pixels[:1]))
            self.confirmed = True
        if any(map(attrgetter("training"), self.modules)):
            raise RuntimeError(f"a module of the frozen backbone {self.backbone.name} is in train mode")
        features = self._begin(pixels)
        self.writer.running["seconds"] += time.monotonic() - started
        self.store()
        self.begun = group, readable, features, sums
        if self.settings.device.type != "cuda":
            self.store()

    def _begin(self, pixels) -> Callable[[], np.ndarray]:
        """Compute features (B, D) float32 of pixels (B, 3, H, W) uint8, and return what waits for them."""
        import torch

        parts = [self.engine(part) for part in pixels.split(self.settings.images_a_batch)]
        features = parts[0] if len(parts) == 1 else torch.cat(parts)
        if self.settings.device.type != "cuda":
            return features.cpu().numpy
        fetched, event = features.to("cpu", non_blocking=True), torch.cuda.Event()
        event.record()
        return lambda: (event.synchronize(), fetched.numpy())[1]

    def store(self) -> None:
        """Write the features of the batch whose computing was begun last. A GPU computes the next meanwhile."""
        if self.begun is None:
            return
        started = time.monotonic()
        (group, readable, wait, sums), self.begun = self.begun, None
        features = wait()
        if (images_each := self.rows.views.shape[1]) > 1:
            features = features.reshape(len(group), images_each, -1).mean(1)
        with np.errstate(over="ignore"):  # values that float16 can't hold are reported below
            features = features.astype(self.settings.dtype, copy=False)
        finite = np.isfinite(features)
        if not finite.all() and (broken := ~finite.all(axis=1) & readable).any():
            ids = [self.rows.ids[i] for i in group[broken][:5]]
            raise UserError(
                f"{self.label} gives NaN or infinite features in {self.engine}, stored as {self.settings.dtype}, "
                f"for {int(broken.sum())} of {len(group)} images: {', '.join(ids)}. "
                "Try --precision float32 --feature-dtype float32."
            )
        keep = readable & self.pending[group]
        if not keep.all():
            group, features = group[keep], features[keep]
        self.writer.rows(group, features, contents=self.contents(group))
        for key, value in zip(("input_count", "input_sum", "input_squares"), sums, strict=True):
            self.writer.running[key] += value
        self.writer.running["images"] += int(keep.sum())
        self.writer.running["seconds"] += time.monotonic() - started

    def contents(self, rows: np.ndarray) -> np.ndarray:
        """Return the contents (n,) of the images of ``rows`` (n,), which have been read."""
        return views.contents_of(self.imageset, self.rows, rows)

    def skip(self, rows: np.ndarray) -> None:
        """Leave out ``rows`` (n,), whose images can't be read."""
        self.writer.skip(rows, contents=self.contents(rows))

    def finish(self) -> None:
        """Write the file's checksum and give it its final name."""
        self.writer.finish(device=device_name(self.settings.device))
        engine = self.engine
        if self.kept and engine and self.settings.device.type == "cpu":  # elsewhere it is not known when it computes
            self.kept.judge(str(engine), engine.images, engine.seconds, self.settings.images_a_batch)
