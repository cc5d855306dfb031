"""``probe``: fit heads on stored features, in seconds, as often as you like."""

import json

import click

from backbench import UserError, columns, options

EPILOG = """\b
Examples:
  probe --features cache/caltech256/resnet50.h5
  probe --features cache --method logistic --method knn
  probe --features 'cache/*/resnet*.h5' --json > resnets.json
"""


@click.command(cls=options.Command, epilog=EPILOG)
@click.option("--features", multiple=True, help="Feature file, folder or glob. Repeat.  [default: --cache-dir]")
@click.option(
    "--method",
    "methods",
    type=click.Choice(["logistic", "knn"]),
    multiple=True,
    default=["logistic"],
    show_default=True,
    help="Repeat for several.",
)
@options.cache_dir
@options.results_dir
@options.out("Write the table, or with --json the JSON, to this file.")
@options.seed
@options.as_json
def main(features, methods, cache_dir, results_dir, out, seed, as_json):
    """Fit a head on the features of frozen backbones: chosen on val, refit on train+val, tested once.

    Needs no GPU, no timm and no images: copy the .h5 to any machine. Prints test accuracies with their 95 % intervals
    and adds a row for each to the results.
    """
    from probe import run

    found, faults = run.probe_all(features or [cache_dir], methods, seed=seed, results_dir=results_dir)
    text = json.dumps(found, indent=2) if as_json else table(found)
    if out:
        with faults.collect():
            try:
                out.parent.mkdir(parents=True, exist_ok=True)
                out.write_text(text + "\n")
            except OSError as error:
                raise UserError(f"{out} can't be written: {error.strerror}. Name another file with --out.") from error
    elif found or as_json:
        click.echo(text)
    faults.stop()


def table(rows: list[dict]) -> str:
    """The rows for people, in percent; a head that has not converged is marked."""
    lines = [("dataset", "model", "method", "top-1 %", "top-5 %", "balanced %", "val %", "train %", "chosen", "s")]
    for row in rows:
        mark = "" if row["converged"] else " (not converged)"
        lines.append(
            (
                row["dataset"],
                row["model"],
                row["method"] + mark,
                *(
                    f"{100 * row[name]:.1f} [{100 * row[f'{name}_low']:.1f}, {100 * row[f'{name}_high']:.1f}]"
                    for name in ("top1", "top5", "balanced")
                ),
                f"{100 * row['val_top1']:.1f}",
                f"{100 * row['train_top1']:.1f}",
                row["chosen"],
                f"{row['seconds']:.1f}",
            )
        )
    return columns(lines)
