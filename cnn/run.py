"""Runs of one recipe with several seeds on one data set, whose images are read once."""

from pathlib import Path

import numpy as np

from backbench import UsageError
from backbench.allocator import keep_freed_memory
from backbench.cache.schema import default_path
from backbench.cnn import images, job
from backbench.cnn.recipe import Recipe
from backbench.data import registry
from backbench.data.decided import decided
from backbench.data.notes import tell_notes
from backbench.decisions import Decisions
from backbench.training import left_out
from backbench.training.setup import accelerator


def strategy(split: str, share: float) -> str:
    """Return the recipe's ``strategy``, which names the images that are trained on; see ``cnn.recipe.Recipe``."""
    words = (["usual"] if split == "usual" else []) + ([f"share-{share:g}"] if share < 1 else [])
    return "-".join(words) or "scratch"


def default_out(runs_dir: Path, dataset: str, recipe: Recipe, seed: int) -> Path:
    """Return ``<runs_dir>/<dataset>/cnn_<size>-<seed>``, with the strategy where it isn't ``scratch``."""
    words = [f"cnn_{recipe.name}", *([] if recipe.strategy == "scratch" else [recipe.strategy]), str(seed)]
    return default_path(runs_dir, dataset, "-".join(words)).with_suffix("")


def train(
    name: str, recipe: Recipe, *, seeds, split: str, share: float, place, results_dir, data_root, download, device,
    precision, decisions: Decisions | None = None, **options,
) -> list[dict]:  # fmt: skip
    """Train a recipe on a data set, and return one row for each of ``seeds``.

    ``place(dataset, recipe, seed)`` gives the folder of a run. Where the data set's split is drawn at random, the seed
    decides the split too. ``decisions`` leave images out and correct labels. Raises UserError where data set, settings
    or folder don't allow the run.
    """
    accelerated, precision = accelerator(device, precision)
    if accelerated.num_processes > 1:
        raise UsageError(
            "cnn trains in one process, since images of 32 pixels don't fill several. Run it without accelerate."
        )
    keep_freed_memory()
    held, unreadable, ids, found = None, {}, None, []
    for seed in seeds:
        loaded = decided(registry.load(name, data_root=data_root, seed=seed, download=download), decisions)
        if held is None:
            tell_notes(loaded)
        imageset = job.prepared(loaded, split=split, share=share)
        settings = job.Settings(accelerated, precision, seed=seed, **options)
        if held is None or ids != imageset.ids:
            (held, unreadable), ids = images.read(imageset, job.network(recipe, 2, 0)), imageset.ids
        if unreadable:
            if settings.on_error != "skip":
                left_out.stop(imageset, unreadable)
            imageset = job.prepared(left_out.without(loaded, list(unreadable)), split=split, share=share)
        imageset = left_out.resplit(loaded, imageset.split)  # now that its images are read, which digests need
        folder = Path(place(imageset.name, recipe, seed))
        found.append(job.Job(imageset, recipe, settings, folder, held=held, left=unreadable).row(results_dir))
    return found


def means(rows: list[dict]) -> list[str]:
    """Return a line for each data set with the mean and standard deviation over its runs."""
    lines = []
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        tops = [100 * row["top1"] for row in rows if row["dataset"] == dataset]
        spread = f" (standard deviation {np.std(tops, ddof=1):.2f})" if len(tops) > 1 else ""
        lines.append(f"{dataset}: mean top-1 of {len(tops)} runs {np.mean(tops):.2f} %{spread}")
    return lines
