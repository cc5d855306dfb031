"""``backbench cache``: list the feature files, show what made them, verify, join and export them."""

import json
from pathlib import Path

import click

from backbench import UserError, columns, options
from backbench.cache import schema, shards


@click.group(cls=options.Group)
def main():
    """List the feature files in the cache, show what made them, verify them, join their shards, and export them.

    \b
    Examples:
      backbench cache ls
      backbench cache show cache/caltech256/resnet50.h5
      backbench cache verify cache
      backbench cache merge cache
      backbench cache export cache --out tables
    """


def _paths(paths: tuple[str, ...], cache_dir: Path, *, partial: bool = False) -> list[Path]:
    from backbench.cache import features

    asked = paths or (cache_dir,)
    if not partial:
        return features.find(asked)
    folders = [Path(path) for path in asked if Path(path).is_dir()]
    unfinished = [p for folder in folders for p in sorted(folder.rglob("*.h5.part"))]
    unfinished += [p for folder in folders for family in shards.families(folder) for p in family.files.values()]
    try:
        return sorted({*features.find(asked), *unfinished})
    except UserError:
        if unfinished:
            return unfinished
        raise


def _state(file) -> str:
    if file.complete and schema.SHARD not in file.identity:
        return "complete"
    state = f"{int((file.done != schema.PENDING).sum())} of {len(file.done)}"
    return f"{state}, shard of {file.identity[schema.SHARD]['of']}" if schema.SHARD in file.identity else state


def _facts(path: Path) -> dict:
    from backbench.cache import features

    with features.open_file(path, partial=True, check=False) as file:
        counts = {name: int((file.split == code).sum()) for code, name in enumerate(("train", "val", "test"))}
        return {
            "path": str(path),
            "dataset": file.identity["dataset"],
            "model": schema.label(file.identity),
            "state": _state(file),
            "n": len(file.done),
            "dim": file.features.shape[1],
            "skipped": int((file.done == schema.SKIPPED).sum()),
            "classes": len(file.class_names),
            **counts,
            "megabytes": round(path.stat().st_size / 1e6, 1),
            "identity": file.identity,
            "measured": file.measured,
            "sha256": file.sha256,
            "checksum_covers": file.covers,
        }


@main.command()
@click.argument("paths", nargs=-1)
@options.cache_dir
@options.as_json
def ls(paths, cache_dir, as_json):
    """List the feature files, finished and unfinished, one per line.

    \b
    Example:
      backbench cache ls
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
    """Print all that a feature file records: its state, what its features are, and how fast they were computed.

    \b
    Example:
      backbench cache show cache/caltech256/resnet50.h5
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
    """Read feature files to the last byte and compare their checksums. The exit code is 1 if one is not whole.

    In files of schema 1, the older format, the checksum covers the arrays but not the identity. Such a file is
    reported as "whole, arrays only".

    \b
    Example:
      backbench cache verify cache
    """
    from backbench.cache import features

    faults, found = {}, []
    for path in _paths(paths, cache_dir, partial=True):
        fault = faults[path] = features.verify(path)
        covers = None if fault else _facts(path)["checksum_covers"]
        found.append({"path": str(path), "whole": fault is None, "fault": fault, "checksum_covers": covers})
        if not as_json:
            click.echo(fault or f"{path}  whole{', arrays only' if covers == schema.ARRAYS else ''}")
    if as_json:
        click.echo(json.dumps(found))
    if any(faults.values()):
        raise UserError(f"{sum(map(bool, faults.values()))} of {len(faults)} feature files are not whole.")


@main.command()
@click.argument("paths", nargs=-1)
@options.cache_dir
@click.option("--keep", is_flag=True, help="Keep the shards, which are otherwise removed.")
@options.overwrite
def merge(paths, cache_dir, keep, overwrite):
    """Join the shards that extract --shard made, into one feature file for each backbone and data set.

    PATHS are folders, feature files still to be joined, or shards. All shards must be present, finished and made with
    the same settings. Each error names the command that fixes it.

    \b
    Example:
      backbench cache merge cache/caltech256/resnet50.h5
    """
    from backbench import Faults
    from backbench.cache import merge as merging

    asked = [Path(path) for path in paths or (cache_dir,)]
    found = {(family.whole, family.count): family for path in asked for family in shards.families(path)}
    faults = Faults()
    with faults.collect():
        # A feature file without shards has been joined before.
        if nothing := [path for path in asked if not shards.families(path) and not path.is_file()]:
            raise UserError(*(f"there are no shards at {path}. Make them: extract ... --shard 1/4" for path in nothing))
    for family in found.values():
        with faults.collect():
            click.echo(merging.merge(family, keep=keep, overwrite=overwrite))
    faults.stop()


@main.command()
@click.argument("files", nargs=-1)
@click.option(
    "--format",
    "kind",
    type=click.Choice(["parquet"]),
    default="parquet",
    show_default=True,
    help="The format of the tables.",
)
@click.option(
    "--out", type=options.PATH, required=True, help="The folder of the tables, or of one table a name.parquet."
)
@click.option(
    "--dataset",
    "datasets",
    multiple=True,
    help="Your own data set, such as folder:PATH, for the paths of the image files. Repeat for several.",
)
@options.data_root
@click.option("--findings", type=options.PATH, help="The audit.csv whose findings are joined to the images.")
@options.results_dir
@options.cache_dir
@options.overwrite
@options.as_json
@click.pass_context
def export(ctx, files, kind, out, datasets, data_root, cache_dir, as_json, **how):
    """Write feature files as parquet tables, for embedding-atlas, Spotlight, FiftyOne, pandas and DuckDB.

    A table has a row for each image: id, filepath, label, split, prediction and confidence of the newest probe,
    embedding, and its place x, y on the two principal axes. The paths of images are there where --dataset or
    --data-root is given. --findings adds the columns of cleanlab's Datalab and FiftyOne's mistakenness. FILES are
    feature files, folders and patterns.  [default: --cache-dir]

    \b
    Examples:
      backbench cache export cache/digits/resnet50.h5 --out digits.parquet
      backbench cache export cache --out tables --data-root data/raw --findings audit.csv
      embedding-atlas digits.parquet --x x --y y
    """
    from backbench import api

    given = ctx.get_parameter_source("data_root") == click.core.ParameterSource.COMMANDLINE
    how |= {"dataset": datasets, "data_root": data_root if given or datasets else None}
    done, faults = api.export_parquet(files or [cache_dir], out, **how)
    if as_json:
        click.echo(json.dumps(done, indent=2))
    for one in [] if as_json else done:
        click.echo(
            f"{one['path']}  {one['n']:,} images x {one['dim']:,} features, {one['n_predicted']:,} predicted, "
            f"{one['n_files']:,} with a file"
        )
    faults.stop()
