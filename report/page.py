"""The report as one HTML file that is opened from disk and loads nothing else.

Names come from files, and files may come from strangers. The template therefore escapes them, the data is JSON that no
parser takes for markup, and the scripts set text only. A content security policy allows these scripts alone, by their
digests.
"""

import base64
import functools
import hashlib
import json
from datetime import datetime, timezone
from pathlib import Path

from backbench import UserError, __version__
from backbench.report import audits, charts, compare, formatting, generalization, summary, table
from backbench.report.formatting import printable
from backbench.report.study import Study
from backbench.rows import WRITTEN

FOLDER = Path(__file__).parent
SCRIPTS = ("page.js", "charts.js", "heads.js")

LEFT_OUT = ("C_tried", "train_loss")
"""Keys of the protocol that hold long lists. They are drawn as charts and not repeated in a row's origin."""


def build(study: Study, close: dict, *, served: bool = False) -> str:
    """Return the page of a study as HTML; ``close`` is the result of ``report.head_panels.gather``.

    A ``served`` page asks its server every other second for a newer version. Raises UserError where plotly is missing.
    """
    import jinja2
    from markupsafe import Markup

    made = charts.charts(study)
    data = {"charts": made, **_origins(study), **{name: close[name] for name in ("heads", "maps", "pictures")}}
    # "<" is escaped, since it could end the script element or begin a comment in it.
    data = json.dumps(data, allow_nan=False, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
    scripts = [_plotly(), *((FOLDER / name).read_text(encoding="utf-8") for name in SCRIPTS)]
    environment = jinja2.Environment(
        autoescape=True, loader=jinja2.FileSystemLoader(FOLDER), trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html").render(
        title=f"backbench report: {', '.join(map(printable, study.datasets)) or 'nothing yet'}",
        policy=_policy(scripts, served=served),
        served=served,
        style=Markup((FOLDER / "page.css").read_text(encoding="utf-8")),
        scripts=[Markup(script) for script in scripts],
        data=Markup(data),
        made=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        version=__version__,
        results=printable(study.results_dir),
        n_rows=len(study.rows),
        answers=summary.answers(study),
        table=_table(study),
        drops=_drops(study),
        audits=_audits(study),
        kinds=[_kind(name, title, made) for name, title in charts.KINDS.items()],
        datasets=list(map(printable, study.datasets)),
        n_heads=len(close["heads"]),
        notes=[*close["notes"], *(printable(fault) for fault in study.faults)],
        footnotes=[
            *table.footnotes(study.frame),
            "Heads that share a letter of a group are not distinguishable, in a paired test of all lines together. The "
            "head chosen on val of a data set is marked, and so are those that are not distinguishable from it.",
        ],
    )


@functools.cache
def _plotly() -> str:
    try:
        from importlib.resources import files

        return (files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8")
    except (ImportError, OSError):
        raise UserError("report page needs plotly: pip install plotly") from None


def _policy(scripts: list[str], *, served: bool) -> str:
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (  # plotly needs unsafe-eval to compile wrappers of its shaders, and it writes style sheets
        f"default-src 'none'; script-src {allowed} 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:; "
        f"base-uri 'none'; form-action 'none'; connect-src {chr(39)}{'self' if served else 'none'}{chr(39)}"
    )


def _kind(name: str, title: str, made: list[dict]) -> dict:
    here = [chart for chart in made if chart["kind"] == name]
    return {"name": name, "title": title, "charts": here, "run": charts.NOTHING[name]}


def _origins(study: Study) -> dict:
    """Return ``rows`` as the page shows them, and their ``features``, with each identity once."""
    places: dict[str, int] = {}
    known, shown = [], []
    for row in study.rows:
        identity = json.dumps(row["features"], sort_keys=True)
        if identity not in places:
            places[identity] = len(known)
            known.append(_spelled(row["features"]))
        row = row[WRITTEN]
        protocol = {k: v for k, v in (row["protocol"] or {}).items() if k not in LEFT_OUT}
        shown.append(_spelled(row | {"protocol": protocol}) | {"features": places[identity]})
    return {"rows": shown, "features": known}


def _spelled(value):
    """Return plain JSON for people, with every text printable and every number rounded to six digits."""
    if isinstance(value, dict):
        return {printable(key): _spelled(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_spelled(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}")
    return printable(value) if isinstance(value, str) else value


def _table(study: Study) -> dict:
    """Return the table's data sets and lines. A cell is a dict with ``text``, ``sort`` (or None) and ``rows``."""
    datasets, lines = table.lay_out(study.frame)
    body = []
    for model, method, found in lines:
        cells = []
        for dataset in datasets:
            cells += _cells(study, found.get(dataset.name), dataset)
        body.append({"model": model, "method": method, "cells": cells})
    return {"datasets": [(dataset, 8 if dataset.published else 6) for dataset in datasets], "lines": body}


def _cells(study: Study, record: dict | None, dataset) -> list[dict]:
    shown = table.cell(record, dataset)
    record = record or {}
    rows = record.get("rows") or []
    tested = study.tested.get(_key(record), {}) if rows else {}
    top1 = {"text": " ".join([shown.top1, *shown.note]), "sort": record.get("top1"), "rows": rows}
    cells = [
        top1 | {"best": tested.get("verdict") in (compare.CHOSEN, compare.NOT_TOLD)},
        {"text": tested.get("group", ""), "sort": tested.get("group") or None, "rows": []},
        {"text": shown.balanced, "sort": record.get("balanced"), "rows": rows},
        {"text": shown.val, "sort": record.get("val_top1"), "rows": rows},
    ]
    for name, seconds in zip(("extract_seconds", "probe_seconds"), shown.seconds or ("", ""), strict=True):
        cells.append({"text": seconds, "sort": record.get(name), "rows": rows if seconds else []})
    if dataset.published:
        for name, value in zip(table.BESIDE, shown.published, strict=True):
            cells.append({"text": value, "sort": record.get(name), "rows": []})
    return cells


def _drops(study: Study) -> dict:
    """Return the table of drops: its titles, and by source and target a title and lines of cells with their row."""
    found: dict[tuple, list] = {}
    records = generalization.records(study.rows, study.results_dir)
    for record in records:
        line = {"cells": generalization.cells(record), "row": study.where(record["row"])}
        found.setdefault((record["source"], record["target"], record["n"]), []).append(line)
    named = [
        (f"{printable(source)} to {printable(target)}" + (f", {n:,} images" if n else ""), lines)
        for (source, target, n), lines in found.items()
    ]
    return {"head": generalization.HEAD, "targets": named, "notes": generalization.notes(records)}


def _audits(study: Study) -> dict:
    """Return the table of audits: its titles, lines of cells with their row, and what they say in sentences."""
    found = audits.newest(study.rows)
    lines = [{"cells": audits.cells(name, row), "row": study.where(row)} for name, row in found.items()]
    return {"head": audits.HEAD, "lines": lines, "sentences": audits.sentences(found)}


def _key(record: dict) -> tuple:
    return record["dataset"], formatting.backbone(record["model"], record["input_scale"]), record["method"]
