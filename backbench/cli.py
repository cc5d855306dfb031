"""``backbench``: every command of the project under one name."""

import click

from backbench import options, version

COMMANDS = {
    "data": "Show, download and map image data sets.",
    "extract": "Run frozen backbones over data sets once, and keep the features.",
    "cache": "List, verify and merge feature files.",
    "probe": "Fit heads on stored features.",
    "finetune": "Train backbones end to end, and use what was trained.",
    "cnn": "Train the CIFAR network from scratch.",
    "generalize": "Test everything that was trained on other data sets and on corrupted images.",
    "report": "Show tables, tests, figures and the page of what was measured.",
}


@click.group(cls=options.Group, later={name: (f"backbench.{name}.cli", help) for name, help in COMMANDS.items()})
@click.version_option(version(), "--version")
def main() -> None:
    """Find out which pretrained backbone suits your images.

    \b
    Examples:
      backbench data ls
      backbench extract --model resnet50 --dataset folder:photos
      backbench probe --features cache/folder-photos
      backbench report
    """
