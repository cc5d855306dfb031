"""The options that report's commands share."""

import click

from backbench import options


def output_options(command, *, forms=("terminal", "md", "csv"), results=True):
    for option in (
        *([options.results_dir] if results else []),
        options.out("The file to write to, instead of stdout."),
        options.as_json,
        click.option(
            "--format",
            "form",
            type=click.Choice(forms),
            help="The output format.  [default: by the ending of --out, else terminal]",
        ),
    ):
        command = option(command)
    return command


def table_options(command):
    everything = click.option(
        "--all", "everything", is_flag=True, help="Show the published backbones that have no rows here as well."
    )
    return everything(output_options(command, forms=("terminal", "md", "latex", "csv")))


def page_options(command):
    for option in (
        options.results_dir,
        options.cache_dir,
        options.data_root,
        click.option("--dataset", "datasets", multiple=True, help="folder:PATH of images to show. Repeat for several."),
        click.option(
            "--pictures",
            type=click.IntRange(0),
            default=1500,
            show_default=True,
            help="The largest number of thumbnails for each data set; 0 shows none.",
        ),
        click.option(
            "--umap",
            is_flag=True,
            help="Draw feature maps by UMAP instead of PCA. This takes minutes and needs umap-learn.",
        ),
    ):
        command = option(command)
    return command
