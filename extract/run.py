"""One pass over one image set for any number of frozen backbones: every picture is read once, each has its own file."""

import functools
import os
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from backbench import UserError
from backbench.extract import views
from backbench.extract.engine import say
from backbench.extract.extraction import Lane
from backbench.extract.plan import Planned, Settings, planned
from backbench.extract.preprocess import Reader
from backbench.progress import progress

AHEAD = 3
"""Batches read while a GPU computes one: bounds what is held in memory. A CPU takes turns, all cores at either: side by
side, the threads of the two wait for each other (tf_efficientnet_lite0 on 2 cores: 251 images/s, in turns 286)."""


NAMED = 20
"""Unreadable images that are listed one by one."""


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


def extract(files: list[Planned], settings: Settings) -> list[Lane]:
    """Bring each planned feature file, all of one data set, to its end, and give what became of each, in order.

    All rows are computed, or those still pending, or none where it is finished. Rows are computed in fixed groups of
    ``images_a_batch`` neighbours, so that a stopped and resumed run, or one beside other backbones, computes each row
    in the same company, and hence to the same bits, as an unbroken run alone. Models stay in eval mode throughout.

    The seconds of a file are its own computing and writing and its share of the reading, divided equally among the
    backbones that a batch was read for: those of all files add up to the time of the pass.

    A UserError of one backbone (in ``Lane.fault``) doesn't stop the others: a file made otherwise, a full disk, input
    off the backbone's scale, features not finite. On a GPU without room for all models at once, some wait for the next
    pass. Raises UserError where the images can't be reached any more.
    """
    import torch

    imageset = files[0].imageset
    rows = views.rows(imageset, settings.views, settings.views_as)
    lanes = [Lane(file, settings, rows) for file in files]
    unreadable: dict[str, None] = {}
    with ThreadPoolExecutor(settings.threads or min(8, os.cpu_count() or 1)) as pool, torch.inference_mode():
        try:
            for lane in sorted(lanes, key=lambda lane: lane.path):  # or two runs could wait for each other
                if lane.at_work:
                    lane.hold()
            waiting = deque(lane for lane in lanes if lane.at_work)
            while waiting:
                together = _start(waiting, imageset, rows, pool)
                unreadable |= dict.fromkeys(_Pass(imageset, rows, together, settings, pool).run())
                for lane in together:
                    with lane.collect():
                        if lane.at_work and (settings.skip_unreadable or not lane.unread):
                            lane.finish()
                    lane.close()
                    lane.backbone.model.to("cpu")
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            for lane in lanes:
                lane.close()
    for reason in unreadable if settings.skip_unreadable else ():
        say(f"left out: {reason}")
    if unreadable and not settings.skip_unreadable:
        fault = UnreadableImages(imageset.name, list(unreadable))
        for lane in lanes:
            lane.fault = lane.fault or (fault if lane.unread else None)
    return lanes


def extract_one(imageset, backbone, path, settings: Settings) -> bool:
    """``extract`` of one backbone, to ``path``. False where the file was finished already; raises what went wrong."""
    (lane,) = extract([planned(imageset, backbone, settings, path)], settings)
    if lane.fault:
        raise lane.fault
    return not lane.complete


def _start(waiting: deque, imageset, rows, pool) -> list[Lane]:
    """Start lanes in turn, until all are or the device has no room left. What comes next stays in ``waiting``."""
    import torch

    settings, ways = waiting[0].settings, {lane.way: lane.pixels for lane in waiting}

    @functools.cache
    def first() -> dict:
        """The first batch by ``Lane.way``, on the device."""
        n = min(len(rows), settings.images_a_batch)
        images, numbers = (of[:n].ravel()[:n] for of in (rows.images, rows.views))
        batches, _ = Reader(imageset, pool, seed=settings.seed).read(images, numbers, list(ways.values()))
        moved = [batch.to(settings.device, memory_format=torch.channels_last) for batch in batches]
        return dict(zip(ways, moved, strict=True))

    together: list[Lane] = []
    while waiting:
        lane = waiting[0]
        try:
            with lane.collect():
                lane.start(lambda lane=lane: first()[lane.way])
        except torch.OutOfMemoryError:
            lane.backbone.model.to("cpu")
            torch.cuda.empty_cache()
            if together:
                say(f"out of memory on {lane.settings.device}: {len(waiting)} backbones wait for the next pass")
                break
            lane.fault = UserError(f"{lane.label} doesn't fit into the memory of {lane.settings.device}.")
        waiting.popleft()
        together.append(lane)
    return together


