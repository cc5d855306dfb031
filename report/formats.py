"""The study's table on a terminal and in Markdown, LaTeX, CSV and JSON."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from backbench.report import formatting
from backbench.report.latex import latex
from backbench.report.table import cell, footnotes, lay_out, records

if TYPE_CHECKING:
    import pandas as pd

NAME_WIDTH = 22
"""Number of characters for the backbone's name in a narrow terminal. Longer names are folded."""


GAP = 2
"""Number of spaces between the terminal table's columns."""


UNBOUNDED = 100_000
"""Width of a file or pipe, which takes every line whole."""


def write(frame: "pd.DataFrame", form: str, file: TextIO, *, notes: Sequence[str] = ()) -> None:
    """Write the tidy frame as ``terminal``, ``md`` or ``latex``, or in full precision as ``csv`` or ``json``.

    ``notes`` come below the table's own, in the forms for people.
    """
    if form == "terminal":
        terminal(frame, file, notes=notes)
    elif form == "md":
        file.write(markdown(frame, notes=notes))
    elif form == "latex":
        file.write(latex(frame, notes=notes))
    elif form == "csv":
        file.write(frame.to_csv(index=False, lineterminator="\n"))
    else:
        file.write(json.dumps(records(frame), indent=2, allow_nan=False) + "\n")


def markdown(frame: "pd.DataFrame", *, notes: Sequence[str] = ()) -> str:
    """Return a Markdown table and its footnotes. Markup in names is escaped."""
    datasets, lines = lay_out(frame)
    head = ["Backbone", "Method"]
    for dataset in datasets:
        head += [
            f"{formatting.escaped(dataset.name)} (n {dataset.n_test}) top-1 %",
            "balanced %",
            "val %",
            "extract + probe s",
        ]
        head += ["published val %", "published s"] if dataset.published else []
    table = [head, ["---", "---", *["---:"] * (len(head) - 2)]]
    for model, method, found in lines:
        line = [formatting.escaped(model), formatting.escaped(method)]
        for dataset in datasets:
            shown = cell(found.get(dataset.name), dataset)
            line += [" ".join([shown.top1, *shown.note]), shown.balanced, shown.val]
            line.append(" + ".join(filter(None, shown.seconds)))
            line += shown.published
        table.append(line)
    below = [*footnotes(frame), *map(formatting.escaped, notes)]
    return "\n".join([*(f"| {' | '.join(line)} |" for line in table), "", *(f"- {note}" for note in below)]) + "\n"


def terminal(frame: "pd.DataFrame", file: TextIO, *, notes: Sequence[str] = ()) -> None:
    """Print the table with as many data sets side by side as fit the terminal's width, or all into a file or pipe."""
    from rich.console import Console

    console = Console(file=file, markup=False, highlight=False)
    if not file.isatty():
        console.width = UNBOUNDED
    datasets, lines = lay_out(frame)
    taken = NAME_WIDTH + max(len(method) for _, method, _ in [*lines, ("", "method", {})]) + GAP
    groups, left = [], 0
    for dataset in datasets:
        columns = _columns(dataset, lines)
        need = sum(GAP + max(len(part) for entry in column for part in entry.split("\n")) for column in columns)
        console.width = max(console.width, taken + need)  # a narrower terminal breaks the lines
        if not groups or need > left:
            groups.append([])
            left = console.width - taken
        groups[-1].append(dataset)
        left -= need
    for group in groups:
        console.print(_rich_table(group, lines))
        console.print()
    for note in [*footnotes(frame), *notes]:
        console.print(note)


def _rich_table(datasets, lines):
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, GAP, 0, 0))
    table.add_column("backbone", overflow="fold")
    table.add_column("method", no_wrap=True)
    here = [line for line in lines if any(dataset.name in line[2] for dataset in datasets)]
    columns = [column for dataset in datasets for column in _columns(dataset, here)]
    for head, *_ in columns:
        table.add_column(Text(head), justify="right", no_wrap=True)
    for i, (model, method, _) in enumerate(here, start=1):
        table.add_row(Text(model), Text(method), *(Text(column[i]) for column in columns))
    return table


def _columns(dataset, lines) -> list[list[str]]:
    """Return a data set's columns in the terminal. Each has a title and then cells of two or three lines."""
    cells = [cell(found.get(dataset.name), dataset) for _, _, found in lines]
    columns = [
        [f"{dataset.name}\ntop-1 %\nbalanced %", *("\n".join([c.top1, c.balanced, *c.note]) for c in cells)],
        [f"n {dataset.n_test}\nextract s\nprobe s\nval %", *("\n".join([*c.seconds, c.val]) for c in cells)],
    ]
    if dataset.published:
        columns.append(["published\nval %\ns", *("\n".join(c.published) for c in cells)])
    return columns
