"""``finetune``: train backbones end to end, and use what came of it."""

import json
from pathlib import Path

import click

from backbench import UsageError, UserError, options
from finetune.options import checkpoint, dataset, download, elsewhere, precision, training


@click.group(cls=options.Group)
def main():
    """Train backbones end to end on an image set: chosen on val, tested once.

    \b
    Examples:
      finetune simple --model tf_efficientnet_lite0 --dataset caltech256
      finetune full --model phase2 --dataset caltech256 --strategy gradual
      finetune simple --preset published --model resnet50 --dataset cifar100
      finetune evaluate --checkpoint runs/digits/resnet50-simple-lp-ft-42 --dataset digits
      finetune generalize --dataset openimages
      accelerate launch --num_processes 4 -m finetune full --model vit_base --dataset caltech256
    """


@main.command()
@training
def simple(**given):
    """One short recipe, the same for every architecture, so that they compare (Phase 2).

    \b
    Examples:
      finetune simple --model tf_efficientnet_lite0 --dataset caltech256
      finetune simple --model phase2 --dataset caltech256 --strategy discriminative
    """
    _train("simple", **given)


@main.command()
@training
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


@main.command()
@elsewhere
def generalize(datasets, shifts, heads, runs, sources, models, methods, as_json, device, unknown, **how):
    """Everything that was trained, on images of another source: what of its accuracy is left?

    Probe heads (probe --save heads) and checkpoints are found by themselves. New images are seen once a backbone; the
    same command again takes milliseconds a head. Classes are matched by maps that are shipped (caltech256 and cifar100
    to openimages, caltech256 to office_shift), by equal names, or by --map FILE: python -m data map proposes one.

    \b
    Examples:
      finetune generalize --dataset openimages
      finetune generalize --dataset office_shift/amazon --dataset office_shift/dslr --dataset office_shift/webcam
      finetune generalize --shift resolution --shift blur --source caltech256
    """
    if not (datasets or shifts):
        raise UsageError("--dataset or --shift is missing.", "For example: finetune generalize --dataset openimages")
    from backbench.allocator import keep_freed_memory
    from backbench.devices import pick_device
    from data import registry
    from finetune import generalize as evaluation
    from finetune import shift, trained

    registry.check(*datasets, *sources, *([unknown] if unknown else []))
    place = pick_device(device)
    things, faults = trained.find(heads, runs)
    if not things:
        faults.stop()
        raise UserError(
            f"nothing trained lies under {heads} or {runs}. Make heads with: probe --features cache --save heads; or "
            "checkpoints with: finetune simple --model resnet50 --dataset caltech256"
        )
    chosen = evaluation.choose(things, sources=sources, models=models, methods=methods)
    keep_freed_memory()
    request = evaluation.Request(chosen, place, sources=sources, unknown=unknown, **how)
    shifts = dict.fromkeys(name for given in shifts for name in (shift.LEVELS if given == "all" else [given]))
    found, met = evaluation.run(request, list(dict.fromkeys(datasets)), list(shifts))
    faults.errors += met.errors
    for line in dict.fromkeys(request.skipped):
        click.echo(f"Passed over: {line}", err=True)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    elif found:
        click.echo(evaluation.table(found))
    if not (found or faults.errors):
        raise UserError("nothing could be evaluated: see what was passed over, and why.")
    faults.stop()


def _show(rows: list[dict], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    elif rows:
        from finetune.evaluate import table

        click.echo(table(rows))
