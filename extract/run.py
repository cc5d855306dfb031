"""One pass over one data set for any number of frozen backbones. Each image is read once; each backbone has a file."""

import contextlib
import functools
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from backbench import UserError
from backbench.cache import schema
from backbench.devices import cores
from backbench.extract import readers, views
from backbench.extract.engine import say
from backbench.extract.extraction import BackboneRun
from backbench.extract.plan import Planned, Settings, planned
from backbench.extract.preprocess import Reader
from backbench.progress import progress

NAMED = 20
"""Number of unreadable images that are listed one by one."""


class UnreadableImages(UserError):
    """Some images could not be read. ``others`` says what became of the others."""

    def __init__(self, dataset: str, reasons: list[str], others: str = "; all others are done"):
        more = [f"and {len(reasons) - NAMED:,} more"] if len(reasons) > NAMED else []
        super().__init__(
            f"{len(reasons):,} of the images of {dataset} can't be read{others}:\n  "
            + "\n  ".join(reasons[:NAMED] + more)
            + "\nRepair them and run the same command again, or leave them out with --on-error skip."
        )
        self.dataset, self.reasons, self.others = dataset, reasons, others

    def __reduce__(self):  # so that it can be pickled in a worker process
        return type(self), (self.dataset, self.reasons, self.others)


def extract(files: list[Planned], settings: Settings) -> list[BackboneRun]:
    """Finish each planned feature file, all of one data set, and return the run of each, in order.

    Only pending rows are computed, so a finished file is left as it is. Rows are computed in fixed groups of
    ``images_a_batch`` neighbours. So each row is computed in the same batch, and hence to the same bits, whether a run
    was stopped and resumed, ran together with other backbones, or ran alone. Models stay in eval mode throughout.

    The seconds of a file are those of its own computing and writing, and its share of the reading. The reading is
    divided equally among the backbones that a batch was read for, so all files add up to the time of the pass.

    A UserError of one backbone (in ``BackboneRun.fault``) doesn't stop the others. Causes are a file made with other
    settings, a full disk, input on the wrong scale, and features that aren't finite. On a GPU without memory for all
    models at once, some wait for the next pass. Raises UserError where the images can't be reached any more.
    """
    import torch

    imageset = files[0].imageset
    rows = views.rows(imageset, settings.views, settings.views_as)
    runs = [BackboneRun(file, settings, rows) for file in files]
    unreadable: dict[str, None] = {}
    with ThreadPoolExecutor(settings.readers or cores()) as pool, torch.inference_mode():
        try:
            for run in sorted(runs, key=lambda run: run.path):  # otherwise two processes could wait for each other
                if run.active:
                    run.lock()
            waiting = deque(run for run in runs if run.active)
            while waiting:
                together = _start(waiting, imageset, rows, pool)
                unreadable |= dict.fromkeys(_Pass(imageset, rows, together, settings, pool).run())
                for run in together:
                    with run.collect():
                        if run.active and (settings.skip_unreadable or not run.unread):
                            run.finish()
                    run.close()
                    run.backbone.model.to("cpu")
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            for run in runs:
                run.close()
    for reason in unreadable if settings.skip_unreadable and settings.say_skipped else ():
        say(f"this image is left out: {reason}")
    if unreadable and not settings.skip_unreadable:
        fault = UnreadableImages(imageset.name, list(unreadable))
        for run in runs:
            run.fault = run.fault or (fault if run.unread else None)
    return runs


def extract_one(imageset, backbone, path, settings: Settings) -> bool:
    """Extract one backbone to ``path``. Returns False where the file was finished already; raises UserError."""
    (run,) = extract([planned(imageset, backbone, settings, path)], settings)
    if run.fault:
        raise run.fault
    return not run.complete


def _start(waiting: deque, imageset, rows, pool) -> list[BackboneRun]:
    """Start runs in turn until all have started or the device has no memory left. The rest stays in ``waiting``."""
    import torch

    settings, preprocessors = waiting[0].settings, {run.preprocess_key: run.preprocessor for run in waiting}

    @functools.cache
    def first() -> dict:
        """The first batch by ``BackboneRun.preprocess_key``, on the device."""
        n = min(len(rows), settings.images_a_batch)
        images, numbers = (of[:n].ravel()[:n] for of in (rows.images, rows.views))
        batches, _ = Reader(imageset, pool, seed=settings.seed).read(images, numbers, list(preprocessors.values()))
        moved = [batch.to(settings.device, memory_format=torch.channels_last) for batch in batches]
        return dict(zip(preprocessors, moved, strict=True))

    together: list[BackboneRun] = []
    while waiting:
        run = waiting[0]
        try:
            with run.collect():
                run.start(lambda run=run: first()[run.preprocess_key])
                alike = next((one.computed for one in together if one.active), run.computed)
                if run.active and not np.array_equal(run.computed, alike):
                    run.suspend()  # batches are made of the rows that are computed, so these differ
                    break
        except torch.OutOfMemoryError:
            run.backbone.model.to("cpu")
            torch.cuda.empty_cache()
            if together:
                say(f"{run.settings.device} is out of memory, so {len(waiting)} backbones wait for the next pass")
                break
            run.fault = UserError(f"{run.label} doesn't fit in the memory of {run.settings.device}.")
        waiting.popleft()
        together.append(run)
    return together


