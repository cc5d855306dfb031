"""Processes on this machine that work on tasks. They are replaced when they die, and ended when the run is stopped."""

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from dataclasses import replace
from multiprocessing import connection

from backbench import UserError
from backbench.cache.shards import rows_done
from backbench.progress import hush
from backbench.signals import held_back

LIVES = 3
"""Number of deaths in a row, with no row computed between them, after which a task is given up."""


def run(work, tasks: list, workers: int) -> list:
    """Return ``work(task)`` for every task, in order. Each runs in its own process, ``workers`` at a time.

    The processes share the cores and take the GPUs in turn. A process that dies is replaced. Raises UserError where
    that doesn't help. However this function ends, no process is left.
    """
    import torch

    workers = min(workers, len(tasks))
    threads = max(1, torch.get_num_threads() // workers)
    gpus = torch.cuda.device_count()
    context = multiprocessing.get_context("spawn")
    waiting, free, running = deque((i, LIVES) for i in range(len(tasks))), deque(range(workers)), {}
    results = {}
    try:
        while waiting or running:
            while waiting and free:
                (i, lives), slot = waiting.popleft(), free.popleft()
                task = tasks[i]
                if task.settings.device.type == "cuda" and task.settings.device.index is None:
                    task = replace(task, device=f"cuda:{slot % gpus}")
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(target=_child, args=(work, task, threads, theirs))
                with held_back(signal.SIGINT):  # a terminal sends it to all, but only the parent reacts and ends them
                    process.start()
                theirs.close()
                running[ours] = (process, i, slot, lives, rows_done(task.path))
            for pipe in connection.wait(list(running)):
                process, i, slot, lives, before = running.pop(pipe)
                free.append(slot)
                try:
                    results[i] = pipe.recv()
                    process.join()
                except EOFError:  # it is dead
                    process.join()
                    waiting.append((i, _lives(process, tasks[i], lives, before)))
    finally:
        for process, *_ in running.values():
            process.terminate()
        for process, *_ in running.values():
            process.join()
    return [results[i] for i in range(len(tasks))]


def _lives(process, task, lives: int, before: int) -> int:
    """Return how often a task whose process died may be tried again. Raises UserError where it may not."""
    start, stop, _ = task.imageset.span
    if process.exitcode in (0, 1):  # a fault in the program, whose traceback has been printed
        raise RuntimeError(f"the worker of rows {start} to {stop} failed")
    lives = LIVES if rows_done(task.path) > before else lives - 1
    if not lives:
        raise UserError(
            f"the worker of rows {start:,} to {stop:,} of {task.imageset.name} died {LIVES} times in a row (exit code "
            f"{process.exitcode}), mostly for lack of memory. What was computed is kept: the same command goes on. Use "
            "fewer --workers or a smaller --batch-size."
        )
    print(
        f"the worker of rows {start:,} to {stop:,} died (exit code {process.exitcode}), so another process goes on",
        file=sys.stderr,
    )
    return lives


def _child(work, task, threads: int, pipe) -> None:
    """Run one task in a worker process. SIGTERM ends it cleanly, and so does the end of its parent."""
    try:
        signal.signal(signal.SIGTERM, _end)
        threading.Thread(target=_end_with_parent, daemon=True).start()
        hush()
        os.environ["OMP_NUM_THREADS"] = str(threads)
        import torch

        torch.set_num_threads(threads)
        readers = task.settings.readers
        settings = replace(task.settings, readers=threads * (threads > 1) if readers is None else readers)
        pipe.send(work(replace(task, settings=settings)))
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGTERM)


def _end(signum, frame):
    raise KeyboardInterrupt


def _end_with_parent() -> None:
    connection.wait([multiprocessing.parent_process().sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
