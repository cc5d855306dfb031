"""Extraction by several processes: each computes a range of a data set's rows into a shard, and the shards are joined.

They are processes on this machine, each with its share of the cores or a GPU of its own, or tasks on a Dask cluster. A
process that dies is replaced by another, which continues from the rows that its shard has.
"""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from backbench import UserError, cluster
from backbench.allocator import keep_freed_memory
from backbench.cache import locking, merge, reuse, schema, shards
from backbench.data.imageset import ImageSet
from backbench.devices import pick_device
from backbench.extract import backbones, plan, run, views, workers
from backbench.extract.plan import Planned
from backbench.progress import progress

WATCH_EVERY = 1.0
"""Seconds between two updates of the progress of the shards."""


@dataclass(frozen=True)
class Task:
    """A range of rows for one process, which creates its own backbone and writes a shard at ``path``."""

    imageset: ImageSet
    model: str
    layer: str
    pool: str
    scale: float
    weights: str
    path: Path
    device: str
    settings: plan.Settings


class Outcome(NamedTuple):
    """The outcome for one backbone: its file, whether that was complete before, its trial, or what went wrong."""

    path: Path
    complete: bool
    trial: dict
    fault: UserError | None


@dataclass(frozen=True)
class Spread:
    """How rows are divided: this run computes one ``shard`` (number from 1, count), or divides all among workers."""

    weights: str
    device: str
    shard: tuple[int, int] | None = None
    workers: int | None = None
    scheduler: str | None = None

    def extract(self, files: list[Planned], settings) -> list[Outcome]:
        """Do this run's part of ``run.extract``. Several processes divide one backbone after the other."""
        if self.workers or self.scheduler:
            return [self._by_workers(file, settings) for file in files]
        if not self.shard:
            runs = run.extract(files, settings)
            return [Outcome(done.path, done.complete, done.trial, done.fault) for done in runs]
        runs = run.extract([file.part(*self.shard, settings) for file in files], settings)
        paths = [done.path if done.path.exists() else file.path for done, file in zip(runs, files, strict=True)]
        return [Outcome(path, done.complete, done.trial, done.fault) for path, done in zip(paths, runs, strict=True)]

    def _by_workers(self, file: Planned, settings) -> Outcome:
        path, fresh, fault = file.path.absolute(), False, None
        if self.scheduler:  # the workers choose their device
            file.wanted["versions"].pop("device")
        try:
            fresh = extract(replace(file, path=path), settings, self)
        except UserError as error:
            fault = error
        return Outcome(path, not fresh, {}, fault)


