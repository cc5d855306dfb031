"""The options that all commands around training share."""

import click

from backbench import options

precision = click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "bfloat16"]),
    default="auto",
    show_default=True,
    help="Of the forward pass. auto: bfloat16 where the device has hardware for it.",
)


download = click.option("--download", is_flag=True, help="Fetch a data set that isn't there.")


dataset = click.option("--dataset", required=True, help="A registered image set or folder:PATH.")


checkpoint = click.option("--checkpoint", type=options.PATH, required=True, help="A run's folder, as training made it.")
