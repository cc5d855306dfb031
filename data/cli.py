"""``backbench data``: which image sets there are, what is in them, and getting them."""

import json
from pathlib import Path

import click

from backbench import Faults, UsageError, columns, options


@click.group(cls=options.Group)
def main():
    """Look at image sets and download them.

    \b
    To paste:
      backbench data ls
      backbench data show digits
    """


@main.command()
@options.data_root
@options.seed
@options.as_json
def ls(data_root: Path, seed: int, as_json: bool):
    """List the registered sets: there or missing, classes, and images in train, val and test.

    \b
    To paste:
      backbench data ls --data-root data/raw
    """
    from backbench.data import summary

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
    click.echo("Your own: folder:PATH, wds:PATH or hf:PATH. A missing one: backbench data download NAME", err=True)


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
      backbench data show digits
      backbench data show 'wds:shards?label=species'
    """
    from backbench.data import registry, summary

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
    from backbench.data.summary import SHORT_SIDE

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
      backbench data download caltech256
    """
    from backbench.data import downloads, registry

    registry.check(name)
    click.echo(downloads.get(name, data_root))


@main.command()
@click.option(
    "--for", "sources", multiple=True, help="Classes that this set has too, by the map that is shipped. Repeat."
)
@click.option("--map", "map_file", type=options.PATH, help="Classes of your own map instead.")
@click.option("--per-class", type=click.IntRange(1), help="Pictures a class, at most.  [default: 50]")
@click.option(
    "--min-area", type=click.FloatRange(0, 1), help="Least share of the picture that the box takes.  [default: 0.1]"
)
@click.option("--crop", is_flag=True, help="Keep the box alone.")
@click.option(
    "--split",
    "splits",
    multiple=True,
    type=click.Choice(["validation", "test", "train"]),
    help="Repeat. train's files are gigabytes.  [default: validation and test]",
)
@click.option(
    "--list", "list_file", type=options.PATH, help="The very pictures of this list: images.csv of another build."
)
@options.out("Folder to build.  [default: <data-root>/openimages]")
@click.option("--jobs", type=click.IntRange(1, 32), default=8, show_default=True, help="Downloads at a time.")
@click.option("--base-url", default=None, hidden=True)
@click.option("--image-url", default=None, hidden=True)
@options.data_root
@options.seed
@options.as_json
def openimages(sources, map_file, list_file, out, crop, jobs, base_url, image_url, data_root, as_json, **how):
    """Build a subset of Open Images to test heads on: pictures with one class that the set has too, verified by people.

    Class folders, and images.csv with ids, boxes, licences and authors: keep it, and --list builds the same again.
    Stopped, the same command goes on.

    \b
    To paste:
      backbench data openimages --for caltech256 --per-class 50
      backbench data openimages --for cifar100 --crop --out data/raw/openimages-cifar100
      backbench data openimages --list images.csv
    """
    from backbench.data import openimages as official
    from backbench.data import openimages_build

    if bool(sources) + bool(map_file) + bool(list_file) != 1:
        raise UsageError("one of --for, --map and --list is expected. For example: --for caltech256")
    given = {key: value for key, value in how.items() if key != "seed" and value}
    frozen = official.frozen(sources)
    if list_file and given:
        raise UsageError("--list names every picture: --per-class, --min-area and --split have no part in it.")
    if frozen and not given:
        list_file = frozen
    out = out or data_root / "openimages"
    if list_file:
        wanted, per_class = {}, None
        for picture in official.read_list(list_file):
            wanted.setdefault(picture.class_name, []).append(picture)
        made = {"list": official.digest(list_file)}
    else:
        per_class, splits = how["per_class"] or 50, sorted(set(how["splits"])) or ["test", "validation"]
        classes = official.wanted(sources, map_file)
        made = {"classes": sorted(classes.values()), "per_class": per_class, "splits": splits, "seed": how["seed"]}
        made["min_area"] = 0.1 if how["min_area"] is None else how["min_area"]
        wanted = official.candidates(
            data_root / "openimages-files", classes, splits, per_class=per_class, min_area=made["min_area"],
            seed=how["seed"], base=base_url or official.BASE,
        )  # fmt: skip
    listed = openimages_build.build(
        out, wanted, per_class=per_class, how=made, crop=crop, jobs=jobs, base=image_url or official.IMAGES
    )
    found = openimages_build.totals(listed, wanted, per_class)
    if as_json:
        click.echo(
            json.dumps({"out": str(out), "list": str(out / openimages_build.LIST), "n": len(listed), "classes": found})
        )
        return
    lines = [("class", "images", "short"), *((row["class"], f"{row['n']:,}", f"{row['short'] or ''}") for row in found)]
    click.echo(columns([*lines, ("all", f"{len(listed):,}", f"{sum(row['short'] for row in found) or ''}")], left=1))
    if not list_file:
        click.echo(f"Commit {out / openimages_build.LIST}, and --list builds the same subset anywhere.", err=True)


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
      backbench data map caltech101 openimages > map.csv
    """
    import csv
    import sys

    from backbench.data import maps, registry

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
