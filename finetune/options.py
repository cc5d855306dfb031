"""The options of finetune's commands that are many, or shared with cnn."""

import click

from backbench import options
from backbench.training.options import download, precision


def training(command):
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
