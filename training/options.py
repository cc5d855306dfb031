"""The options that the training commands and those for checkpoints share."""

import click

from backbench import options

precision = click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "bfloat16"]),
    default="auto",
    show_default=True,
    help="Number format of the forward pass. auto takes bfloat16 where the device has hardware for it.",
)


download = click.option("--download", is_flag=True, help="Download the data set if it isn't there.")


dataset = click.option("--dataset", required=True, help="A registered data set or folder:PATH.")

save_every = click.option(
    "--save-every",
    type=click.FloatRange(0),
    default=30.0,
    show_default=True,
    help="Seconds between saves of the training state; 0 saves after every step.",
)

checkpoint = click.option("--checkpoint", type=options.PATH, required=True, help="The folder of a training run.")
