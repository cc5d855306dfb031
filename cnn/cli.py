"""``cnn``: train the CIFAR network from scratch, and use its checkpoints."""

import json
from pathlib import Path

import click

from backbench import Faults, UsageError, options
from backbench.progress import loading
from backbench.training.options import checkpoint, download, precision, save_every
from backbench.training.options import dataset as one_dataset

SIZES = ("small", "base", "large", "reference")


@click.group(cls=options.Group)
def main():
    """Train a small convolutional network for small images from scratch, as a baseline for transfer learning.

    \b
    Examples:
      cnn train --dataset cifar100
      cnn train --dataset cifar10 --size large --runs 3
      cnn evaluate --checkpoint runs/cifar100/cnn_base-42 --dataset cifar100
      cnn features --checkpoint runs/cifar100/cnn_base-42 --dataset cifar100
    """


@main.command()
@click.option(
    "--dataset",
    "datasets",
    multiple=True,
    required=True,
    help="A registered data set or folder:PATH. Repeat for several.",
)
@click.option(
    "--size",
    type=click.Choice(SIZES),
    default="base",
    show_default=True,
    help="Size of the network, with its recipe. reference is airbench94, to compare with.",
)
@click.option("--epochs", type=click.IntRange(1), help="Number of passes over train.  [default: the size's]")
@click.option("--batch-size", type=click.IntRange(2), help="Number of images in each step.  [default: the size's]")
@click.option(
    "--runs",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Number of runs, with seeds that count up from --seed.",
)
@click.option(
    "--train-share",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    show_default=True,
    help="Share of each class's train images to train on, in more epochs.",
)
@click.option(
    "--split",
    type=click.Choice(["study", "usual"]),
    default="study",
    show_default=True,
    help="study: the weights are chosen on val. usual: val is trained on as well, and the last weights are kept.",
)
@click.option("--pixels", type=int, help="Side in pixels to which images are resized.  [default: 32]")
@click.option(
    "--set",
    "settings",
    metavar="KEY=VALUE",
    multiple=True,
    help="Change any other setting of cnn/recipe.py. Repeat for several.",
)
@precision
@click.option(
    "--compile",
    type=click.Choice(["on", "off"]),
    default="off",
    show_default=True,
    help="Compile the network. This takes a minute or two, and saved no time on any machine measured.",
)
@save_every
@options.exclude
@options.relabel
@options.on_error
@download
@options.data_root
@options.results_dir
@options.out("The run's folder, instead of runs/<dataset>/cnn_<size>-<seed>.")
@options.device
@options.seed
@options.overwrite
@options.as_json
def train(
    datasets, size, epochs, batch_size, runs, train_share, split, pixels, settings, precision, device, results_dir,
    data_root, download, out, seed, as_json, exclude, relabel, **options,
):  # fmt: skip
    """Train the network. The weights are chosen on val and tested once.

    If the run is killed at any moment, the same command continues it.

    \b
    Examples:
      cnn train --dataset cifar100
      cnn train --dataset digits --size small --epochs 8
      cnn train --dataset cifar10 --split usual --runs 3
      cnn train --dataset cifar100 --train-share 0.1
      cnn train --dataset cifar100 --exclude audit.csv --relabel audit.csv
    """
    if out and (len(datasets), runs) != (1, 1):
        raise UsageError("--out names one run, but several are asked for.")
    with loading("torch", "timm"):
        from backbench.cnn import recipe, run
    from backbench import decisions
    from backbench.data import registry
    from backbench.training.evaluate import table

    faults, found, decided, strategy = Faults(), [], None, run.strategy(split, train_share)
    with faults.collect():
        registry.check(*datasets)
    with faults.collect():
        decided = decisions.read(exclude, relabel)
    with faults.collect():
        made = recipe.make(size, settings, epochs=epochs, batch_size=batch_size, pixels=pixels, strategy=strategy)
    faults.stop()
    for name in dict.fromkeys(datasets):
        with faults.collect():
            found += run.train(
                name,
                made,
                seeds=range(seed, seed + runs),
                split=split,
                share=train_share,
                place=lambda *pair: out or run.default_out(Path("runs"), *pair),
                results_dir=results_dir,
                data_root=data_root,
                download=download,
                device=device,
                precision=precision,
                decisions=decided,
                **options,
            )
    if as_json:
        click.echo(json.dumps(found, indent=2))
    elif found:
        click.echo(table(found))
        if runs > 1:
            click.echo("\n".join(run.means(found)))
    faults.stop()


@main.command()
@checkpoint
@one_dataset
@click.option(
    "--views", type=click.Choice(["none", "flip", "all"]), help="Test-time augmentation.  [default: the run's]"
)
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
      cnn evaluate --checkpoint runs/cifar100/cnn_base-42 --dataset cifar100
    """
    from backbench.training import checkpoint as checkpoints
    from backbench.training import reuse_checkpoint, setup
    from backbench.training.evaluate import table

    if precision == "auto":
        precision = checkpoints.read_about(checkpoints.folder_of(checkpoint))["precision"]
    accelerator, _ = setup.accelerator(device, precision)
    found = [reuse_checkpoint.row(checkpoint, dataset, accelerator, **settings)]
    click.echo(json.dumps(found, indent=2) if as_json else table(found))


@main.command()
@checkpoint
@one_dataset
@options.whole_only
@options.on_error
@download
@options.data_root
@options.cache_dir
@options.out("The feature file, instead of <cache-dir>/<dataset>/cnn_<size>+<size>-scratch.h5.")
@options.device
@options.overwrite
@options.as_json
def features(checkpoint, dataset, device, as_json, **settings):
    """Write a feature file of the network's penultimate layer, which probe takes like any other.

    \b
    Example:
      cnn features --checkpoint runs/cifar100/cnn_base-42 --dataset cifar100
    """
    from backbench.devices import pick_device
    from backbench.training import reuse_checkpoint

    figures = reuse_checkpoint.features(checkpoint, dataset, device=pick_device(device), **settings)
    shown = f"{figures['n']:,} images x {figures['dim']:,} features  {figures['path']}"
    click.echo(json.dumps(figures, indent=2) if as_json else shown)
