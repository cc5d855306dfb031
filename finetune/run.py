"""Fine-tuning of several models on several data sets. The whole request is checked before the first step."""

import contextlib
import os
import sys
from dataclasses import asdict
from pathlib import Path

from backbench import Faults
from backbench.allocator import keep_freed_memory
from backbench.cache.schema import default_path
from backbench.data import registry
from backbench.data.decided import decided
from backbench.data.notes import tell_notes
from backbench.decisions import Decisions
from backbench.extract import names
from backbench.finetune.job import Job
from backbench.finetune.recipe import Recipe
from backbench.training import checkpoint_kind
from backbench.training.job import Settings
from backbench.training.setup import check


def default_out(runs_dir: Path, dataset: str, name: str, recipe: Recipe, seed: int) -> Path:
    """Return ``<runs_dir>/<dataset>/<model>-<preset>-<strategy>-<seed>``, with ``-wise0.5`` where a share was given."""
    words = [name, recipe.name, recipe.strategy, checkpoint_kind.wise_of(asdict(recipe)).replace(" ", ""), str(seed)]
    return default_path(runs_dir, dataset, "-".join(filter(None, words))).with_suffix("")


def finetune_all(
    asked, datasets, recipe: Recipe, settings: Settings, *, place, results_dir, data_root, download, exif,
    decisions: Decisions | None = None,
) -> tuple[list[dict], Faults]:  # fmt: skip
    """Fine-tune every model on every data set; ``place(dataset, model)`` gives the folder of a run.

    ``decisions`` leave images of the data sets out and correct labels, see ``data.decided``.
    Returns the rows and the faults of failed runs, since one failed run doesn't stop the others. Raises UsageError or
    UserError before any work, with everything that is wrong in the request itself.
    """
    faults, imagesets, found, given = Faults(), [], [], {}
    with faults.collect():
        asked = names.resolve(asked)
    for name in dict.fromkeys(datasets):
        with faults.collect():
            loaded = registry.load(name, data_root=data_root, seed=settings.seed, download=download, exif=exif)
            loaded = decided(loaded, decisions)
            check(loaded)
            tell_notes(loaded)
            imagesets.append(loaded)
            given[loaded.name] = name
    faults.stop()
    keep_freed_memory()
    main = settings.accelerator.is_main_process
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(sys.stderr if main else nowhere):
        for name in asked:
            for imageset in imagesets:
                with faults.collect():
                    folder = Path(place(imageset.name, name))
                    job = Job(imageset, name, recipe, settings, folder, asked=given[imageset.name])
                    found.append(job.row(results_dir))
    settings.accelerator.wait_for_everyone()  # a process that leaves before the others may abort
    settings.accelerator.end_training()
    faults.errors = list({error.faults: error for error in faults.errors}.values())  # of every model, said once
    return found, faults