def extract(file: Planned, settings, spread: Spread) -> bool:
    """Extract one backbone to its file by several processes on this machine or on a Dask cluster.

    Shards that were begun continue as they were, whatever ``workers`` is now. On a cluster ``workers`` is the number of
    ranges, by default one per worker of the cluster, and ``device`` is chosen there. Returns False where the file was
    complete already.
    """
    imageset, backbone, path, wanted = file.imageset, file.backbone, file.path, file.wanted
    layout = views.layout(imageset, views.rows(imageset, settings.views, settings.views_as))
    if (state := reuse.check_existing(path, wanted, layout, overwrite=settings.overwrite).state) == "complete":
        return False
    if state == "changed":  # few images are new, and their rows are in no fixed batches
        return run.extract_one(imageset, backbone, path, settings)
    with locking.lock(path, wait=settings.wait):
        state = reuse.check_existing(path, wanted, layout, overwrite=settings.overwrite).state
        if state == "complete":
            return False
        if state == "partial" and not shards.families(path):  # with shards, it was stopped while joining them
            raise UserError(
                f"{schema.part_path(path)} was begun by one process: finish it without --workers and --scheduler, or "
                "remove it."
            )
        if imageset.root:
            imageset = replace(imageset, root=Path(os.path.abspath(imageset.root)))
        weights = os.path.abspath(spread.weights) if os.path.isfile(spread.weights) else spread.weights
        device = spread.device if spread.scheduler else str(settings.device)
        made = (backbone.name, backbone.layer, backbone.pool, backbone.scale, weights)
        task = Task(imageset, *made, path, device, replace(settings, wait=True))
        with cluster.connected(spread.scheduler) if spread.scheduler else nullcontext() as client:
            count = spread.workers
            if client:
                task = replace(task, device=client.submit(_kind_of_device, task, pure=False).result())
                count = count or len(client.nthreads())
            size = settings.batch_size or plan.batch_size(task.device if client else settings.device.type)
            all_of = {"n": len(imageset), "listing": imageset.listings[0]}
            begun = _begun(path, wanted, batch_size=size, **all_of, overwrite=settings.overwrite)
            count = begun or min(count, -(-len(imageset) // size))
            settings = replace(task.settings, batch_size=size)
            whole = replace(file, imageset=imageset)
            parts = [whole.part(number, count, settings) for number in range(1, count + 1)]
            tasks = [replace(task, imageset=one.imageset, path=one.path, settings=settings) for one in parts]
            with _watched(tasks, f"{imageset.name} {backbone.name}"):
                results = _on_cluster(tasks) if client else workers.run(work, tasks, spread.workers)
        _stop(results, imageset.name)
        family = next(family for family in shards.families(path) if family.count == count)
        merge.merge(family, overwrite=settings.overwrite, held=True)
    return True


def _begun(path: Path, wanted: dict, *, batch_size: int, n: int, listing: str, overwrite: bool) -> int | None:
    """Return how many shards the family that was begun has, or None. Of several, the one with most rows counts.

    Raises FeatureFileError where a shard was made with other settings; with ``overwrite`` such shards are removed.
    """
    wanted = wanted | {schema.SHARD: {"of": n, "batch_size": batch_size, "listing": listing}}
    alike = {}
    for family, file, _, lines in shards.relatives(path, wanted):
        if lines and not overwrite:
            raise shards.mismatch(file, lines)
        if lines:
            file.unlink()
        else:
            alike[family.count] = family.done()
    return max(alike, key=alike.get, default=None)


def work(task: Task) -> UserError | None:
    """Finish one shard in this process. Returns the error that stopped it, or None, since other shards go on."""
    from backbench.extract.feature_tap import tap

    keep_freed_memory()
    try:
        _check_visible(task)
        settings = replace(task.settings, device=pick_device(task.device))
        backbone = backbones.create(task.model, weights=task.weights, seed=settings.seed)
        backbone = tap(replace(backbone, scale=task.scale), task.layer, task.pool)
        run.extract_one(task.imageset, backbone, task.path, settings)
    except UserError as error:
        return error
    return None


def _kind_of_device(task: Task) -> str:
    _check_visible(task)
    return pick_device(task.device).type


def _check_visible(task: Task) -> None:
    """Raise UserError where this machine doesn't see the files of the one that sent the task."""
    whole = shards.whole_of(task.path) if shards.NAME.fullmatch(task.path.name) else task.path
    faults = [f"the cache folder {task.path.parent}"] if not locking.lock_of(whole).exists() else []
    if not task.imageset.reachable():
        faults.append(f"the images in {task.imageset.root}")
    if faults:
        raise UserError(
            f"the worker on {socket.gethostname()} does not see {' and '.join(faults)}. All machines must have them at "
            "the same path, on a shared file system. Name them with --data-root and --cache-dir."
        )


def _stop(results: list[UserError | None], dataset: str) -> None:
    """Raise the errors that stopped the shards, each once."""
    errors = [error for error in results if error]
    unreadable = [reason for e in errors if isinstance(e, run.UnreadableImages) for reason in e.reasons]
    others = [fault for e in errors if not isinstance(e, run.UnreadableImages) for fault in e.faults]
    if others:
        raise UserError(*dict.fromkeys(others))
    if unreadable:
        raise run.UnreadableImages(dataset, unreadable)


@contextmanager
def _watched(tasks: list[Task], label: str) -> Iterator[None]:
    """Show how many rows the shards have while the context lasts."""

    def done() -> int:
        return sum(shards.rows_done(task.path) for task in tasks)

    def watch() -> None:
        shown = before
        while not last.is_set():
            last.wait(WATCH_EVERY)
            if now := max(0, done() - shown):
                advance(now)
                shown += now

    before, last = done(), threading.Event()
    with progress(sum(len(task.imageset) for task in tasks), label, done=before) as advance:
        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            yield
        finally:
            last.set()
            watcher.join()


def _on_cluster(tasks: list[Task]) -> list[UserError | None]:
    import joblib

    return joblib.Parallel(batch_size=1)(joblib.delayed(work)(task) for task in tasks)
