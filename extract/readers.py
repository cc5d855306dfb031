"""Processes that decode and resize images into shared memory, by torch's DataLoader.

The main process hands out row numbers and finds pixels in place, so that one process can feed 25,000 images/s to a GPU.
Threads of one process could not: they wait for Python's lock.
"""

import contextlib
import math
import mmap
import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import connection
from threading import Thread

import numpy as np

from backbench import UserError
from backbench.devices import memory
from backbench.extract.guard import levels_of
from backbench.extract.preprocess import Preprocessor, Reader
from backbench.signals import held_back

AHEAD = 2
"""Number of batches that each process reads ahead."""

HELD = 2
"""Number of batches in use: one that a GPU may still be fetching, and the next."""

FEW = 256
"""Fewer images than this are read by threads of this process, since starting others would take longer."""

ROOM = 1 / 8
"""Largest share of the machine's memory that batches may take which are read ahead."""

NICE = 10
"""By how much the processes give way where computing needs the same cores."""

SPARE = 4096
"""Bytes behind the last batch. Compiled backbones load whole vectors, and read a few bytes beyond their input."""

START = "fork" if sys.platform == "linux" else "spawn"
"""How processes are started. Forked ones start at once and share what is in memory; elsewhere forking isn't safe."""


@dataclass(frozen=True)
class Batch:
    """The images of the rows ``group`` (n,) of a feature file, as read."""

    group: np.ndarray
    pixels: dict
    """By preprocessing key, (n * views, 3, H, W) uint8, channels last. They are black where there is a fault, and where
    the image is known already. They stay in place until another ``HELD`` batches were asked for."""
    levels: dict
    """By preprocessing key, (n * views, 3, 256) int32: how often each level occurs, see ``guard.levels_of``."""
    faults: list
    """For each row, None or the UserError that says why its image could not be read."""


@contextlib.contextmanager
def batches(
    groups: Iterable[tuple[np.ndarray, tuple]], imageset, rows, preprocessors: dict[tuple, Preprocessor], *, size: int,
    readers: int, seed: int, seen: Iterable[bytes], pool: ThreadPoolExecutor, device, left: int,
) -> Iterator[Iterator[Batch]]:  # fmt: skip
    """Give an iterator that reads ``groups``: rows (n,) of ``rows`` (``extract.views.Rows``), and the keys to prepare.

    ``size`` bounds n. ``readers`` processes do the work, or threads of ``pool`` where few images are ``left`` or
    ``readers`` is 0. Images whose contents are among ``seen`` aren't decoded. ``imageset`` comes to know the contents
    of what was read. Raises UserError where a process dies.
    """
    import torch

    images = size * rows.images.shape[1]
    shapes = {key: (images, *one.size, 3) for key, one in preprocessors.items()}
    room = int(memory(torch.device("cpu")) * ROOM) // sum(map(math.prod, shapes.values()))
    # A daemon, as cluster's workers may be, can't start processes.
    start = readers and left >= FEW and not multiprocessing.current_process().daemon
    count = max(1, min(readers, room - HELD)) if start else 0
    ahead = AHEAD if count * AHEAD + HELD <= room else 1
    slots = _Slots(shapes, number=count * ahead + HELD, forked=START == "fork")
    task = _Task(imageset, rows, preprocessors, slots, seed, set(seen), None if count else pool)
    how = {"multiprocessing_context": START, "prefetch_factor": ahead, "worker_init_fn": _begin} if count else {}
    asked = ((k % slots.number, *group) for k, group in enumerate(groups))
    task.nice = NICE if device.type == "cpu" else 0
    how |= {"batch_size": None, "sampler": asked, "collate_fn": _as_it_is, "num_workers": count}
    # A terminal sends SIGINT to all processes, but only this one reacts, and ends the others.
    with held_back(signal.SIGINT), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create")  # more than there are cores, if asked for
        iterator = iter(torch.utils.data.DataLoader(task, **how))
    if device.type == "cuda":
        slots.pin()  # only now, so that no process inherits memory that a GPU uses
    try:
        yield map(task.found, iterator)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise UserError(
            f"a process that reads images of {imageset.name} died, mostly for lack of memory ({error}). What was "
            "computed is kept: the same command goes on. Use fewer --readers or a smaller --batch-size."
        ) from error
    finally:
        if count:
            iterator._shutdown_workers()
        slots.unpin()


