"""The charts of a study in one neutral form. The page draws it by plotly; ``report figures`` by matplotlib and as CSV.

A chart is a dict with ``id``, ``kind``, ``dataset`` (or None), ``title``, ``caption``, the axis labels ``x`` and ``y``,
``log`` (whether the x axis is logarithmic), and ``series``. A series has ``name``, ``mode`` (markers, lines,
lines+markers) and ``points``. A point has ``x``, ``y``, ``label``, the ends ``low`` and ``high`` of y's interval where
known, ``x_low`` and ``x_high``, and ``rows``, the places of the rows it comes from. Accuracies are in percent. Charts
without points are left out; ``NOTHING`` names the command that would fill them.
"""

from collections import Counter
from itertools import combinations

from backbench.report import choice, generalization, names
from backbench.report.formatting import printable
from backbench.report.study import Study, pareto

KINDS = {
    "cost": "Accuracy against cost",
    "methods": "Probes, fine-tuning and CNN side by side",
    "sets": "Two data sets against each other",
    "published": "Published and measured accuracy",
    "path": "Regularisation paths",
    "curve": "Learning curves",
    "elsewhere": "Accuracy on other data sets",
    "corruption": "Accuracy on corrupted images",
}

NOTHING = {
    "cost": "probe --features cache",
    "methods": "probe --features cache --method logistic --method ridge --method knn",
    "sets": "extract --model study --dataset caltech256 --dataset cifar100",
    "published": "extract --model study --dataset caltech256 --dataset cifar100",
    "path": "probe --features cache --method logistic",
    "curve": "probe --features cache --curve 0.03,0.1,0.3,1",
    "elsewhere": "finetune generalize --dataset openimages",
    "corruption": "finetune generalize --corruption resolution --corruption blur",
}
"""The command that makes the rows for each kind of chart."""

COSTS = {
    "extract_seconds": "extraction, seconds",
    "parameters": "parameters, millions",
    "macs": "multiply-adds per image, billions",
}

UNITS = {"extract_seconds": 1, "parameters": 1e6, "macs": 1e9}

TOP1 = "top-1 on test, %"


def charts(study: Study) -> list[dict]:
    """Return all charts for which there are rows, in the order of ``KINDS``."""
    made = [chart for dataset in study.datasets for chart in _of_dataset(study, dataset)]
    made += [_sets(study, *pair) for pair in combinations(study.datasets, 2)]
    made += _other_data_sets(study) + _corruptions(study)
    found, times = [], Counter()
    for chart in (one for one in made if any(series["points"] for series in one["series"])):
        times[name := _id(chart)] += 1  # two data sets may give the same id
        found.append(chart | {"id": f"{name}-{times[name]}" if times[name] > 1 else name})
    return sorted(found, key=lambda chart: list(KINDS).index(chart["kind"]))


def _of_dataset(study: Study, dataset: str) -> list[dict]:
    of_costs = [_cost(study, dataset, cost) for cost in COSTS]
    return [*of_costs, *(make(study, dataset) for make in (_methods, _published, _path, _curve))]


def _id(chart: dict) -> str:
    parts = [chart["kind"], *chart.get("by", ()), chart["dataset"] or ""]
    return "-".join("".join(c if c.isalnum() and c.isascii() else "-" for c in str(part)) for part in parts).strip("-")


def _chart(kind, dataset, *, x, y=TOP1, title, caption, series, log=False, by=(), **more) -> dict:
    shown = printable(dataset) if dataset else None
    texts = {
        "title": printable(title),
        "caption": caption,
        "x": x,
        "y": y,
        "log": log,
        "by": [printable(part) for part in by],
    }
    return {"kind": kind, "dataset": shown, **texts, "series": [one for one in series if one["points"]], **more}


def _series(name: str, points: list[dict], mode: str = "markers") -> dict:
    return {"name": printable(name), "mode": mode, "points": points}


def _point(record: dict, x, **more) -> dict:
    """Return a point at ``x``, with top-1 in percent and its interval as y."""
    ends = {end: _percent(record.get(f"top1_{end}")) for end in ("low", "high")}
    label = printable(record.get("named") or record["model"])
    return {"x": x, "y": _percent(record["top1"]), **ends, "label": label, "rows": record.get("rows", []), **more}


def _percent(value):
    return None if value is None else round(100 * value, 4)


