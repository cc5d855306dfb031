"""Extraction of many backbones over many data sets. The whole request is checked before the first image is read."""

import json
import sys
from dataclasses import replace
from pathlib import Path

from backbench import Faults, UserError, rows
from backbench.allocator import keep_freed_memory
from backbench.cache import reuse
from backbench.cache.features import open_file, summary
from backbench.data import contents, registry
from backbench.data.notes import tell_notes
from backbench.devices import memory, pick_device
from backbench.extract import backbone_info, backbones, names, openvino, plan, shards, views, weights_file
from backbench.extract.plan import Settings
from backbench.packages import has
from backbench.progress import loading, tell

MODELS_SHARE = 1 / 8
"""Share of the memory of the device, or the machine, that the weights of the backbones in one pass may take. A compiled
backbone holds its weights up to three times."""


DISTINCT = ("dataset_digest", "weights_sha256", "layer", "pool", "views", "dtype", "seconds", "images_per_second")
"""Keys that distinguish one feature file from another. The last two are measured and never the same twice."""


def extract_all(
    models, datasets, *, cache_dir, results_dir, out=None, weights, data_root, device, seed, download, exif, on_error,
    if_busy, layers=("last",), pool="default", input_scale=1.0, shard=None, workers=None, scheduler=None, **settings,
) -> tuple[list[dict], Faults]:  # fmt: skip
    """Extract every layer of every model on every data set. Backbones that fit in memory together share one pass.

    The files go to ``cache_dir``, or the only one to ``out``. ``settings`` are those of ``extract.plan.Settings``.
    ``shard`` (number, count) computes a part of the rows; ``workers`` and ``scheduler`` divide them.

    Returns the figures of each finished file, and the errors met on the way, since one file that fails doesn't stop the
    others. Raises UsageError or UserError, before any work, with everything that is wrong in the request itself.
    """
    faults, imagesets, kept = Faults(), [], []
    with faults.collect():
        models = names.resolve(models)
    with faults.collect():
        registry.check(*datasets)
    with faults.collect():
        weights_file.check(weights)
    with faults.collect():
        openvino.check(settings.get("compile"))
    if faults.errors and device not in ("auto", "cpu"):
        with faults.collect():
            pick_device(device)  # imports torch
    faults.stop()  # typos, before a data set is read or downloaded, and before torch and timm are imported
    skip, wait = on_error == "skip", if_busy == "wait"
    planned = Settings(device=None, seed=seed, skip_unreadable=skip, wait=wait, **settings)
    found = [
        backbone_info.lookup(cache_dir, model, layer, pool, weights=weights, seed=seed, scale=input_scale)
        for model in models
        for layer in layers
        if device in ("auto", "cpu") and not shard
    ]
    found = found if all(found) else []
    for name in dict.fromkeys(datasets):
        with faults.collect():
            imagesets.append(registry.load(name, data_root=data_root, seed=seed, download=download, exif=exif))
            kept.append(contents.Kept(imagesets[-1], cache_dir / imagesets[-1].slug))
    if has("torch"):  # else one sentence says what to install
        for imageset in imagesets:
            tell_notes(imageset)
    if found and not faults.errors and (done := _finished(found, imagesets, planned, out, cache_dir)):
        for figures in done:
            with faults.collect():
                _keep(results_dir, figures, seed)
        for one in kept:
            one.save()
        return done, faults
    if not faults.errors and has("torch"):
        with loading("torch", "timm"):
            import timm  # noqa: F401
    with faults.collect():
        asked, device = device, pick_device("cpu" if scheduler else device)  # on a cluster each worker picks its own
    faults.stop()
    keep_freed_memory()
    import torch  # only now: finished features need none of it

    from backbench.extract.feature_tap import tap

    settings = replace(planned, device=device)
    spread = shards.Spread(weights=weights, device=asked, shard=shard, workers=workers, scheduler=scheduler)

    def created(model):
        backbone = replace(backbones.create(model, weights=weights, seed=seed), scale=input_scale)
        tell(f"{model}: weights {backbone.weights}, {backbone.num_features} features")
        seen = set()
        for layer in layers:
            with faults.collect():
                tapped = tap(backbone, layer, pool)
                backbone_info.remember(cache_dir, tapped, layer, pool, weights=weights, seed=seed)
                if tapped.layer not in seen:
                    seen.add(tapped.layer)
                    yield tapped

    done = []
    for together in _sets(models, created, faults, memory(device) * MODELS_SHARE):
        for imageset, known in zip(imagesets, kept, strict=True):
            outcomes = []
            try:
                with faults.collect():
                    files = [plan.planned(imageset, one, settings, out, cache_dir=cache_dir) for one in together]
                    outcomes = spread.extract(files, settings)
                    if (workers or scheduler) and outcomes and not outcomes[0].fault:
                        with open_file(outcomes[0].path, check=False) as file:
                            known.learn(file.ids, file.contents)
            finally:
                known.save()
            for outcome in outcomes:
                if outcome.fault in faults.errors:  # unreadable images are reported once for all backbones
                    continue
                with faults.collect():
                    if outcome.fault:
                        raise outcome.fault
                    figures = summary(outcome.path) | {"already": outcome.complete, "trial": outcome.trial}
                    done.append(figures)
                    if not shard:
                        _keep(results_dir, figures, seed)
        if "torch._dynamo" in sys.modules:
            torch._dynamo.reset()  # it holds on to what was compiled
    return done, faults