class _Pass:
    """Over the rows pending in any of ``lanes``."""

    def __init__(self, imageset, rows, lanes, settings, pool):
        self.imageset, self.rows, self.settings = imageset, rows, settings
        self.lanes = [lane for lane in lanes if lane.at_work]
        self.reader = Reader(imageset, pool, seed=settings.seed)
        size = settings.images_a_batch
        self.groups = np.array_split(np.arange(len(rows)), range(size, len(rows), size))

    def run(self) -> list[str]:
        """Why images could not be read, for those that couldn't."""
        pending = np.zeros(len(self.rows), bool)
        for lane in self.lanes:
            pending |= lane.pending
        groups = deque(group for group in self.groups if pending[group].any())
        most = 1 if self.settings.device.type == "cpu" else AHEAD
        ahead: deque = deque()
        unreadable: list[str] = []
        names = [lane.label for lane in self.lanes]
        label = f"{self.imageset.name} {' + '.join(names) if len(names) < 3 else f'{len(names)} backbones'}"
        with (
            ThreadPoolExecutor(1) as reading,
            progress(len(pending), label, done=int((~pending).sum())) as advance,
        ):
            while groups or ahead:
                started = time.monotonic()
                while groups and len(ahead) < most:
                    if lanes := self._lanes(groups[0]):
                        ahead.append((groups[0], lanes, reading.submit(self._read, groups[0], lanes)))
                    groups.popleft()
                if not ahead:
                    break
                group, lanes, future = ahead.popleft()
                batches, faults = future.result()
                self.imageset.check_reachable([fault for fault in faults if fault])
                share = (time.monotonic() - started) / len(lanes)
                unreadable += [str(fault) for fault in faults if fault]
                self._compute(group, lanes, batches, faults, share)
                advance(int(pending[group].sum()))
        return unreadable

    def _lanes(self, group) -> list[Lane]:
        return [lane for lane in self.lanes if lane.at_work and lane.pending[group].any()]

    def _read(self, group, lanes):
        """Pixels by ``Lane.way``, and a fault or None for each row."""
        import torch

        ways = {lane.way: lane.pixels for lane in lanes}
        views = self.rows.views[group]
        with torch.inference_mode():  # a thread's own: tensors made without it would have the model compiled once more
            batches, faults = self.reader.read(self.rows.images[group].ravel(), views.ravel(), list(ways.values()))
            if self.settings.device.type == "cuda":
                batches = [batch.pin_memory() for batch in batches]
        return dict(zip(ways, batches, strict=True)), faults[:: views.shape[1]]

    def _compute(self, group, lanes, batches, faults, share):
        import torch

        readable = np.array([fault is None for fault in faults])
        on_device = {
            way: batch.to(self.settings.device, memory_format=torch.channels_last, non_blocking=True)
            for way, batch in batches.items()
        }
        for lane in lanes:
            if not lane.at_work:
                continue
            with lane.collect():
                lane.writer.running["seconds"] += share
                if readable.any():
                    lane.compute(group, batches[lane.way], on_device[lane.way], readable)
                left = group[~readable & lane.pending[group]]
                lane.unread |= bool(len(left))
                if self.settings.skip_unreadable:
                    lane.writer.skip(left)
