"""Many backbones over many image sets: everything a request names is checked before the first image is read."""

import re
import sys
from pathlib import Path

from backbench import Faults
from backbench.allocator import keep_freed_memory
from backbench.devices import pick_device
from cache import layout
from cache.features import open_file
from data import registry
from extract import backbones, names, run, shards
from report import rows


def default_path(cache_dir: Path, dataset: str, model: str) -> Path:
    """``<cache_dir>/<dataset>/<model>.h5``, names flattened to what every file system takes."""
    folder, file = (re.sub(r'[/\\:*?"<>|]', "-", name) for name in (dataset, model))
    return Path(cache_dir) / folder / f"{file}.h5"


def extract_all(
    models,
    datasets,
    *,
    place,
    results_dir,
    weights,
    data_root,
    device,
    seed,
    download,
    exif,
    on_error,
    if_busy,
    shard=None,
    workers=None,
    scheduler=None,
    **settings,
) -> tuple[list[dict], Faults]:
    """Extract every model on every data set; ``place(dataset, model)`` names the file, ``settings`` are run.Settings'.

    Returns the figures of each finished file, and the faults met on the way: one request that fails doesn't stop the
    others. ``shard`` (number, count) does a part of the rows, ``workers`` and ``scheduler`` share them out.

    Raises UsageError or UserError, before any work, with everything that is wrong in the request itself.
    """
    faults = Faults()
    imagesets = []
    with faults.collect():
        models = names.resolve(models)
    with faults.collect():
        asked, device = device, pick_device("cpu" if scheduler else device)  # on a cluster each worker picks its own
    for name in dict.fromkeys(datasets):
        with faults.collect():
            imagesets.append(registry.load(name, data_root=data_root, seed=seed, download=download, exif=exif))
    faults.stop()
    keep_freed_memory()
    skip = on_error == "skip"
    settings = run.Settings(device=device, seed=seed, skip_unreadable=skip, wait=if_busy == "wait", **settings)
    spread = shards.Spread(weights=weights, device=asked, shard=shard, workers=workers, scheduler=scheduler)
    done = []
    for model in models:
        with faults.collect():
            backbone = backbones.create(model, weights=weights, seed=seed)
            print(f"{model}: weights {backbone.weights}, {backbone.num_features} features", file=sys.stderr)
            for imageset in imagesets:
                with faults.collect():
                    path = Path(place(imageset.name, model))
                    path, fresh = spread.extract(imageset, backbone, path, settings)
                    figures = summary(path) | {"already": not fresh}
                    if fresh and not shard:
                        rows.append(results_dir, _row(figures, seed))
                    done.append(figures)
    return done, faults


def summary(path: Path) -> dict:
    """A finished feature file in the figures a user asks about."""
    with open_file(path, partial=layout.is_finished_shard(path)) as file:
        return {
            "dataset": file.identity["dataset"],
            "model": file.identity["model"],
            "weights": file.identity["weights"],
            "path": str(path),
            "n": len(file.done),
            "n_skipped": int((file.done == layout.SKIPPED).sum()),
            "dim": file.features.shape[1],
            "precision": file.identity["precision"],
            "images_per_second": file.measured["images_per_second"],
            "seconds": file.measured["seconds"],
            "device": file.measured["device"],
            "features": {**file.identity, **file.measured, "path": str(path)},
        }


def line(figures: dict) -> str:
    """One line for people: what there is now, and how fast it came."""
    skipped = f", {figures['n_skipped']:,} left out" if figures["n_skipped"] else ""
    state = "already complete" if figures["already"] else f"{figures['images_per_second']:,.1f} images/s"
    return (
        f"{figures['dataset']}  {figures['model']}  {figures['n']:,} images{skipped} x {figures['dim']:,} features  "
        f"{state}, {figures['seconds']:,.1f} s  {figures['path']}"
    )


def _row(figures: dict, seed: int) -> dict:
    kept = ("n", "n_skipped", "dim", "images_per_second")
    features = figures["features"]
    return rows.make(
        "extract",
        dataset=figures["dataset"],
        model=figures["model"],
        method="features",
        seed=seed,
        figures={k: figures[k] for k in kept},
        protocol={k: features[k] for k in ("transform", "pooling", "dtype", "precision", "input_scale")},
        features=features,
        device=figures["device"],
        seconds=figures["seconds"],
    )
