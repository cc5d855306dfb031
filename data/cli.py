"""``python -m data``: which image sets there are, what is in them, and getting them."""

import json
from pathlib import Path

import click

from backbench import Faults, columns, options


@click.group(cls=options.Group)
def main():
    """Look at image sets and download them.

    \b
    To paste:
      python -m data ls
      python -m data show digits
    """


@main.command()
@options.data_root
@options.seed
@options.as_json
def ls(data_root: Path, seed: int, as_json: bool):
    """List the registered sets: there or missing, classes, and images in train, val and test.

    \b
    To paste:
      python -m data ls --data-root data/raw
    """
    from data import summary

    rows = summary.overview(data_root, seed=seed)
    if as_json:
        click.echo(json.dumps({"data_root": str(data_root), "seed": seed, "sets": rows}, indent=2))
        return
    keys = ("n_classes", "n_train", "n_val", "n_test")
    lines = [("set", "state", "classes", "train", "val", "test")]
    for row in rows:
        lines.append((row["name"], row["state"], *(f"{row[key]:,}" if key in row else "-" for key in keys)))
    click.echo(columns(lines, left=2))
    for row in rows:
        if row["state"] == "unusable":
            click.echo(row["fault"], err=True)
    click.echo("Your own: folder:PATH, wds:PATH or hf:PATH. A missing one: python -m data download NAME", err=True)


@main.command()
@click.argument("name")
@options.data_root
@options.seed
@options.as_json
def show(name: str, data_root: Path, seed: int, as_json: bool):
    """Show a set: images a split and a class, picture sizes, colour modes, and what is missing.

    NAME is one of `ls`, or folder:PATH for any folder of images, wds:PATH for tar shards in the webdataset convention,
    hf:PATH for a Hugging Face data set on this disk (parquet, or what save_to_disk wrote).

    \b
    wds:'PATH/train-{000..146}.tar'           a pattern instead of a folder
    wds:PATH?image=left.jpg                   which picture of a sample, by its ending
    wds:PATH?label=species                    class: ending of a member, or field of .json (default: cls, then label)
    hf:PATH?image=img&label=fine_label        columns, where there are several to choose from
    wds:PATH?test=val, hf:PATH?test=val       test on val, where test is missing or has no labels

    \b
    To paste:
      python -m data show digits
      python -m data show 'wds:shards?label=species'
    """
    from data import registry, summary

    told = summary.describe(registry.load(name, data_root=data_root, seed=seed), seed=seed)
    if as_json:
        click.echo(json.dumps(told, indent=2))
        return
    lines = [("class", "train", "val", "test", "all")]
    for row in told["classes"]:
        lines.append((row["name"], *_sums(row["train"], row["val"], row["test"])))
    lines.append(("all", *_sums(told["n_train"], told["n_val"], told["n_test"])))
    click.echo(columns(lines, left=1))
    click.echo()
    for label, value in _facts(told):
        click.echo(f"{label:<14}{value}")


def _facts(told: dict):
    """The lines beneath the table of classes: label, value."""
    from data.summary import SHORT_SIDE

    yield "set", f"{told['name']}, {told['root'] or 'in memory'}"
    yield "digest", f"{told['digest']} (seed {told['seed']})"
    if told["width"]:
        for side in ("width", "height"):
            spread = told[side]
            yield side, f"{spread['min']:,} to {spread['max']:,} pixels, median {spread['median']:,.0f}"
        yield "small", f"{told['share_small']:.1%} have a shorter side under {SHORT_SIDE} pixels"
        modes = sorted(told["modes"].items(), key=lambda item: -item[1])
        yield "colour modes", ", ".join(f"{mode} {share:.2%}" for mode, share in modes)
    short = told["missing"] or {}
    words = ", ".join(f"{n:,} {what}" for what, n in short.items() if n > 0)
    if told["missing"]:
        yield "missing", f"{words} of the whole set" if words else "nothing"
    for image in told["unreadable"]:
        yield "unreadable", f"{image['id']}: {image['reason']}"


@main.command()
@click.argument("name")
@options.data_root
def download(name: str, data_root: Path):
    """Download a set, check its md5 and unpack it. Stopped, the same command goes on.

    \b
    To paste:
      python -m data download caltech256
    """
    from data import downloads, registry

    registry.check(name)
    click.echo(downloads.get(name, data_root))


@main.command("map")
@click.argument("source")
@click.argument("target")
@options.data_root
def propose(source: str, target: str, data_root: Path):
    """Propose which class of SOURCE is which of TARGET, by their names, as CSV to correct by hand.

    Names alone mislead (a mouse may be an animal), and only the nearest is proposed. Of a set that isn't here, the
    classes are known for openimages alone.

    \b
    To paste:
      python -m data map caltech101 openimages > map.csv
    """
    import csv
    import sys

    from data import maps, registry

    faults, classes = Faults(), []
    for name in (source, target):
        with faults.collect():
            listed = list(maps.openimages()) if name == "openimages" else None
            classes.append(listed or registry.load(name, data_root=data_root).class_names)
    faults.stop()
    pairs = maps.propose(*classes)
    csv.writer(sys.stdout, lineterminator="\n").writerows([maps.HEADER, *pairs])
    alone = sorted({*classes[0]} - {a for a, _ in pairs})
    click.echo(f"{len(pairs)} pairs proposed; none for {len(alone)} of {source}: {', '.join(alone[:10])}", err=True)
    if path := maps.shipped(source, target):
        click.echo(f"One made by hand comes with backbench and is used by itself: {path}", err=True)


def _sums(*counts: int) -> list[str]:
    return [f"{n:,}" for n in (*counts, sum(counts))]
