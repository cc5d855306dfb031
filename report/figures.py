"""The page's charts as PNG, SVG and CSV files for a paper."""

import csv
from pathlib import Path

from backbench import UserError
from backbench.report import charts
from backbench.report.study import Study

FORMATS = ("png", "svg", "csv")

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#8c6bb1", "#999933")
"""Colours that people with any kind of colour vision can distinguish: Okabe & Ito (2008), Color universal design, and
two more."""

MARKERS = "osD^Px*h"

MOST = 14
"""Largest number of points whose names are drawn beside them."""


def write(study: Study, folder: Path, formats=FORMATS) -> list[Path]:
    """Draw every chart for which there are rows, write its points as CSV, and return the paths of the files.

    Raises UserError where there is nothing to draw, matplotlib is missing or the folder can't be written.
    """
    made = charts.charts(study)
    if not made:
        raise UserError(f"{study.results_dir} holds nothing to draw yet. Run: probe --features cache")
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for chart in made:
            for form in formats:
                path = folder / f"{chart['id']}.{form}"
                (_csv if form == "csv" else _draw)(chart, path)
                written.append(path)
    except OSError as error:
        raise UserError(f"{folder} can't be written: {error.strerror}. Name another folder with --out.") from error
    return written


def _csv(chart: dict, path: Path) -> None:
    records = charts.tidy(chart)
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        lines = csv.DictWriter(file, list(records[0]), lineterminator="\n")
        lines.writeheader()
        lines.writerows(records)


def _draw(chart: dict, path: Path) -> None:
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("report figures needs matplotlib: pip install matplotlib") from None
    # SVG keeps text as text, names aren't parsed as formulas, and the same chart gives the same bytes.
    with rc_context({"svg.fonttype": "none", "text.parse_math": False, "svg.hashsalt": "backbench", "font.size": 9}):
        ticks = chart.get("ticks")
        figure = Figure(figsize=(6.4, 1.4 + 0.32 * len(ticks) if ticks else 4.0), layout="constrained")
        axes = figure.subplots()
        for i, series in enumerate(chart["series"]):
            _series(axes, chart, series, i)
        axes.grid(alpha=0.3)
        axes.set_title(chart["title"], fontsize=10)
        if ticks:
            axes.set_yticks(range(len(ticks)), ticks)
            axes.invert_yaxis()
            axes.set_xlabel(chart["y"])
        else:
            axes.set(xlabel=chart["x"], ylabel=chart["y"])
            if chart["log"]:
                _log(axes, chart)
            if chart.get("probit"):
                _probit(axes, chart)
        if len(chart["series"]) > 1 and chart["kind"] != "cost":
            figure.legend(loc="outside lower center", ncols=2, fontsize=7)
        figure.savefig(path, dpi=200, metadata={"Date": None} if path.suffix == ".svg" else None)


def _log(axes, chart: dict) -> None:
    """Set a logarithmic x axis with plain numbers: 1, 2, 5, 10 over less than three decades, else powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    ends = [point["x"] for series in chart["series"] for point in series["points"] if point["x"] > 0]
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(ends) < 1000 * min(ends) else (1,), numticks=12))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _probit(axes, chart: dict) -> None:
    """Set both axes to normal quantiles of shares, with ticks in percent."""
    import numpy as np
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
    from scipy.special import ndtr, ndtri

    def there(percent):
        return ndtri(np.clip(np.asarray(percent, float) / 100, 5e-4, 1 - 5e-4))

    for axis, name, ends in ((axes.xaxis, "x", axes.set_xlim), (axes.yaxis, "y", axes.set_ylim)):
        keys = (name, "x_low", "x_high") if name == "x" else (name, "low", "high")
        found = [point.get(key) for series in chart["series"] for point in series["points"] for key in keys]
        found = [value for value in found if value is not None]
        low, high = there(min(found)) - 0.15, there(max(found)) + 0.15
        (axes.set_xscale if name == "x" else axes.set_yscale)("function", functions=(there, lambda z: 100 * ndtr(z)))
        ends(100 * ndtr(low), 100 * ndtr(high))
        axis.set_major_locator(FixedLocator(charts.probit_ticks(100 * ndtr(low), 100 * ndtr(high))))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(NullLocator())


def _series(axes, chart: dict, series: dict, i: int) -> None:
    points = series["points"]
    style = {"color": PALETTE[i % len(PALETTE)], "marker": MARKERS[i % len(MARKERS)], "markersize": 4, "linewidth": 1}
    style["linestyle"] = "none" if series["mode"] == "markers" else "--" if i >= len(PALETTE) else "-"
    if series["mode"] == "lines":
        style |= {"marker": None, "linestyle": ":"}
    x, y = ([point[axis] for point in points] for axis in "xy")
    errors = {"yerr": _ends(points, "y", ""), "xerr": _ends(points, "x", "x_")}
    if chart.get("ticks"):
        shift = (i - (len(chart["series"]) - 1) / 2) * 0.7 / max(len(chart["series"]), 3)
        x, y = y, [place + shift for place in x]
        errors = {"xerr": errors["yerr"]}
    axes.errorbar(x, y, **errors, label=series["name"], elinewidth=0.7, capsize=1.5, **style)
    if chart.get("named") and series["mode"] == "markers" and len(points) <= MOST:
        for point in points:
            axes.annotate(
                point["label"], (point["x"], point["y"]), xytext=(4, 4), textcoords="offset points", fontsize=7
            )


def _ends(points: list[dict], at: str, name: str):
    """Return the distances to the ends of the intervals, as matplotlib takes them, or None without intervals."""
    if any(point.get(f"{name}low") is None for point in points):
        return None
    low, high = ([abs(point[f"{name}{end}"] - point[at]) for point in points] for end in ("low", "high"))
    return [low, high]
