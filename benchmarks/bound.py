"""What this machine would do if reading and computing each took all cores, and nothing else were to be done."""

import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np


def measure(figures: dict, data_root: str) -> None:
    """Of lite0 on caltech101: reading alone, computing alone, both if they add up, and what the cache takes."""
    import torch

    from backbench.allocator import keep_freed_memory
    from backbench.cache.writer import write
    from backbench.data import registry
    from backbench.extract import backbones
    from backbench.extract.engine import choose
    from backbench.extract.preprocess import Preprocessor, Reader

    keep_freed_memory()
    imageset = registry.load("caltech101", data_root=Path(data_root))
    backbone = backbones.create("tf_efficientnet_lite0")
    model, ways = backbone.from_pixels.to(memory_format=torch.channels_last), [Preprocessor(backbone)]
    with ThreadPoolExecutor(torch.get_num_threads()) as pool, torch.inference_mode():
        reader = Reader(imageset, pool)
        started = time.perf_counter()
        for start in range(0, 2048, 32):
            (images,), _ = reader.read(np.arange(start, start + 32), np.zeros(32, int), ways)
        reading = 2048 / (time.perf_counter() - started)
        engine, _ = choose(model, images, torch.device("cpu"), left=len(imageset), compile="on")
        started = time.perf_counter()
        for _ in range(40):
            engine(images)
        computing = 40 * 32 / (time.perf_counter() - started)
    figures["reading"], figures["computing"] = reading, computing
    figures["bound"] = 1 / (1 / reading + 1 / computing)
    with tempfile.TemporaryDirectory() as folder:
        n = len(imageset)
        features = np.zeros((n, backbone.num_features), np.float32)
        started = time.perf_counter()
        names = {"labels": imageset.labels, "split": imageset.split, "ids": imageset.ids}
        identity = dict.fromkeys(("model", "weights", "weights_sha256", "pooling", "dataset", "dataset_digest"), "")
        identity |= {"transform": {}, "dtype": "float32", "precision": "", "compiled": False, "seed": 0}
        identity |= {"input_scale": 1.0, "versions": {}}
        write(Path(folder) / "f.h5", features=features, class_names=imageset.class_names, identity=identity, **names)
        figures["cache_share"] = (time.perf_counter() - started) * figures["bound"] / n