def _cost(study: Study, dataset: str, cost: str) -> dict:
    best = study.best(dataset)
    costed = [record for record in best.values() if record[cost]]
    points = [_point(record, round(record[cost] / UNITS[cost], 4)) for record in costed]
    scratch = [record for record in study.best(dataset, stages=("cnn",)).values() if record[cost]]
    front = pareto([(point["x"], point["y"]) for point in points])
    series = [
        _series("Pareto front", [points[i] | {"low": None, "high": None} for i in front], "lines"),
        _series("backbones", points),
        _series("trained from scratch", [_point(record, round(record[cost] / UNITS[cost], 4)) for record in scratch]),
    ]
    caption = (
        "Each backbone with its head chosen on val, with 95 % intervals. No backbone is both cheaper and more accurate "
        "on test than one on the Pareto front."
    )
    return _chart(
        "cost", dataset, x=COSTS[cost], title=f"{dataset}: accuracy against {COSTS[cost].split(',')[0]}",
        caption=caption, series=series, log=True, by=[cost], named=True,
    )  # fmt: skip


def _methods(study: Study, dataset: str) -> dict:
    mine = [r for r in study.records if r["dataset"] == dataset and r["shots"] is None and r["top1"] is not None]
    order = {name: i for i, name in enumerate(dict.fromkeys(r["named"] for r in sorted(mine, key=choice.order)))}
    methods = dict.fromkeys(
        _method(record) for record in sorted(mine, key=lambda r: (r["stage"] != "probe", r["method"]))
    )
    series = [
        _series(name, [_point(record, order[record["named"]]) for record in mine if _method(record) == name])
        for name in methods
    ]
    caption = (
        "All heads on the same test images, with 95 % intervals, in the order of val. The table's groups are the "
        "paired tests."
    )
    title = f"{dataset}: probes, fine-tuning and CNN side by side"
    ticks = [printable(name) for name in order]
    return _chart("methods", dataset, x="", title=title, caption=caption, series=series, ticks=ticks)


def _method(record: dict) -> str:
    own = record["stage"] == "probe" or record["method"].startswith(record["stage"])
    return record["method"] if own else f"{record['stage']} {record['method']}"


def _sets(study: Study, a: str, b: str) -> dict:
    first, second = study.best(a), study.best(b)
    points = [
        _point(second[name], _percent(one["top1"]))
        | {"x_low": _percent(one["top1_low"]), "x_high": _percent(one["top1_high"])}
        | {"rows": [*one["rows"], *second[name]["rows"]]}
        for name, one in first.items()
        if name in second
    ]
    caption = (
        "Each backbone with its head chosen on each data set's val. Backbones accurate on both lie at the top right."
    )
    return _chart(
        "sets", None, x=f"{printable(a)}: {TOP1}", y=f"{printable(b)}: {TOP1}", title=f"{a} against {b}",
        caption=caption, series=[_series("backbones", points)], by=(a, b), named=True,
    )  # fmt: skip


def _published(study: Study, dataset: str) -> dict:
    known = [r for r in study.best(dataset).values() if r["published_val_top1"] is not None]
    points = [_point(record, _percent(record["published_val_top1"])) for record in known]
    caption = "Accuracy with correct preprocessing and a converged head, against the published one of the same weights."
    return _chart(
        "published", dataset, x="published, val top-1, %", title=f"{dataset}: published and measured accuracy",
        caption=caption, series=[_series("backbones", points)], named=True,
    )  # fmt: skip


def _path(study: Study, dataset: str) -> dict:
    series = []
    for (name, backbone, method), row in sorted(study.heads.items()):
        tried = (row["protocol"] or {}).get("C_tried")
        if name == dataset and names.plain(method) == "logistic" and isinstance(tried, list):
            backbone += method.removeprefix("logistic")
            at = [study.where(row)]
            points = [
                {"x": one["C"], "y": _percent(one["val_top1"]), "label": printable(backbone), "rows": at}
                for one in tried
                if isinstance(one, dict) and {"C", "val_top1"} <= one.keys()
            ]
            series.append(_series(backbone, points, "lines+markers"))
    caption = "Top-1 on val for each C that was tried, from strong to weak regularisation. Test has no part in this."
    return _chart(
        "path", dataset, x="C (right: weaker regularisation)", y="top-1 on val, %",
        title=f"{dataset}: regularisation paths", caption=caption, series=series, log=True,
    )  # fmt: skip


