"""``finetune``: train backbones end to end, and use what came of it."""

import json
from pathlib import Path

import click

from backbench import UsageError, options
from finetune.options import checkpoint, dataset, download, precision


@click.group(cls=options.Group)
def main():
    """Train backbones end to end on an image set: chosen on val, tested once.

    \b
    Examples:
      finetune simple --model tf_efficientnet_lite0 --dataset caltech256
      finetune full --model phase2 --dataset caltech256 --strategy gradual
      finetune simple --preset published --model resnet50 --dataset cifar100
      finetune evaluate --checkpoint runs/digits/resnet50-simple-lp-ft-42 --dataset digits
      accelerate launch --num_processes 4 -m finetune full --model vit_base --dataset caltech256
    """


def _training(command):
    """The options of both presets' commands."""
    for option in reversed(
        (
            click.option("--model", "models", multiple=True, help="A name as extract knows it, or phase2. Repeat."),
            click.option("--dataset", "datasets", multiple=True, help="A registered image set or folder:PATH. Repeat."),
            click.option(
                "--strategy",
                type=click.Choice(["lp-ft", "full", "gradual", "discriminative"]),
                help="lp-ft: all weights, from the probe's head. full: all weights, from a fresh head. gradual: the "
                "head, then stage by stage from the top. discriminative: lower rates towards the stem.  "
                "[default: lp-ft; published: full]",
            ),
            click.option("--preset", type=click.Choice(["published"]), help="The published study's settings instead."),
            click.option("--epochs", type=int, help="Passes over train.  [default: the preset's]"),
            click.option("--lr", type=float, help="Learning rate.  [default: the preset's]"),
            click.option("--batch-size", type=int, help="Images a step.  [default: the preset's]"),
            click.option(
                "--wise", metavar="SHARE", help="WiSE-FT: weights are SHARE tuned, the rest the start's; auto: by val."
            ),
            click.option(
                "--set", "settings", metavar="KEY=VALUE", multiple=True, help="Any other setting of finetune/recipe.py."
            ),
            click.option("--weights", default="auto", show_default=True, help="As of extract."),
            click.option("--micro-batch", type=click.IntRange(2), help="Images at a time.  [default: as many as fit]"),
            click.option("--grad-checkpointing", is_flag=True, help="Less memory, about a third more work."),
            precision,
            click.option("--workers", type=click.IntRange(0), help="Processes that make pictures."),
            click.option(
                "--save-every",
                type=click.FloatRange(0),
                default=30.0,
                show_default=True,
                help="Seconds between savings; 0: after every step.",
            ),
            click.option("--tracker", help="tensorboard, or another that accelerate knows and is installed."),
            click.option("--onnx", is_flag=True, help="Write model.onnx too, checked against PyTorch."),
            click.option(
                "--exif", type=click.Choice(["ignore", "apply"]), default="ignore", show_default=True,
                help="EXIF orientation.",
            ),
            download,
            options.data_root,
            options.cache_dir,
            options.results_dir,
            options.out("The run's folder, instead of runs/<dataset>/<model>-<preset>-<strategy>-<seed>."),
            options.device,
            options.seed,
            options.overwrite,
            options.as_json,
        )
    ):  # fmt: skip
        command = option(command)
    return command


@main.command()
@_training
def simple(**given):
    """One short recipe, the same for every architecture, so that they compare (Phase 2).

    \b
    Examples:
      finetune simple --model tf_efficientnet_lite0 --dataset caltech256
      finetune simple --model phase2 --dataset caltech256 --strategy discriminative
    """
    _train("simple", **given)


@main.command()
@_training
def full(**given):
    """Everything that raises accuracy, at three times the epochs (Phase 3).

    \b
    Example:
      finetune full --model regnety_040 --dataset caltech256 --onnx
    """
    _train("full", **given)


def _train(
    name, *, models, datasets, preset, strategy, epochs, lr, batch_size, wise, settings, device, precision, tracker,
    out, results_dir, as_json, data_root, download, exif, **how,
):  # fmt: skip
    missing = [f"{flag} is missing." for flag, given in (("--model", models), ("--dataset", datasets)) if not given]
    if missing:
        raise UsageError(*missing, f"For example: finetune {name} --model resnet50 --dataset caltech256")
    if out and (len(models), len(datasets), "phase2" in models) != (1, 1, False):
        raise UsageError("--out names one run, but several are asked for.")
    from finetune import recipe as recipes
    from finetune import run

    if wise not in (None, "auto"):
        wise = recipes.value(wise)
    given = {"strategy": strategy, "epochs": epochs, "lr": lr, "batch_size": batch_size, "wise": wise}
    recipe = recipes.make(preset or name, settings, **given)
    accelerator, precision = run.accelerator(device, precision, tracker)
    found, faults = run.finetune_all(
        models,
        datasets,
        recipe,
        run.Settings(accelerator, precision, tracker=tracker, **how),
        place=lambda *pair: out or run.default_out(Path("runs"), *pair, recipe, how["seed"]),
        results_dir=results_dir,
        data_root=data_root,
        download=download,
        exif=exif,
    )
    if accelerator.is_main_process:
        _show(found, as_json)
    faults.stop()


@main.command()
@checkpoint
@dataset
@precision
@download
@options.data_root
@options.results_dir
@options.device
@options.as_json
def evaluate(checkpoint, dataset, precision, device, as_json, **how):
    """The row of a checkpoint again, or on another set of the same classes.

    \b
    Example:
      finetune evaluate --checkpoint runs/digits/resnet50-simple-lp-ft-42 --dataset digits
    """
    from finetune import apply, model, run

    if precision == "auto":
        precision = model.read_about(model.folder_of(checkpoint))["precision"]
    accelerator, _ = run.accelerator(device, precision)
    _show([apply.row(checkpoint, dataset, accelerator, **how)], as_json)


@main.command()
@checkpoint
@dataset
@download
@options.data_root
@options.cache_dir
@options.out("The feature file, instead of <cache-dir>/<dataset>/<model>+<preset>-<strategy>.h5.")
@options.device
@options.overwrite
@options.as_json
def features(checkpoint, dataset, device, as_json, **how):
    """A feature file of the tuned backbone: all that probe does works on it.

    \b
    Example:
      finetune features --checkpoint runs/digits/resnet50-simple-lp-ft-42 --dataset digits
    """
    from backbench.devices import pick_device
    from finetune import apply

    figures = apply.features(checkpoint, dataset, device=pick_device(device), **how)
    if as_json:
        click.echo(json.dumps(figures, indent=2))
    else:
        click.echo(f"{figures['n']:,} images x {figures['dim']:,} features  {figures['path']}")


def _show(rows: list[dict], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    elif rows:
        from finetune.evaluate import table

        click.echo(table(rows))
