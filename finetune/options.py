"""The options that the two training commands of finetune share."""

import click

from backbench import options
from backbench.training.options import download, precision, save_every


def training(command):
    """Add the options of ``finetune simple`` and ``finetune full``."""
    for option in reversed(
        (
            click.option(
                "--model",
                "models",
                multiple=True,
                help="A backbone's name, as for extract, or phase2. Repeat for several.",
            ),
            click.option(
                "--dataset",
                "datasets",
                multiple=True,
                help="A registered data set or folder:PATH. Repeat for several.",
            ),
            click.option(
                "--strategy",
                type=click.Choice(["lp-ft", "full", "gradual", "discriminative"]),
                help="Which weights train, and from which head. lp-ft: all weights, from the probe's head. full: all "
                "weights, from a blank head. gradual: the head first, then one stage after another from the top. "
                "discriminative: all weights, with lower learning rates towards the stem.  "
                "[default: lp-ft; published: full]",
            ),
            click.option(
                "--preset", type=click.Choice(["published"]), help="Use the published study's settings instead."
            ),
            click.option("--epochs", type=int, help="Number of passes over train.  [default: the preset's]"),
            click.option("--lr", type=float, help="Learning rate.  [default: the preset's]"),
            click.option("--batch-size", type=int, help="Number of images in each step.  [default: the preset's]"),
            click.option(
                "--wise",
                metavar="SHARE",
                help="WiSE-FT: mix the initial and the fine-tuned weights. SHARE is the fine-tuned part, 0 to 1; auto "
                "chooses it on val.",
            ),
            click.option(
                "--set",
                "settings",
                metavar="KEY=VALUE",
                multiple=True,
                help="Change any other setting of finetune/recipe.py. Repeat for several.",
            ),
            click.option("--weights", default="auto", show_default=True, help="Pretrained weights, as for extract."),
            click.option(
                "--micro-batch",
                type=click.IntRange(2),
                help="Number of images that go through the model at a time.  [default: as many as fit]",
            ),
            click.option(
                "--grad-checkpointing",
                is_flag=True,
                help="Compute activations again instead of keeping them: less memory for about a third more work.",
            ),
            precision,
            click.option("--workers", type=click.IntRange(0), help="Number of processes that load and augment images."),
            save_every,
            click.option("--tracker", help="tensorboard, or another installed tracker that accelerate knows."),
            click.option("--onnx", is_flag=True, help="Write model.onnx as well, and check it against PyTorch."),
            click.option(
                "--exif", type=click.Choice(["ignore", "apply"]), default="ignore", show_default=True,
                help="Whether images are turned as their EXIF orientation says.",
            ),
            options.exclude,
            options.relabel,
            options.on_error,
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
