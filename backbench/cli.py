"""``backbench``: every command of the project under one name."""

import json

import click

from backbench import columns, options, version

COMMANDS = {
    "data": "Show, download and map image data sets.",
    "extract": "Run frozen backbones over data sets once, and keep the features.",
    "cache": "List, verify and merge feature files.",
    "probe": "Fit heads on stored features.",
    "audit": "Find duplicates, leaks and wrong labels, and whether the ranking holds.",
    "finetune": "Train backbones end to end, and use what was trained.",
    "cnn": "Train the CIFAR network from scratch.",
    "predict": "Classify new images by a head or a checkpoint.",
    "export": "Write a head or a checkpoint as files for timm, ONNX and the hub.",
    "generalize": "Test everything that was trained on other data sets and on corrupted images.",
    "report": "Show tables, tests, figures and the page of what was measured.",
}


@click.group(cls=options.Group, later={name: (f"backbench.{name}.cli", help) for name, help in COMMANDS.items()})
@click.version_option(version(), "--version", prog_name="backbench")
def main() -> None:
    """Find out which pretrained backbone suits your images.

    \b
    Examples:
      backbench data ls
      backbench extract --model resnet50 --dataset folder:photos
      backbench probe --features cache/folder-photos
      backbench report
    """


@main.command(cls=options.Command)
@options.data_root
@options.cache_dir
@options.results_dir
@options.as_json
def doctor(as_json: bool, **folders) -> None:
    """Say what this machine has: versions, devices, decoders, disk space, and whether weights can be fetched.

    \b
    Example:
      backbench doctor
    """
    from backbench.doctor import examine

    found = examine(**folders)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    click.echo(columns([(one["about"], one["found"]) for one in found]))
    for one in found:
        if one["advice"]:
            click.echo(f"{one['about']}: {one['advice']}", err=True)
