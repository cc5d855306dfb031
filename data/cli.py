"""``backbench data``: list the data sets, show what is in one, and download it."""

import json
from pathlib import Path

import click

from backbench import Faults, UsageError, columns, options


@click.group(cls=options.Group)
def main():
    """Look at data sets and download them.

    \b
    Examples:
      backbench data ls
      backbench data show digits
    """


@main.command()
@options.data_root
@options.seed
@options.as_json
def ls(data_root: Path, seed: int, as_json: bool):
    """List the registered data sets: whether each is present, its classes, and its images in train, val and test.

    \b
    Example:
      backbench data ls --data-root data/raw
    """
    from backbench.data import summary

    rows = summary.overview(data_root, seed=seed)
    if as_json:
        click.echo(json.dumps({"data_root": str(data_root), "seed": seed, "sets": rows}, indent=2))
        return
    keys = ("n_classes", "n_train", "n_val", "n_test")
    lines = [("dataset", "state", "classes", "train", "val", "test")]
    for row in rows:
        lines.append((row["name"], row["state"], *(f"{row[key]:,}" if key in row else "-" for key in keys)))
    click.echo(columns(lines, left=2))
    for row in rows:
        if row["state"] == "unusable":
            click.echo(row["fault"], err=True)
    click.echo(
        "Name your own images folder:PATH, wds:PATH, hf:PATH or table:PATH. "
        "Get a missing data set: backbench data download NAME",
        err=True,
    )


@main.command()
@click.argument("name")
@options.exclude
@options.relabel
@options.data_root
@options.seed
@options.as_json
def show(name: str, exclude, relabel, data_root: Path, seed: int, as_json: bool):
    """Show a data set: its images per split and class, image sizes, colour modes, and what is missing.

    NAME is a name from `ls`, folder:PATH for a folder of images, wds:PATH for tar shards in the webdataset convention,
    hf:PATH for a Hugging Face data set on this disk, or table:PATH for a CSV, TSV or parquet file with labels. hf:
    takes parquet files or what save_to_disk wrote.

    \b
    wds:'PATH/train-{000..146}.tar'           A pattern can stand in place of a folder.
    wds:PATH?image=left.jpg                   Take the image of a sample that has this ending.
    wds:PATH?label=species                    Take the class from this member, or field of .json (default: cls, label).
    hf:PATH?image=img&label=fine_label        Take these columns, where there are several to choose from.
    folder:PATH?test=val, wds:..., hf:...     Test on val, where test is missing or has no labels.
    folder:PATH?layout=splits (or classes)    Say what the folders are, where both are possible.
    folder:PATH?group=REGEX                   Keep images of a group (first bracket, in the path) in one split.
    wds:PATH?group=patient, hf:PATH?group=... Keep images of a group, by this field or column, in one split.
    table:labels.csv?file=path&label=kind     Take these columns. Others are split=, group=, or - for none.
    table:labels.csv?folder=images            The files are in this folder, seen from the table's folder.

    \b
    Examples:
      backbench data show digits
      backbench data show 'wds:shards?label=species'
      backbench data show digits --exclude audit.csv --relabel audit.csv
    """
    from backbench import decisions
    from backbench.data import registry, summary
    from backbench.data.decided import decided

    faults, given = Faults(), None
    with faults.collect():
        registry.check(name)
    with faults.collect():
        given = decisions.read(exclude, relabel)
    faults.stop()
    details = summary.describe(decided(registry.load(name, data_root=data_root, seed=seed), given), seed=seed)
    if as_json:
        click.echo(json.dumps(details, indent=2))
        return
    lines = [("class", "train", "val", "test", "all")]
    for row in details["classes"]:
        lines.append((row["name"], *_sums(row["train"], row["val"], row["test"])))
    lines.append(("all", *_sums(details["n_train"], details["n_val"], details["n_test"])))
    click.echo(columns(lines, left=1))
    click.echo()
    for label, value in _facts(details):
        click.echo(f"{label:<14}{value}")


def _facts(details: dict):
    """Yield the lines beneath the table of classes as (label, value)."""
    from backbench.data.summary import SHORT_SIDE

    yield "data set", f"{details['name']}, {details['root'] or 'in memory'}"
    for note in details["notes"]:
        yield "note", note
    yield "digest", f"{details['digest']} (seed {details['seed']})"
    if details["width"]:
        for side in ("width", "height"):
            spread = details[side]
            yield side, f"{spread['min']:,} to {spread['max']:,} pixels, median {spread['median']:,.0f}"
        yield "small", f"{details['share_small']:.1%} of the images have a shorter side under {SHORT_SIDE} pixels"
        modes = sorted(details["modes"].items(), key=lambda item: -item[1])
        yield "colour modes", ", ".join(f"{mode} {share:.2%}" for mode, share in modes)
    short = details["missing"] or {}
    words = ", ".join(f"{n:,} {what}" for what, n in short.items() if n > 0)
    if details["missing"]:
        yield "missing", f"{words} of the full data set" if words else "nothing"
    for image in details["unreadable"]:
        yield "unreadable", f"{image['id']}: {image['reason']}"


