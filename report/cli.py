"""``report``: tables, paired tests and single heads from result rows: terminal, Markdown, CSV or JSON."""

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import click

from backbench import UsageError, UserError, options

ENDINGS = {".md": "md", ".csv": "csv", ".json": "json"}
"""What --out's ending says of the format."""


def _output_options(command):
    for option in (
        options.results_dir,
        options.out("Write it to this file instead of stdout."),
        options.as_json,
        click.option(
            "--format",
            "form",
            type=click.Choice(["terminal", "md", "csv"]),
            help="How to write it.  [default: what --out ends in, else terminal]",
        ),
    ):
        command = option(command)
    return command


def _table_options(command):
    everything = click.option(
        "--all", "everything", is_flag=True, help="Also the published backbones that have no rows here."
    )
    return everything(_output_options(command))


@click.group(cls=options.Group, invoke_without_command=True)
@_table_options
@click.pass_context
def main(ctx, **given):
    """Show what was measured: accuracy with its interval and seconds, the published figures beside them.

    \b
    Alone it is `report table`. To paste:
      report
      report --format md --out table.md
      report compare
    """
    if ctx.invoked_subcommand is None:
        inner = click.Context(table, parent=ctx, info_name="table")
        inner.params = given
        table.invoke(inner)
    elif any(ctx.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE for name in given):
        raise click.UsageError(f"Put the options after {ctx.invoked_subcommand!r}.")


@main.command()
@_table_options
def table(form: str | None, everything: bool, as_json: bool, out: Path | None, results_dir: Path):
    """Print the study's table: backbones down, data sets across.

    \b
    To paste:
      report table --format csv --out table.csv
    """
    form = _form(form, as_json, out)
    from report import rows
    from report import table as tables

    found = rows.read(results_dir)
    if not everything and not any("top1" in row for row in found):
        raise UserError(_nothing_yet(results_dir, extracted=bool(found)))
    frame = tables.tidy(found, everything=everything)
    _show(lambda file: tables.write(frame, form, file), out)


@main.command()
@click.option("--dataset", "datasets", multiple=True, help="Repeat for several.  [default: all]")
@_output_options
def compare(datasets: tuple[str, ...], form: str | None, as_json: bool, out: Path | None, results_dir: Path):
    """Test each backbone against the best, on the same test images.

    McNemar's exact test and the paired difference with its 95 % interval.

    \b
    To paste:
      report compare --dataset caltech256
      report compare --format md --out compare.md
    """
    form = _form(form, as_json, out)
    from report import compare as comparisons
    from report import rows

    found = rows.read(results_dir)
    if not any("top1" in row for row in found):
        raise UserError(_nothing_yet(results_dir, extracted=bool(found)))
    records = comparisons.compare(found, results_dir, datasets=datasets)
    _show(lambda file: comparisons.write(records, form, file), out)


@main.command()
@click.argument("model")
@click.option("--dataset", help="Needed where the model was probed on several.")
@click.option("--method", help="As the table names it.  [default: the one with the best top-1]")
@options.results_dir
@options.as_json
def details(model: str, dataset: str | None, method: str | None, results_dir: Path, as_json: bool):
    """Look at one backbone closely: worst classes, confusions, calibration, learning curve.

    \b
    To paste:
      report details mobilenetv2_100 --dataset digits
      report details mobilenetv2_100 --dataset digits --method knn --json
    """
    from report import closeup, rows

    found = rows.read(results_dir)
    if not any("top1" in row for row in found):
        raise UserError(_nothing_yet(results_dir, extracted=bool(found)))
    looked = closeup.look(closeup.choose(found, model, dataset=dataset, method=method), results_dir)
    _show(lambda file: closeup.write(looked, file, as_json=as_json))


def _form(form: str | None, as_json: bool, out: Path | None) -> str:
    if as_json and form:
        raise UsageError("--json is a format of its own: give it or --format, not both.")
    return "json" if as_json else form or ENDINGS.get(out.suffix.lower() if out else "", "terminal")


def _show(write: Callable[[TextIO], None], out: Path | None = None) -> None:
    """Let ``write`` write to the file ``out``, or to stdout."""
    if out is None:
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="replace")  # a terminal that has no † shows ?
        write(sys.stdout)
        return
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            write(file)
    except OSError as error:
        raise UserError(f"{out} can't be written: {error.strerror}. Name another file with --out.") from error
    click.echo(f"Wrote {out}", err=True)


def _nothing_yet(results_dir: Path, *, extracted: bool) -> str:
    where = "" if results_dir == Path("results") else f" --results-dir {shlex.quote(str(results_dir))}"
    commands = [] if extracted else [f"extract --model mobilenetv2_100 --dataset digits{where}"]
    commands.append(f"probe --features cache{where}")
    return "\n  ".join([f"{results_dir} holds no accuracies yet. Run, for example:", *commands])