def _finished(backbones, imagesets, settings, out, cache_dir) -> list[dict] | None:
    """Return the figures of the requested files where all of them are finished already, else None."""
    done = {}
    for imageset in imagesets:
        for backbone in backbones:
            file = plan.planned(imageset, backbone, settings, out, cache_dir=cache_dir)
            layout = views.layout(imageset, views.rows(imageset, settings.views, settings.views_as))
            try:
                if settings.overwrite or not reuse.settle(file.path, file.wanted, layout):
                    return None
            except UserError:  # the full run reports it, together with everything else
                return None
            done[file.path] = summary(file.path) | {"already": True, "trial": {}}
    return list(done.values())


def _sets(models, created, faults: Faults, room: float):
    """Yield the backbones that ``created(model)`` yields, in lists of about ``room`` bytes of weights each."""
    together, held = [], 0
    for model in models:
        with faults.collect():
            for backbone in created(model):
                together.append(backbone)
        if together:
            tensors = {
                id(t): t.nbytes for backbone in together for t in backbone.model.state_dict(keep_vars=True).values()
            }
            held = sum(tensors.values())
        if held > room:
            yield together
            together, held = [], 0
    if together:
        yield together


def line(figures: dict) -> str:
    """One line for people about a finished file: what it holds, and how fast it was computed."""
    skipped = f", {figures['n_skipped']:,} left out" if figures["n_skipped"] else ""
    speed = figures["images_per_second"]  # None where all features were taken over from other files
    state = "already complete" if figures["already"] else f"{speed:,.1f} images/s" if speed else "taken over"
    return (
        f"{figures['dataset']}  {figures['model']}  {figures['n']:,} images{skipped} x {figures['dim']:,} features  "
        f"{state}, {figures['seconds'] or 0:,.1f} s  {figures['path']}"
    )


def _keep(results_dir: Path, figures: dict, seed: int) -> None:
    """Append the row of a finished file, unless it is there already.

    It may be missing, because a run can be killed between the file's last byte and its row, or find the results' disk
    full. Raises UserError where it can't be written.
    """
    row = _row(figures, seed)
    if not any(
        _distinct(one) == _distinct(row)
        for one in rows.holding(results_dir, f'"seconds": {json.dumps(row["seconds"])}')
    ):
        rows.append(results_dir, row)


def _distinct(row: dict) -> dict:
    """What all rows of one feature file have in common, including those of earlier versions, which have no id."""
    return {key: (row["features"] or {}).get(key) for key in DISTINCT} | {"stage": row["stage"]}


def _row(figures: dict, seed: int) -> dict:
    kept = (
        "n",
        "n_skipped",
        "dim",
        "images_per_second",
        "trial",
    )  # the trial is empty where the file was found finished
    protocol = ("transform", "pooling", "layer", "views", "dtype", "precision", "input_scale")
    features = figures["features"]
    return rows.make(
        "extract",
        dataset=figures["dataset"],
        model=figures["model"],
        method="features",
        seed=seed,
        figures={k: figures[k] for k in kept},
        protocol={k: features[k] for k in protocol},
        settings={},
        features=features,
        device=figures["device"],
        seconds=figures["seconds"],
    )
