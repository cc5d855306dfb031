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
                help="Another data set: a registered one or folder:PATH. Repeat for several.",
            ),
            click.option(
                "--corruption",
                "corruptions",
                type=click.Choice(["resolution", "blur", "noise", "jpeg", "all"]),
                multiple=True,
                help="Corrupts the source's own test images, at five strengths. Repeat for several.",
            ),
            click.option(
                "--heads",
                type=options.PATH,
                default=Path("heads"),
                show_default=True,
                help="The folder in which probe --save keeps heads.",
            ),
            click.option(
                "--runs",
                type=options.PATH,
                default=Path("runs"),
                show_default=True,
                help="The folder of checkpoints.",
            ),
            click.option(
                "--source",
                "sources",
                multiple=True,
                help="Takes only what was trained on this data set. Repeat.",
            ),
            click.option(
                "--model",
                "models",
                multiple=True,
                help="Takes only this backbone, as tables name it. Repeat.",
            ),
            click.option(
                "--method",
                "methods",
                multiple=True,
                help="Takes only this method, such as logistic or finetune-simple/lp-ft. Repeat for several.",
            ),
            click.option(
                "--map",
                "map_file",
                type=options.PATH,
                help="A CSV file of the classes that correspond, instead of the map that is shipped.",
            ),
            click.option(
                "--unknown",
                help="A data set without any known class, to test how well its images are told from known ones.  "
                "[default: unmapped classes, clutter]",
            ),
            options.on_error,
            options.trust,
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