class _Slots:
    """Memory for ``number`` batches, shared with the processes that are started later."""

    def __init__(self, shapes: dict[tuple, tuple], *, number: int, forked: bool):
        import torch

        self.number, self.pinned = number, []
        self.memory = [_shared(number * math.prod(shape) + SPARE, forked) for shape in shapes.values()]
        self.pixels, self.levels = {}, {}
        for (key, shape), one in zip(shapes.items(), self.memory, strict=True):
            self.pixels[key] = one[:-SPARE].view(number, *shape)
            levels = (number, shape[0], 3, 256)
            self.levels[key] = _shared(4 * math.prod(levels), forked).view(torch.int32).view(levels)

    def of(self, slot: int, keys: Iterable[tuple], n: int) -> tuple[list, list]:
        """Return the first ``n`` images of a batch for each key, and their levels, as tensors."""
        return [self.pixels[key][slot, :n] for key in keys], [self.levels[key][slot, :n] for key in keys]

    def pin(self) -> None:
        """Keep the batches at their place in memory, so that a GPU fetches them by itself."""
        import torch

        for one in self.memory:
            if int(torch.cuda.cudart().cudaHostRegister(one.data_ptr(), one.nbytes, 0)) == 0:
                self.pinned.append(one)

    def unpin(self) -> None:
        import torch

        for one in self.pinned:
            torch.cuda.synchronize()
            torch.cuda.cudart().cudaHostUnregister(one.data_ptr())


def _shared(size: int, forked: bool):
    """Return ``size`` bytes of memory as a tensor. Forked processes share it without /dev/shm, small in containers."""
    import torch

    if forked:
        return torch.frombuffer(mmap.mmap(-1, size), dtype=torch.uint8)
    return torch.empty(size, dtype=torch.uint8).share_memory_()


class _Task:
    """What the processes do, as torch's Dataset: read a group of rows into a slot of the shared memory."""

    def __init__(self, imageset, rows, preprocessors, slots: _Slots, seed: int, seen: set[bytes], pool):
        self.imageset, self.rows, self.preprocessors, self.slots = imageset, rows, preprocessors, slots
        self.seed, self.seen, self.pool = seed, seen, pool
        self.one_per_image, self.nice = rows.one_per_image, 0

    def __getitem__(self, asked):
        slot, group, keys = asked
        images, views = self.rows.images[group], self.rows.views[group]
        pixels, levels = ([one.numpy() for one in of] for of in self.slots.of(slot, keys, views.size))
        reader = Reader(self.imageset, self.pool, seed=self.seed)
        ways = [self.preprocessors[key] for key in keys]
        _, faults = reader.read(images.ravel(), views.ravel(), ways, self.seen, out=pixels)
        for some, counts in zip(pixels, levels, strict=True):
            for image, count in zip(some, counts, strict=True):
                count[:] = levels_of(image)
        contents = self.imageset.contents[images[:, 0]]
        faults = faults[:: views.shape[1]]
        if self.one_per_image:
            self.seen.update(one for one, fault in zip(contents.tolist(), faults, strict=True) if fault is None)
        return slot, group, keys, contents, [*faults] if faults.any() else None

    def found(self, read) -> Batch:
        """In the main process: the batch that another has read."""
        slot, group, keys, contents, faults = read
        images = self.rows.images[group]
        self.imageset.contents[images[:, 0]] = contents
        pixels, levels = self.slots.of(slot, keys, images.size)
        return Batch(
            group,
            {key: one.permute(0, 3, 1, 2) for key, one in zip(keys, pixels, strict=True)},
            {key: one.numpy() for key, one in zip(keys, levels, strict=True)},
            faults or [None] * len(group),
        )


def _as_it_is(read):
    return read


def _begin(_) -> None:
    """Set up a process: it is ended by the main process alone, or ends with it, and may give way to it."""
    import torch

    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()
    if nice := torch.utils.data.get_worker_info().dataset.nice:
        with contextlib.suppress(AttributeError, OSError):  # Windows
            os.nice(nice)


def _end_with_parent() -> None:
    connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)