@main.command()
@click.argument("name")
@options.data_root
def download(name: str, data_root: Path):
    """Download a data set, check its MD5 and unpack it. After a stop, the same command goes on.

    \b
    Example:
      backbench data download caltech256
    """
    from backbench.data import downloads, registry

    registry.check(name)
    click.echo(downloads.get(name, data_root))


@main.command()
@click.option(
    "--for",
    "sources",
    multiple=True,
    help="Take the classes that this data set shares with Open Images, by the class map that ships with backbench. "
    "Can be repeated.",
)
@click.option("--map", "map_file", type=options.PATH, help="Take the classes of your own class map instead.")
@click.option("--per-class", type=click.IntRange(1), help="Take at most this many images per class.  [default: 50]")
@click.option(
    "--min-area",
    type=click.FloatRange(0, 1),
    help="Require a box that takes at least this share of the image.  [default: 0.1]",
)
@click.option("--crop", is_flag=True, help="Keep only the part of each image that is inside its box.")
@click.option(
    "--split",
    "splits",
    multiple=True,
    type=click.Choice(["validation", "test", "train"]),
    help="Take images from this split of Open Images. The lists of train are gigabytes. Can be repeated.  "
    "[default: validation and test]",
)
@click.option(
    "--list",
    "list_file",
    type=options.PATH,
    help="Take exactly the images of this list, which is the images.csv of another build.",
)
@options.out("Build the subset in this folder.  [default: <data-root>/openimages]")
@click.option(
    "--jobs", type=click.IntRange(1, 32), default=8, show_default=True, help="Run this many downloads at once."
)
@click.option("--base-url", default=None, hidden=True)
@click.option("--image-url", default=None, hidden=True)
@options.data_root
@options.seed
@options.as_json
def openimages(sources, map_file, list_file, out, crop, jobs, base_url, image_url, data_root, as_json, **settings):
    """Build a subset of Open Images to test heads on.

    People have verified that each image shows one of the classes. The subset has one folder per class, and images.csv
    with ids, boxes, licences and authors. Keep that file: --list builds the same subset again. After a stop, the same
    command goes on.

    \b
    Examples:
      backbench data openimages --for caltech256 --per-class 50
      backbench data openimages --for cifar100 --crop --out data/raw/openimages-cifar100
      backbench data openimages --list images.csv
    """
    from backbench.data import openimages as official
    from backbench.data import openimages_build

    if bool(sources) + bool(map_file) + bool(list_file) != 1:
        raise UsageError("exactly one of --for, --map and --list must be given. For example: --for caltech256")
    given = {key: value for key, value in settings.items() if key != "seed" and value}
    frozen = official.frozen(sources)
    if list_file and given:
        raise UsageError("--list names every image, so it can't be combined with --per-class, --min-area and --split.")
    if frozen and not given:
        list_file = frozen
    out = out or data_root / "openimages"
    if list_file:
        wanted, per_class = {}, None
        for record in official.read_list(list_file):
            wanted.setdefault(record.class_name, []).append(record)
        made = {"list": official.digest(list_file)}
    else:
        per_class, splits = settings["per_class"] or 50, sorted(set(settings["splits"])) or ["test", "validation"]
        classes = official.wanted(sources, map_file)
        made = {"classes": sorted(classes.values()), "per_class": per_class, "splits": splits, "seed": settings["seed"]}
        made["min_area"] = 0.1 if settings["min_area"] is None else settings["min_area"]
        wanted = official.candidates(
            data_root / "openimages-files", classes, splits, per_class=per_class, min_area=made["min_area"],
            seed=settings["seed"], base=base_url or official.BASE,
        )  # fmt: skip
    listed = openimages_build.build(
        out, wanted, per_class=per_class, settings=made, crop=crop, jobs=jobs, base=image_url or official.IMAGES
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
        click.echo(f"Keep {out / openimages_build.LIST}: with --list it builds the same subset anywhere.", err=True)


@main.command("map")
@click.argument("source")
@click.argument("target")
@options.data_root
def propose(source: str, target: str, data_root: Path):
    """Propose which class of SOURCE is which class of TARGET, by their names, as CSV to correct by hand.

    Names alone mislead (a mouse may be an animal), and only the nearest is proposed. Both data sets must be present,
    except for openimages, whose classes are always known.

    \b
    Example:
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
    click.echo(
        f"{len(pairs)} pairs are proposed. {len(alone)} classes of {source} have none: {', '.join(alone[:10])}",
        err=True,
    )
    if path := maps.shipped(source, target):
        click.echo(f"backbench comes with a class map made by hand, which is the default: {path}", err=True)


def _sums(*counts: int) -> list[str]:
    return [f"{n:,}" for n in (*counts, sum(counts))]
