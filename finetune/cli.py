"""``finetune``: train backbones end to end, and use the checkpoints."""

import json
from pathlib import Path

import click

from backbench import Faults, UsageError, options
from backbench.finetune.options import training
from backbench.training.options import checkpoint, dataset, download, precision

GENERALIZE = "Test all heads and checkpoints on other data sets and on corrupted images."


@click.group(cls=options.Group, later={"generalize": ("backbench.generalize.cli", GENERALIZE)})
def main():
    """Train backbones end to end on a data set. The weights are chosen on val and tested once.

    \b
    Examples:
      finetune simple --model tf_efficientnet_lite0 --dataset caltech256
      finetune full --model phase2 --dataset caltech256 --strategy gradual
      finetune simple --preset published --model resnet50 --dataset cifar100
      finetune evaluate --checkpoint runs/digits/resnet50-simple-lp-ft-42 --dataset digits
      finetune generalize --dataset openimages
      accelerate launch --num_processes 4 -m backbench.finetune full --model vit_base --dataset caltech256
    """


@main.command()
@training
def simple(**given):
    """Train by one short recipe that is the same for every architecture, so that results compare (Phase 2).

    \b
    Examples:
      finetune simple --model tf_efficientnet_lite0 --dataset caltech256
      finetune simple --model phase2 --dataset caltech256 --strategy discriminative
      finetune simple --model tf_efficientnet_lite0 --dataset caltech256 --exclude audit.csv --relabel audit.csv
    """
    _train("simple", **given)


@main.command()
@training
def full(**given):
    """Train by the recipe with everything that raises accuracy, at three times the epochs (Phase 3).

    \b
    Example:
      finetune full --model regnety_040 --dataset caltech256 --onnx
    """
    _train("full", **given)


def _train(
    name, *, models, datasets, preset, strategy, epochs, lr, batch_size, wise, settings, device, precision, tracker,
    out, results_dir, as_json, data_root, download, exif, exclude, relabel, **options,
):  # fmt: skip
    missing = [f"{flag} is missing." for flag, given in (("--model", models), ("--dataset", datasets)) if not given]
    if missing:
        raise UsageError(*missing, f"For example: finetune {name} --model resnet50 --dataset caltech256")
    if out and (len(models), len(datasets), "phase2" in models) != (1, 1, False):
        raise UsageError("--out names one run, but several are asked for.")
    from backbench import decisions
    from backbench.data import registry
    from backbench.extract import names, weights_file
    from backbench.finetune import recipe as recipes
    from backbench.finetune import run
    from backbench.training import settings as typed
    from backbench.training import setup

    faults, decided = Faults(), None
    with faults.collect():
        models = names.resolve(models)
    with faults.collect():
        registry.check(*datasets)
    with faults.collect():
        decided = decisions.read(exclude, relabel)
    with faults.collect():
        weights_file.check(options["weights"])
    with faults.collect():
        if wise not in (None, "auto"):
            wise = typed.value(wise)
        given = {"strategy": strategy, "epochs": epochs, "lr": lr, "batch_size": batch_size, "wise": wise}
        recipe = recipes.make(preset or name, settings, **given)
    faults.stop()  # before torch and timm are imported, which takes some ten seconds
    accelerator, precision = setup.accelerator(device, precision, tracker)
    found, faults = run.finetune_all(
        models,
        datasets,
        recipe,
        run.Settings(accelerator, precision, tracker=tracker, **options),
        place=lambda *pair: out or run.default_out(Path("runs"), *pair, recipe, options["seed"]),
        results_dir=results_dir,
        data_root=data_root,
        download=download,
        exif=exif,
        decisions=decided,
    )
    if accelerator.is_main_process:
        _show(found, as_json)
    faults.stop()


@main.command()
@checkpoint
@dataset
@precision
@options.exclude
@options.relabel
@options.on_error
@download
@options.data_root
@options.results_dir
@options.device
@options.as_json
def evaluate(checkpoint, dataset, precision, device, as_json, **settings):
    """Evaluate a checkpoint again on its test images, or on another data set with the same classes.

    \b
    Example:
      finetune evaluate --checkpoint runs/digits/resnet50-simple-lp-ft-42 --dataset digits
    """
    from backbench.training import checkpoint as checkpoints
    from backbench.training import reuse_checkpoint, setup

    if precision == "auto":
        precision = checkpoints.read_about(checkpoints.folder_of(checkpoint))["precision"]
    accelerator, _ = setup.accelerator(device, precision)
    _show([reuse_checkpoint.row(checkpoint, dataset, accelerator, **settings)], as_json)


@main.command()
@checkpoint
@dataset
@options.whole_only
@options.on_error
@download
@options.data_root
@options.cache_dir
@options.out("The feature file, instead of <cache-dir>/<dataset>/<model>+<preset>-<strategy>.h5.")
@options.device
@options.overwrite
@options.as_json
def features(checkpoint, dataset, device, as_json, **settings):
    """Write a feature file of the fine-tuned backbone, which probe takes like any other.

    \b
    Example:
      finetune features --checkpoint runs/digits/resnet50-simple-lp-ft-42 --dataset digits
    """
    from backbench.devices import pick_device
    from backbench.training import reuse_checkpoint

    figures = reuse_checkpoint.features(checkpoint, dataset, device=pick_device(device), **settings)
    if as_json:
        click.echo(json.dumps(figures, indent=2))
    else:
        click.echo(f"{figures['n']:,} images x {figures['dim']:,} features  {figures['path']}")


def _show(rows: list[dict], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    elif rows:
        from backbench.training.evaluate import table

        click.echo(table(rows))
