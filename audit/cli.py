"""``backbench audit``: duplicates, leaks between splits and wrong labels, and whether the ranking holds."""

import json
from dataclasses import asdict
from pathlib import Path

import click

from backbench import columns, options, printable

NAMED = 10
"""Number of pairs of overlapping classes that are named."""


@click.command(cls=options.Command)
@click.option(
    "--features",
    multiple=True,
    required=True,
    help="Feature file, folder or glob, all of one data set. Repeat for several backbones, which then vote.",
)
@click.option(
    "--dataset",
    help="The images that the features were made from, such as folder:PATH. Registered data sets are found by name.",
)
@click.option("--no-images", is_flag=True, help="Judges by features alone, and reads no image.")
@click.option(
    "--refit",
    is_flag=True,
    help="Also fits the logistic head of each file again without the copies in train and val.",
)
@click.option(
    "--out",
    type=options.PATH,
    default=Path("audit.csv"),
    show_default=True,
    help="Writes the findings to this file. Decisions that it holds are kept.",
)
@click.option("--page", type=options.PATH, help="Writes the page to decide on.  [default: beside --out, as .html]")
@options.data_root
@options.results_dir
@options.seed
@options.as_json
def main(features, dataset, no_images, refit, out, page, data_root, results_dir, seed, as_json) -> None:
    """Find duplicates, leaks, wrong labels and outliers in the images that features were made from.

    It takes feature files, and the images where they are still there, since pixels decide what is a duplicate. It says
    what the findings do to the ranking of the heads in --results-dir, without fitting any. The findings are written as
    a CSV and as a page to decide on each by a key. Then probe --exclude and --relabel take the CSV.

    \b
    Examples:
      backbench audit --features cache/digits
      backbench audit --features cache/folder-photos --dataset folder:photos --out photos.csv
      probe --features cache/folder-photos --exclude photos.csv --relabel photos.csv
    """
    from backbench import details, findings
    from backbench.audit import answer, refitted, run
    from backbench.audit import page as pages

    found, images = run.audit(features, dataset=dataset, data_root=data_root, look=not no_images, seed=seed)
    lines = run.decided(found.findings, out)
    findings.write(out, lines)
    page = page or out.with_suffix(".html")
    pages.write(
        page,
        lines,
        found.about,
        images.image if images else None,
        title=found.identity["dataset"],
        csv_name=out.name,
    )
    records = answer.answers(
        results_dir,
        test_ids=found.test_ids,
        dataset_digest=found.identity["dataset_digest"],
        leaks=found.leaked,
        mislabelled=found.mislabelled,
    )
    row = run.row_of(found, answer.verdict(records), csv=out, seed=seed)
    details.keep(results_dir, row, None)
    again = []
    if refit:
        tested = set(found.test_ids)
        again = refitted.compare(features, lines, tested=tested, results_dir=results_dir, seed=seed)
    if as_json:
        told = {
            "row": row,
            "overlapping_classes": found.overlaps,
            "shortcuts": [asdict(one) for one in found.shortcuts],
            "heads": records,
            "refitted": again,
        }
        click.echo(json.dumps(told, indent=2))
    else:
        click.echo(_summary(found, lines))
        click.echo(answer.table(records))
        if again:
            click.echo(refitted.table(again))
    click.echo(f"Wrote {out} and {page}. Decide there, save the CSV, and use it:", err=True)
    click.echo(f"  probe --features {features[0]} --exclude {out} --relabel {out}", err=True)


def _summary(found, lines) -> str:
    """Return the counts for people, and what else was noticed."""
    figures = found.figures
    told = {
        "images": "n_images",
        "equal pairs": "n_exact",
        "nearly equal pairs": "n_near",
        "  test images with a copy in train or val": "n_leaks",
        "  pairs in one split and class": "n_redundant",
        "  pairs of two classes": "n_contradictions",
        "suspected labels": "n_label_suspects",
        "  of test images": "n_label_suspects_test",
        "outliers, far from every class": "n_outliers",
    }
    counts = [(what, f"{figures[name]:,}") for what, name in told.items()]
    counts.append(("decided so far", f"{sum(bool(line.decision) for line in lines):,}"))
    text = [columns(counts, left=1)]
    if figures["expected_wrong"] is not None:
        text.append(f"About {figures['expected_wrong']:,.0f} labels are expected to be wrong in all.")
    pairs = [f"{printable(i)} and {printable(j)} ({share:.0%})" for i, j, share in found.overlaps[:NAMED]]
    if pairs:
        more = f", and {len(found.overlaps) - NAMED:,} more pairs" if len(found.overlaps) > NAMED else ""
        text.append(f"These classes overlap: {', '.join(pairs)}{more}. Their labels may be neither right nor wrong.")
    text += [
        f"The {one.property} of an image alone tells its class with a balanced accuracy of {one.balanced:.0%}, where "
        f"chance has {one.chance:.0%}: a head may follow it, and fail on other images."
        for one in found.shortcuts
    ]
    return "\n".join(text)
