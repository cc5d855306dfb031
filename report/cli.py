"""``report``: from result rows to tables, paired tests, single heads, figures and the page."""

import contextlib
import functools
import io
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import click

from backbench import UsageError, UserError, options
from backbench.progress import resting, step
from backbench.report.options import output_options, page_options, table_options

ENDINGS = {".md": "md", ".csv": "csv", ".json": "json", ".tex": "latex"}
"""The format that each ending of ``--out`` stands for."""

MOST_BYTES = 15_000_000
"""Bytes above which ``report page`` advises a smaller page."""


@click.group(cls=options.Group, renamed={"elsewhere": "generalization"}, invoke_without_command=True)
@table_options
@click.pass_context
def main(ctx, **given):
    """Show the results: accuracy with its interval, seconds, and the published figures beside them.

    Without a subcommand this prints `report table`.

    \b
    Examples:
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
@table_options
def table(form: str | None, everything: bool, as_json: bool, out: Path | None, results_dir: Path):
    """Print the study's table, with one line for each backbone and columns for each data set.

    \b
    Example:
      report table --format csv --out table.csv
    """
    form = _form(form, as_json, out)
    from backbench.report import audits, formats, use
    from backbench.report import table as tables

    found = _rows(results_dir, needed=not everything)
    frame = tables.tidy(found, everything=everything)
    notes = audits.sentences(audits.newest(found))
    _show(lambda file: formats.write(frame, form, file, notes=notes), out)
    use.tell_after(form, use.of_table, found, results_dir)


@main.command()
@click.option(
    "--dataset", "datasets", multiple=True, help="A data set to compare on. Repeat for several.  [default: all]"
)
@output_options
def compare(datasets: tuple[str, ...], form: str | None, as_json: bool, out: Path | None, results_dir: Path):
    """Test each backbone against the one that was chosen on val, on the same test images.

    Each comparison gives McNemar's exact test and the paired difference with its 95 % interval.

    \b
    Examples:
      report compare --dataset caltech256
      report compare --format md --out compare.md
    """
    form = _form(form, as_json, out)
    from backbench.report import compare as comparisons
    from backbench.report import use

    found = _rows(results_dir)
    records = comparisons.compare(found, results_dir, datasets=datasets)
    _show(lambda file: comparisons.write(records, form, file), out)
    use.tell_after(form, use.of_comparison, records, found, results_dir)


@main.command(renamed={"--shifts": "--corruptions"})
@click.option("--corruptions", is_flag=True, help="Show the results on corrupted images instead of other data sets.")
@output_options
def generalization(corruptions: bool, form: str | None, as_json: bool, out: Path | None, results_dir: Path):
    """Show accuracy on other data sets or corrupted images: drops with intervals, effective robustness, calibration.

    \b
    Examples:
      report generalization
      report generalization --format csv --out elsewhere.csv
    """
    form = _form(form, as_json, out)
    from backbench import rows
    from backbench.report import generalization as others

    read = rows.read(results_dir)
    found = others.records(read, results_dir, corruptions=corruptions)
    if not found:
        raise others.nothing(
            results_dir, corruptions=corruptions, other=bool(others.newest(read, corruptions=not corruptions))
        )
    _show(lambda file: others.write(found, form, file), out)


@main.command()
@click.argument("model")
@click.option("--dataset", help="The data set, needed where the model was probed on several.")
@click.option("--method", help="The method as the table names it.  [default: the one chosen on val]")
@options.results_dir
@options.as_json
def details(model: str, dataset: str | None, method: str | None, results_dir: Path, as_json: bool):
    """Show one backbone in detail: worst classes, confusions, calibration, learning curve.

    \b
    Examples:
      report details mobilenetv2_100 --dataset digits
      report details mobilenetv2_100 --dataset digits --method knn --json
    """
    from backbench.report import inspect_head

    found = _rows(results_dir)
    looked = inspect_head.look(inspect_head.choose(found, model, dataset=dataset, method=method), results_dir)
    _show(lambda file: inspect_head.write(looked, file, as_json=as_json))


@main.command()
@click.argument("a", type=options.PATH)
@click.argument("b", type=options.PATH)
@functools.partial(output_options, results=False)
def diff(a: Path, b: Path, form: str | None, as_json: bool, out: Path | None):
    """Compare two results folders: which heads changed, by how much, and whether the change is more than chance.

    \b
    Examples:
      report diff results-old results
      report diff results-old results --json
    """
    form = _form(form, as_json, out)
    from backbench.report import diff as differences

    records = differences.diff(a, b)
    _show(lambda file: differences.write(records, form, file), out)


@main.command()
@click.argument("files", nargs=-1, required=True, type=options.PATH)
@click.option("--check", is_flag=True, help="Write nothing, and exit with 1 if a table is stale.")
def embed(files: tuple[Path, ...], check: bool):
    """Renew the tables in Markdown files.

    Each table stands between two comments. The first holds the command that prints it: `report table`, `compare` or
    `diff`, with its options.

    \b
      <!-- report table --format md --> ... <!-- end -->

    \b
    Examples:
      report embed README.md
      report embed README.md docs/published-table.md --check
    """
    from backbench.report import embed as embedding

    found = {path: embedding.stale(path, _printed, write=not check) for path in files}
    for path, commands in found.items():
        for command in commands:
            click.echo(f"{path}: {'stale' if check else 'renewed'}: {command}", err=True)
    if check and any(found.values()):
        raise UserError(f"Some tables are stale. Renew them: report embed {shlex.join(map(str, files))}")


@main.command()
@click.option("--out", type=options.PATH, default=Path("figures"), show_default=True, help="The folder to write to.")
@click.option(
    "--format",
    "forms",
    multiple=True,
    type=click.Choice(["png", "svg", "csv"]),
    help="A file format. Repeat for several.  [default: all three]",
)
@options.results_dir
def figures(out: Path, forms: tuple[str, ...], results_dir: Path):
    """Write the page's charts as PNG, SVG and CSV, for a paper.

    \b
    Examples:
      report figures --out figures
      report figures --out figures --format svg
    """
    from backbench.report import figures as drawings
    from backbench.report import study

    written = drawings.write(study.load(results_dir), out, forms or drawings.FORMATS)
    click.echo(f"Wrote {len(written)} files in {out}", err=True)


@main.command()
@click.option("--out", type=options.PATH, default=Path("report.html"), show_default=True, help="The file to write.")
@page_options
def page(out: Path, **settings):
    """Write the study as one HTML file that loads nothing else: answers, table, charts, images, origins.

    The page shows feature maps where it finds the feature files (--cache-dir), and images where it finds the data
    sets (--data-root).

    \b
    Examples:
      report page
      report page --out study.html --data-root data/raw
    """
    html = _build(**settings)
    _show(lambda file: file.write(html), out)
    if (size := out.stat().st_size) > MOST_BYTES:
        click.echo(f"The page takes {size / 1e6:.1f} MB. A smaller --pictures makes it smaller.", err=True)


@main.command()
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="The port to listen on; 0 takes a free one.",
)
@page_options
def serve(port: int, results_dir: Path, **settings):
    """Serve the page to this machine only, and renew it while a study runs. Ctrl-C ends it.

    \b
    Examples:
      report serve
      report serve --port 8123 --pictures 0
    """
    from backbench.report.serve import Server

    with Server(results_dir, lambda: _build(served=True, results_dir=results_dir, **settings), port=port) as server:
        click.echo(f"{server.url} shows {results_dir}. Ctrl-C ends it.", err=True)
        with resting():
            server.serve_forever()


def _build(*, results_dir: Path, pictures: int, served: bool = False, **settings) -> str:
    from backbench.report import head_panels, study
    from backbench.report import page as pages

    with step(f"making the page of {results_dir}"):
        found = study.load(results_dir)
        return pages.build(found, head_panels.gather(found, per_set=pictures, **settings), served=served)


def _printed(words: list[str]) -> str:
    """What a command of this module prints."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        main.main(words, prog_name="report", standalone_mode=False)
    return text.getvalue()


def _form(form: str | None, as_json: bool, out: Path | None) -> str:
    if as_json and form:
        raise UsageError("--json is a format of its own. Give --json or --format, not both.")
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


def _rows(results_dir: Path, *, needed: bool = True) -> list[dict]:
    """Return all rows. Raises UserError that says what to run, where an accuracy is ``needed`` and there is none."""
    from backbench import rows
    from backbench.report import use

    found = rows.read(results_dir)
    if needed and not any("top1" in row for row in found):
        raise UserError(use.nothing_yet(results_dir, extracted=bool(found)))
    return found
