"""The options that report's commands share."""

import click

from backbench import options


def output_options(command, *, forms=("terminal", "md", "csv"), results=True):
    for option in (
        *([options.results_dir] if results else []),
        options.out("Write it to this file instead of stdout."),
        options.as_json,
        click.option(
            "--format",
            "form",
            type=click.Choice(forms),
            help="How to write it.  [default: what --out ends in, else terminal]",
        ),
    ):
        command = option(command)
    return command


def table_options(command):
    everything = click.option(
        "--all", "everything", is_flag=True, help="Also the published backbones that have no rows here."
    )
    return everything(output_options(command, forms=("terminal", "md", "latex", "csv")))


def page_options(command):
    for option in (
        options.results_dir,
        options.cache_dir,
        options.data_root,
        click.option("--dataset", "datasets", multiple=True, help="folder:PATH whose pictures to show. Repeat."),
        click.option(
            "--pictures",
            type=click.IntRange(0),
            default=1500,
            show_default=True,
            help="Thumbnails a data set, at most; 0 for none.",
        ),
        click.option("--umap", is_flag=True, help="Maps by UMAP instead of PCA: minutes, needs umap-learn."),
    ):
        command = option(command)
    return command