class _Pass:
    """One pass over the rows that are pending in any of ``runs``."""

    def __init__(self, imageset, rows, runs, settings, pool):
        self.imageset, self.rows, self.settings, self.pool = imageset, rows, settings, pool
        self.runs = [run for run in runs if run.active]
        self.pending = np.zeros(len(rows), bool)
        for run in self.runs:
            self.pending |= run.pending
        size = settings.images_a_batch
        computed = self.runs[0].computed if self.runs else np.arange(0)
        groups = np.array_split(computed, range(size, len(computed), size))
        self.groups = [group for group in groups if self.pending[group].any()]
        self.seen = self._done() if rows.one_per_image else None
        self.fetching = None

    def run(self) -> list[str]:
        """Compute the rows, and return the reason for each image that could not be read."""
        unreadable: list[str] = []
        names = [run.label for run in self.runs]
        label = f"{self.imageset.name} {' + '.join(names) if len(names) < 3 else f'{len(names)} backbones'}"
        pending = self.pending
        with self._batches() as batches, progress(len(pending), label, done=int((~pending).sum())) as advance:
            started = time.monotonic()
            for batch in batches:
                waited = time.monotonic() - started
                self.imageset.check_reachable([fault for fault in batch.faults if fault])
                unreadable += [str(fault) for fault in batch.faults if fault]
                self._compute(batch, waited)
                advance(int(pending[batch.group].sum()))
                started = time.monotonic()
            for run in self.runs:
                with run.collect():
                    run.store()
        return unreadable

    def _batches(self):
        if not self.groups:
            return contextlib.nullcontext(())
        settings = self.settings
        return readers.batches(
            self._asked(),
            self.imageset,
            self.rows,
            {run.preprocess_key: run.preprocessor for run in self.runs},
            size=settings.images_a_batch,
            readers=cores() if settings.readers is None else settings.readers,
            seed=settings.seed,
            seen=self.seen or (),
            pool=self.pool,
            device=settings.device,
            left=int(self.pending.sum()) * self.rows.images.shape[1],
        )

    def _asked(self):
        """Yield the rows of each batch with the preprocessing keys of the runs that are active when it is asked for."""
        for group in self.groups:
            if runs := self._active_runs(group):
                yield group, tuple(dict.fromkeys(run.preprocess_key for run in runs))

    def _done(self) -> dict[bytes, int]:
        """Return the rows that are done in all files, by the contents of their images."""
        done = [np.isin(run.writer.done, (schema.DONE, schema.REUSED)) for run in self.runs]
        rows = np.flatnonzero(np.logical_and.reduce(done)) if done else []
        return {self.runs[0].writer.contents[row]: int(row) for row in reversed(rows)}

    def _active_runs(self, group) -> list[BackboneRun]:
        return [run for run in self.runs if run.active and run.pending[group].any()]

    def _origin(self, batch) -> np.ndarray:
        """Return for each row the row of an earlier batch whose image is the same, or -1."""
        if self.seen is None:
            return np.full(len(batch.group), -1)
        known = self.imageset.contents[batch.group].tolist()
        origin = np.full(len(known), -1)
        if not self.seen.keys().isdisjoint(known):
            origin[:] = [self.seen.get(one, -1) for one in known]
        for row, one, fault in zip(batch.group.tolist(), known, batch.faults, strict=True):
            if fault is None:
                self.seen.setdefault(one, row)
        return origin

    def _compute(self, batch, waited: float) -> None:
        group, origin = batch.group, self._origin(batch)
        readable = np.array([fault is None for fault in batch.faults])
        fresh = readable & (origin < 0)
        runs = self._active_runs(group)
        on_device = self._on_device(batch.pixels) if fresh.any() else {}
        for run in (run for run in self.runs if run.active):
            with run.collect():
                if run not in runs:
                    run.store()  # its batch doesn't stay in place for longer
                    continue
                run.writer.running["seconds"] += waited / len(runs)
                run.copy(group, origin)
                if (fresh & run.pending[group]).any():
                    key = run.preprocess_key
                    run.compute(batch, on_device[key], batch.levels[key], fresh)
                else:
                    run.store()
                left = group[~readable & run.pending[group]]
                run.unread |= bool(len(left))
                if self.settings.skip_unreadable:
                    run.skip(left)

    def _on_device(self, pixels: dict) -> dict:
        """Return the batch on the device. A GPU fetches it on a stream of its own, beside the batch before."""
        import torch

        device = self.settings.device
        if device.type != "cuda":
            return {key: one.to(device, memory_format=torch.channels_last) for key, one in pixels.items()}
        self.fetching = self.fetching or torch.cuda.Stream(device)
        computing = torch.cuda.current_stream(device)
        with torch.cuda.stream(self.fetching):
            fetched = {
                key: one.to(device, memory_format=torch.channels_last, non_blocking=True) for key, one in pixels.items()
            }
        computing.wait_stream(self.fetching)
        for one in fetched.values():
            one.record_stream(computing)
        return fetched