def _curve(study: Study, dataset: str) -> dict:
    by_head: dict[str, list] = {}
    for key, row in sorted(study.heads.items(), key=lambda item: (item[0][2] != "logistic", item[0][1:])):
        if key[0] == dataset and (content := study.details(key)) and content["curve"]:
            at = [study.where(row)]
            by_head[f"{key[1]}, {key[2]}"] = [
                _point(point | {"model": key[1], "rows": at}, point["n_train"]) for point in content["curve"]
            ]
    for record in study.records:
        if record["dataset"] == dataset and record["shots"] is not None and record["n_train"]:
            name = f"{record['named']}, {record['method'].split(',')[0]}, few shots"
            by_head.setdefault(name, []).append(_point(record, record["n_train"]))
    series = [
        _series(name, sorted(points, key=lambda point: point["x"]), "lines+markers") for name, points in by_head.items()
    ]
    caption = "Top-1 on test for heads fitted on parts of train. Few-shot points are means over the random draws."
    title = f"{dataset}: learning curves"
    return _chart("curve", dataset, x="training images", title=title, caption=caption, series=series, log=True)


def _other_data_sets(study: Study) -> list[dict]:
    by_pair: dict[tuple, list[dict]] = {}
    for row in generalization.newest(study.rows):
        by_pair.setdefault(generalization.pair(row), []).append(row)
    return [_on_target(study, *key, some) for key, some in by_pair.items()]


def _on_target(study: Study, source: str, target: str, some: list[dict]) -> dict:
    by_method: dict[str, list] = {}
    for row in some:
        ends = {f"x_{end}": _percent(row.get(f"source_top1_{end}")) for end in ("low", "high")}
        point = _point(row | {"rows": [study.where(row)]}, _percent(row["source_top1"]), **ends)
        by_method.setdefault(row["method"], []).append(point)
    series = [_series(name, points) for name, points in by_method.items()]
    if laid := generalization.line(some):
        shares = sorted(row["source_top1"] for row in some)
        ends = [max(shares[0] - 0.02, 0.01), *shares, min(shares[-1] + 0.005, 0.999)]
        along = [
            {
                "x": _percent(share),
                "y": _percent(generalization.predicted_top1(share, laid)),
                "label": "line through all heads",
                "rows": [],
            }
            for share in ends
        ]
        series.append(_series("line through all heads", along, "lines"))
    caption = (
        "Accuracy on the target against accuracy on the source's own test images of the same classes, on probit axes. "
        "Heads above the line have effective robustness: more accuracy than their accuracy on the source predicts."
    )
    return _chart(
        "elsewhere", None, x=f"{printable(source)}: {TOP1}", y=f"{printable(target)}: top-1, %",
        title=f"{source} to {target}", caption=caption, by=(source, target), named=True, probit=True, series=series,
    )  # fmt: skip


def probit_ticks(low: float, high: float) -> list[float]:
    """Return tick values in percent for a probit axis: about eight evenly spaced ones, and more close to 0 and 100."""
    step = next((step for step in (1, 2, 5, 10) if high - low <= 8 * step), 20)
    found = {*range(step, 100, step), *((1, 2, 5, 95, 98, 99) if step > 2 else ())}
    return [tick for tick in sorted(found) if low <= tick <= high]


def _corruptions(study: Study) -> list[dict]:
    """Return a chart for each source and corruption. Except for resolution, clean images have strength 0."""
    by_kind: dict[tuple, dict] = {}
    for row in generalization.newest(study.rows, corruptions=True):
        kind, at = str(row["corruption"]), {"rows": [study.where(row)]}
        x = row.get("level") if kind == "resolution" else row.get("strength")
        if not isinstance(x, int | float):
            continue
        points = by_kind.setdefault((generalization.pair(row)[0], kind), {}).setdefault(
            f"{row['model']}, {row['method']}", {} if kind == "resolution" else {0: _clean(row, at)}
        )
        points[x] = _point(row | at, x)
    caption = "Top-1 on the source's own test images, corrupted on purpose."
    return [
        _chart(
            "corruption", None, title=f"{source}: {kind}", caption=caption, by=(source, kind), log=kind == "resolution",
            x="pixels left on the shorter side" if kind == "resolution" else "strength (0: clean)",
            series=[
                _series(name, [points[x] for x in sorted(points)], "lines+markers") for name, points in found.items()
            ],
        )
        for (source, kind), found in by_kind.items()
    ]  # fmt: skip


def _clean(row: dict, at: dict) -> dict:
    return _point(row | at | {f"top1{end}": row.get(f"source_top1{end}") for end in ("", "_low", "_high")}, 0)


def tidy(chart: dict) -> list[dict]:
    """Return a chart's points as flat records."""
    fields = ("label", "x", "y", "low", "high", "x_low", "x_high")
    return [
        {"chart": chart["id"], "dataset": chart["dataset"] or "", "series": series["name"]}
        | {name: point.get(name) for name in fields}
        for series in chart["series"]
        for point in series["points"]
    ]
