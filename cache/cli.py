"""``python -m cache``: what is in the feature cache, whether it is whole, and what made it."""

import json
from pathlib import Path

import click

from backbench import UserError, columns, options
from cache import layout


@click.group(cls=options.Group)
def main():
    """What is in the feature cache, whether it is whole, and what made it.

    \b
    Examples:
      python -m cache ls
      python -m cache show cache/caltech256/resnet50.h5
      python -m cache verify cache
    """


def _paths(paths: tuple[str, ...], cache_dir: Path, *, partial: bool = False) -> list[Path]:
    from cache import features

    asked = paths or (cache_dir,)
    if not partial:
        return features.find(asked)
    unfinished = [p for path in asked if Path(path).is_dir() for p in sorted(Path(path).rglob("*.h5.part"))]
    try:
        return sorted({*features.find(asked), *unfinished})
    except UserError:
        if unfinished:
            return unfinished
        raise


def _facts(path: Path) -> dict:
    from cache import features

    with features.open_file(path, partial=True) as file:
        counts = {name: int((file.split == code).sum()) for code, name in enumerate(("train", "val", "test"))}
        return {
            "path": str(path),
            "dataset": file.identity["dataset"],
            "model": layout.label(file.identity),
            "state": "complete" if file.complete else f"{int((file.done != layout.PENDING).sum())} of {len(file.done)}",
            "n": len(file.done),
            "dim": file.features.shape[1],
            "skipped": int((file.done == layout.SKIPPED).sum()),
            "classes": len(file.class_names),
            **counts,
            "megabytes": round(path.stat().st_size / 1e6, 1),
            "identity": file.identity,
            "measured": file.measured,
            "sha256": file.sha256,
        }


@main.command()
@click.argument("paths", nargs=-1)
@options.cache_dir
@options.as_json
def ls(paths, cache_dir, as_json):
    """List feature files, finished and unfinished, a line each.

    \b
    Example:
      python -m cache ls
    """
    found, unreadable = [], []
    for path in _paths(paths, cache_dir, partial=True):
        try:
            found.append(_facts(path))
        except UserError as error:
            unreadable += error.faults
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        keys = ("dataset", "model", "state", "n", "dim", "classes", "megabytes", "path")
        click.echo(columns([keys, *(tuple(str(facts[key]) for key in keys) for facts in found)]))
    if unreadable:
        raise UserError(*unreadable)


@main.command()
@click.argument("paths", nargs=-1, required=True)
@options.cache_dir
@options.as_json
def show(paths, cache_dir, as_json):
    """Print everything a feature file says of itself.

    \b
    Example:
      python -m cache show cache/caltech256/resnet50.h5
    """
    found = [_facts(path) for path in _paths(paths, cache_dir, partial=True)]
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for facts in found:
        for key, value in facts.items():
            if isinstance(value, dict):
                click.echo(f"{key}:")
                for inner, figure in value.items():
                    click.echo(f"  {inner:<18}{figure}")
            else:
                click.echo(f"{key:<20}{value}")


@main.command()
@click.argument("paths", nargs=-1)
@options.cache_dir
@options.as_json
def verify(paths, cache_dir, as_json):
    """Read feature files to the last byte and compare their checksums. Exit code 1 if one is not whole.

    \b
    Example:
      python -m cache verify cache
    """
    from cache import features

    faults = {str(path): features.verify(path) for path in _paths(paths, cache_dir, partial=True)}
    if as_json:
        click.echo(
            json.dumps([{"path": path, "whole": fault is None, "fault": fault} for path, fault in faults.items()])
        )
    else:
        for path, fault in faults.items():
            click.echo(f"{path}  {'whole' if fault is None else fault}")
    if any(faults.values()):
        raise UserError(f"{sum(map(bool, faults.values()))} of {len(faults)} feature files are not whole.")
