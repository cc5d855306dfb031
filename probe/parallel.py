"""Probes side by side: in this process, in several, or on a Dask cluster, without more threads than there are cores."""

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from backbench import UserError, cluster, packages
from backbench.allocator import keep_freed_memory
from backbench.cache import features
from backbench.cache.decided import decided
from backbench.devices import cores
from backbench.probe import folds
from backbench.probe.run import probe
from backbench.progress import hush, step

AT_ONCE: Any = 1
"""Tasks that a process takes at a time: they differ much in length. joblib's own annotations know only "auto"."""

ALONE = 256 << 20
"""Bytes of features, all tasks together, below which starting processes costs more than it saves."""


def run(tasks, settings, *, jobs: int | None, scheduler: str | None) -> Iterator[tuple]:
    """Each task with its result, (row, what goes beside it, head) or the UserError it met, in order, as they come.

    ``jobs`` None: one a core, or one for little work. The processes share the cores and the memory limit. On a cluster
    (``scheduler``, a Dask address) the feature files must lie at the same path on every machine.
    """
    if scheduler:
        yield from _on_cluster(tasks, settings, scheduler)
        return
    available = cores()
    if jobs is None:
        jobs = available if sum(task.path.stat().st_size for task in tasks) > ALONE else 1
    jobs = min(jobs, len(tasks))
    if jobs <= 1:
        for task in tasks:
            with step(f"fitting {task.method} on {task.path}"):
                result = one(task, settings)
            yield task, result
        return
    import joblib

    settings = replace(settings, memory_limit=settings.memory_limit // jobs)
    threads = max(1, available // jobs)
    doing = step(f"fitting {len(tasks)} probes in {jobs} processes")
    with doing, joblib.parallel_config("loky", inner_max_num_threads=threads):
        results = joblib.Parallel(n_jobs=jobs, return_as="generator", batch_size=AT_ONCE)(
            joblib.delayed(_hushed)(os.getpid(), one, task, settings) for task in tasks
        )
        yield from zip(tasks, results, strict=True)


def one(task, settings):
    """Run one task, in any process. A UserError is returned as a result, so that it does not stop other tasks.

    So is a method whose package is not installed.
    """
    keep_freed_memory()
    try:
        written = task.state is None or features.state(task.path) != task.state
        with features.open_file(task.path, check=written) as file:
            return (folds.probe if task.folds else probe)(decided(file, settings.decisions), task, settings)
    except UserError as error:
        return error
    except ImportError as error:
        if (lacking := packages.missing(error)) is None:
            raise
        return lacking


def _hushed(parent: int, work, *given):
    """Work in one of several processes here, whose ``parent`` says what is going on."""
    if os.getpid() != parent:
        hush()
    return work(*given)


def _on_cluster(tasks, settings, scheduler: str) -> Iterator[tuple]:
    import joblib

    with cluster.connected(scheduler):
        results = joblib.Parallel(batch_size=AT_ONCE)(joblib.delayed(one)(task, settings) for task in tasks)
    yield from zip(tasks, results, strict=True)
