"""How fast images are read, and what that costs the process that computes. ``benchmarks/extract.py`` calls it.

The whole pass runs, from the files to the feature file, but the backbone's forward pass is replaced by nothing. Seconds
of the main process are those of its processor time alone; those of the processes that read are not among them.
"""

import resource
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np

from backbench.allocator import keep_freed_memory

PHOTOS, SMALL = 4608, 18432
"""Number of photos, and of small images, a run."""

BATCH = 128
"""Images a batch, as on a GPU."""


def measure(figures: dict, data_root: str, *, repeats: int) -> None:
    """Add the figures of reading to ``figures``: photos are caltech101's, small images cifar10's, which are files."""
    keep_freed_memory()  # as extract does
    photos, small = _set("caltech101", PHOTOS, data_root), _set("cifar10", SMALL, data_root)
    runs = [(_pass(photos, 1), _pass(photos, 2), _pass(small, 2)) for _ in range(repeats)]
    figures["reading_scaling"] = median(two["images_per_second"] / one["images_per_second"] for one, two, _ in runs)
    figures["main_process_us_photo"] = median(two["main_us"] for _, two, _ in runs)
    figures["main_process_us_small"] = median(few["main_us"] for *_, few in runs)
    figures["photos_per_second_2_readers"] = median(two["images_per_second"] for _, two, _ in runs)
    figures["small_per_second_2_readers"] = median(few["images_per_second"] for *_, few in runs)
    figures["reading_a_core_over_before"] = median(_over_before(photos) for _ in range(repeats))


def _set(name: str, n: int, data_root: str):
    from backbench.data import registry

    return replace(registry.load(name, data_root=Path(data_root)).part(0, n), span=None)  # a data set of its own


def _pass(imageset, readers: int) -> dict:
    """One pass with ``readers`` processes: images/s, and microseconds of this process an image."""
    import torch

    from backbench.extract import backbones, plan, run
    from backbench.extract.engine import Engine

    backbone = backbones.create("tf_efficientnet_lite0", weights="random")
    nothing = torch.zeros(BATCH, backbone.num_features)
    whole, taken = run._Pass.run, {}

    def timed(self):
        started, spent = time.perf_counter(), _processor_seconds()
        found = whole(self)
        taken.update(
            images_per_second=len(imageset) / (time.perf_counter() - started),
            main_us=1e6 * (_processor_seconds() - spent) / len(imageset),
        )
        return found

    forward, run._Pass.run, Engine.__call__ = Engine.__call__, timed, lambda engine, batch: nothing[: len(batch)]
    try:
        with tempfile.TemporaryDirectory() as folder:
            settings = plan.Settings(
                torch.device("cpu"), precision="float32", compile="off", batch_size=BATCH, readers=readers
            )
            run.extract_one(imageset, backbone, Path(folder) / "f.h5", settings)
    finally:
        run._Pass.run, Engine.__call__ = whole, forward
    return taken


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _over_before(imageset) -> float:
    """Photos a second of processor time, over those of the former path: PIL decodes, and resizes the centre alone."""
    import torch

    from backbench.data import decode
    from backbench.extract import backbones
    from backbench.extract.preprocess import Preprocessor, Reader

    preprocessor, threads = (
        Preprocessor(backbones.create("tf_efficientnet_lite0", weights="random")),
        torch.get_num_threads(),
    )
    reader, rows = Reader(imageset), np.arange(0, PHOTOS, 4)

    def before(i):
        preprocessor.crop(decode.read(imageset._bytes(i), id=imageset.ids[i]))

    def now(i):
        reader.read(np.array([i]), np.zeros(1, int), [preprocessor])

    torch.set_num_threads(1)
    try:
        spent = {before: 0.0, now: 0.0}
        for i in rows.tolist():
            for way in spent:
                started = time.process_time()
                way(i)
                spent[way] += time.process_time() - started
        return spent[before] / spent[now]
    finally:
        torch.set_num_threads(threads)
