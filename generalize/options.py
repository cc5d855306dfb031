"""The options of generalize."""

from pathlib import Path

import click

from backbench import options
from backbench.training.options import download


def elsewhere(command):
    """The options of generalize."""
    for option in reversed(
        (
            click.option(
                "--dataset",
                "datasets",
                multiple=True,
                help="Images from elsewhere: a registered set or folder:PATH. Repeat.",
            ),
            click.option(
                "--corruption",
                "corruptions",
                type=click.Choice(["resolution", "blur", "noise", "jpeg", "all"]),
                multiple=True,
                help="The source's own test images made worse, at five strengths. Repeat.",
            ),
            click.option(
                "--heads",
                type=options.PATH,
                default=Path("heads"),
                show_default=True,
                help="Where probe --save keeps heads.",
            ),
            click.option(
                "--runs", type=options.PATH, default=Path("runs"), show_default=True, help="Where checkpoints lie."
            ),
            click.option("--source", "sources", multiple=True, help="Only what was trained on this set. Repeat."),
            click.option("--model", "models", multiple=True, help="Only these, as tables name them. Repeat."),
            click.option(
                "--method",
                "methods",
                multiple=True,
                help="Only these, such as logistic or finetune-simple/lp-ft. Repeat.",
            ),
            click.option(
                "--map",
                "map_file",
                type=options.PATH,
                help="Classes that correspond, instead of the map that is shipped.",
            ),
            click.option(
                "--unknown",
                help="A set of no class that is known, to be told from those.  [default: unmapped classes, clutter]",
            ),
            download,
            options.data_root,
            options.cache_dir,
            options.results_dir,
            options.device,
            options.seed,
            options.as_json,
        )
    ):
        command = option(command)
    return command
