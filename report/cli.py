"""``report``: the study's table from result rows, in the terminal, as Markdown, CSV or JSON."""

import shlex
import sys
from pathlib import Path

import click

from backbench import UsageError, UserError, options

ENDINGS = {".md": "md", ".csv": "csv", ".json": "json"}
"""What --out's ending says of the format."""


def _table_options(command):
    for option in (
        options.results_dir,
        options.out("Write it to this file instead of stdout."),
        options.as_json,
        click.option("--all", "everything", is_flag=True, help="Also the published backbones that have no rows here."),
        click.option(
            "--format",
            "form",
            type=click.Choice(["terminal", "md", "csv"]),
            help="How to write it.  [default: what --out ends in, else terminal]",
        ),
    ):
        command = option(command)
    return command


@click.group(cls=options.Group, invoke_without_command=True)
@_table_options
@click.pass_context
def main(ctx, **given):
    """Show what was measured: accuracy with its interval and seconds, the published figures beside them.

    \b
    Alone it is `report table`. To paste:
      report
      report --format md --out table.md
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
    if as_json and form:
        raise UsageError("--json is a format of its own: give it or --format, not both.")
    from report import rows
    from report import table as tables

    found = rows.read(results_dir)
    if not everything and not any("top1" in row for row in found):
        raise UserError(_nothing_yet(results_dir, extracted=bool(found)))
    frame = tables.tidy(found, everything=everything)
    form = "json" if as_json else form or ENDINGS.get(out.suffix.lower() if out else "", "terminal")
    if out is None:
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="replace")  # a terminal that has no † shows ?
        tables.write(frame, form, sys.stdout)
        return
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("w", encoding="utf-8", newline="") as file:
            tables.write(frame, form, file)
    except OSError as error:
        raise UserError(f"{out} can't be written: {error.strerror}. Name another file with --out.") from error
    click.echo(f"Wrote {out}", err=True)


def _nothing_yet(results_dir: Path, *, extracted: bool) -> str:
    where = "" if results_dir == Path("results") else f" --results-dir {shlex.quote(str(results_dir))}"
    commands = [] if extracted else [f"extract --model mobilenetv2_100 --dataset digits{where}"]
    commands.append(f"probe --features cache{where}")
    return "\n  ".join([f"{results_dir} holds no accuracies yet. Run, for example:", *commands])
