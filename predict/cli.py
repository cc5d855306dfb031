"""``backbench predict``: the classes of new images."""

import sys
from pathlib import Path

import click

from backbench import UsageError, UserError, options


@click.command(cls=options.Command)
@click.argument("places", metavar="HEAD_OR_RUN... IMAGES...", nargs=-1)
@click.option("--top", type=click.IntRange(1), default=5, show_default=True, help="Number of classes for each image.")
@click.option(
    "--sets",
    "level",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Adds a prediction set to each image, which holds the true class with this probability, such as 0.95.",
)
@click.option(
    "--set-kind",
    "kind",
    type=click.Choice(["lac", "raps"]),
    default="lac",
    show_default=True,
    help="lac gives the smallest sets on average, raps larger ones where an image is hard.",
)
@click.option(
    "--unknown",
    "rate",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Calls an image none of these where no more than this share of known images is as strange, such as 0.05.",
)
@click.option(
    "--combine",
    type=click.Choice(["mean", "vote"]),
    default="mean",
    show_default=True,
    help="How several heads answer together: by the mean of their probabilities, or by their votes.",
)
@click.option(
    "--weights",
    type=options.PATH,
    help="The file of weights of your own that the head stands on, or the run of a fine-tuned backbone.",
)
@options.trust
@click.option("--contact-sheet", type=options.PATH, help="Writes an HTML page of the images by class to this file.")
@click.option("--copy-to", type=options.PATH, help="Copies the images into class folders in this folder.")
@options.out("Writes CSV to this file, or JSON where its name ends in .json.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV on stdout instead of a table.")
@options.data_root
@options.cache_dir
@options.device
@options.as_json
def main(places, level, rate, weights, trust, contact_sheet, copy_to, out, as_csv, as_json, data_root, device, **how):
    """Classify images by a probe head or by the checkpoint of a run, or by several heads together.

    A head is a folder that probe --save made, and a run is one of finetune or cnn. IMAGES are folders, files, patterns,
    or - for paths from standard input. wds:PATH and hf:PATH stand alone. The command finds backbone, weights and
    preprocessing by itself. It keeps features, so that a stopped command goes on and the same images are not seen
    twice.

    \b
    Examples:
      backbench predict heads/digits/mobilenetv2_100-logistic new-images
      backbench predict runs/photos/resnet50-simple-lp-ft-42 'inbox/*.jpg' --out classes.csv
      backbench predict heads/photos/resnet50-logistic new-images --sets 0.95 --unknown 0.05
      backbench predict heads/photos/* new-images --combine vote --contact-sheet sheet.html
      find . -name '*.png' | backbench predict heads/photos/resnet50-logistic - --csv
    """
    from backbench.predict import ask

    if as_csv and as_json:
        raise UsageError("--csv and --json exclude each other.")
    if copy_to:
        from backbench.predict import copies

        copies.check(copy_to, places[1:])
    found, imageset, models = ask.ask(
        places, weights=weights, trust=trust, level=level, rate=rate, data_root=data_root, device=device,
        lines=sys.stdin, **how,
    )  # fmt: skip
    from backbench.predict import output

    if out:
        _write(out, output.as_json(found) if out.suffix.lower() == ".json" else output.as_csv(found))
    if as_json or as_csv:
        click.echo(output.as_json(found) if as_json else output.as_csv(found))
    elif not out:
        click.echo(output.table(found))
        if len(found.ids) > output.LINES:
            more = len(found.ids) - output.LINES
            click.echo(f"{more:,} more images are not shown: --out FILE.csv has all of them.", err=True)
    for line in output.summary(found):
        click.echo(line, err=True)
    place = {id: i for i, id in enumerate(imageset.ids)}
    if contact_sheet:
        from backbench.predict import contact_sheet as sheets

        folders = [str(model.folder) for model in models]
        title = f"Classes of {', '.join(places[len(models) :])}"
        sheets.write(contact_sheet, found, lambda id: imageset.read(place[id]), title=title, heads=folders)
        click.echo(f"Wrote {contact_sheet}", err=True)
    if copy_to:
        lines = copies.copy_to(copy_to, found, lambda id: imageset.encoded(place[id]) or imageset.read(place[id]))
        for line in lines:
            click.echo(line, err=True)


def _write(out: Path, text: str) -> None:
    from backbench.files import write_whole

    try:
        write_whole(out, (text + "\n").encode())
    except OSError as error:
        raise UserError(f"{out} can't be written: {error.strerror}. Name another file with --out.") from error
    click.echo(f"Wrote {out}", err=True)
