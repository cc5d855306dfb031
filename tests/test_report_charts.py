import json

import pytest

from backbench.report import charts, study
from tests.study import HOSTILE
from tests.test_report_study import folder
from tests.test_report_table import row


@pytest.fixture(scope="module")
def made(study_read):
    return {chart["id"]: chart for chart in charts.charts(study_read)}


@pytest.fixture(scope="module")
def study_read(study):
    from backbench.report.study import load

    return load(study["results"])


def costed(model, top1, seconds):
    return row(model, "d", top1, val_top1=top1, features={"input_scale": 1.0, "seconds": seconds})


def test_cost_has_every_backbone_and_the_front_by_hand(tmp_path):
    read = folder(tmp_path, costed("slow", 0.9, 30.0), costed("quick", 0.8, 10.0), costed("beaten", 0.7, 20.0))
    (chart,) = [c for c in charts.charts(read) if c["id"] == "cost-extract-seconds-d"]
    front, backbones = chart["series"]
    assert [(p["label"], p["x"], p["y"]) for p in front["points"]] == [("quick", 10.0, 80.0), ("slow", 30.0, 90.0)]
    assert [(p["y"], p["low"], p["high"], p["rows"]) for p in backbones["points"]] == [
        (90.0, 88.0, 91.0, [0]),
        (80.0, 78.0, 81.0, [1]),
        (70.0, 68.0, 71.0, [2]),
    ]


def test_a_whole_study_fills_every_kind_but_published(made, study_read):
    assert {chart["kind"] for chart in made.values()} == charts.KINDS.keys() - {"published", "cost"}
    stages = next(c for i, c in made.items() if i.startswith("methods-folder"))
    assert [s["name"] for s in stages["series"]] == ["centroid", "logistic", "finetune full", "cnn small"]
    path = next(c for i, c in made.items() if i.startswith("path-folder"))
    tried = next(row for row in study_read.rows if row["method"] == "logistic")["protocol"]["C_tried"]
    good = next(series for series in path["series"] if series["name"] == "good")
    assert [p["x"] for p in good["points"]] == [one["C"] for one in tried]
    curve = next(c for i, c in made.items() if i.startswith("curve-folder"))
    assert all(len(series["points"]) == 2 for series in curve["series"])
    elsewhere = made["elsewhere-here-there--b"]
    assert [(p["x"], p["y"]) for p in elsewhere["series"][0]["points"]] == [(90.0, 60.0)]


def test_ids_are_names_of_files_and_points_say_where_they_come_from(made, study_read):
    assert all(c.isalnum() or c == "-" for name in made for c in name)
    rows = [i for chart in made.values() for s in chart["series"] for p in s["points"] for i in p["rows"]]
    assert rows
    assert max(rows) < len(study_read.rows)
    assert f"poor {HOSTILE}" in json.dumps(list(made.values()))  # as it is: who draws it must show it as text


def test_published_stands_beside_ours(tmp_path):
    read = folder(tmp_path, row("vit_base", "cifar100", 0.8), row("mynet", "cifar100", 0.9))
    (chart,) = [c for c in charts.charts(read) if c["kind"] == "published"]
    assert [(p["label"], p["x"], p["y"]) for p in chart["series"][0]["points"]] == [("vit_base", 18.77, 80.0)]


def test_two_data_sets_never_share_a_file(tmp_path):
    read = folder(tmp_path, *(row("net", name, 0.8) for name in ("a b", "a-b", "a.b")))
    made = [chart["id"] for chart in charts.charts(read)]
    assert len(set(made)) == len(made)
    assert {"methods-a-b", "methods-a-b-2", "methods-a-b-3"} <= set(made)


def test_tidy_is_a_record_a_point(made):
    chart = next(iter(made.values()))
    records = charts.tidy(chart)
    assert len(records) == sum(len(series["points"]) for series in chart["series"])
    assert {len(record) for record in records} == {10}


def test_without_rows_there_is_none(tmp_path):
    assert charts.charts(study.load(tmp_path)) == []
    assert charts.KINDS.keys() == charts.NOTHING.keys()
