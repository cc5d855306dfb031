import csv

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backbench import rows
from backbench.report import study
from tests.test_report_table import STUDY, row


def folder(path, *found):
    for one in found:
        rows.append(path, one)
    return study.load(path)


def test_heads_and_backbones_are_chosen_on_val_and_never_the_published_one(tmp_path):
    read = folder(
        tmp_path,
        row("a", "d", 0.9, val_top1=0.5),
        row("a", "d", 0.7, method="knn", val_top1=0.8),
        row("a", "d", 0.99, method="published", val_top1=0.99),
        row("a", "d", 0.99, method="ridge", val_top1=0.99, shots=5),
        row("b", "d", 0.8, method="ridge", val_top1=0.6),
        row("b", "d", 0.75, val_top1=0.6),
    )
    assert [(name, r["method"], r["top1"]) for name, r in read.best("d").items()] == [
        ("a", "knn", 0.7),  # lower on test than b
        ("b", "logistic", 0.75),  # on val as good as ridge: logistic counts
    ]
    assert read.best("d", stages=("finetune",)) == {}


def test_records_say_which_rows_they_come_from_and_what_the_backbone_costs(tmp_path):
    features = {"input_scale": 255.0, "seconds": 1.0, "transform": {"input_size": [3, 224, 224]}}
    read = folder(tmp_path, row("resnet50", "cifar100", 0.5, features=features), *STUDY)
    by_name = {r["named"]: r for r in read.records}
    assert read.datasets == ["caltech256", "cifar100", "digits"]
    assert sorted(by_name["a|b<i>\n"]["rows"]) == [5, 6]
    wrong = by_name["resnet50 (input x255)"]
    assert (wrong["rows"], wrong["parameters"], wrong["macs"]) == ([0], 23_508_032, 4_087_136_256)
    assert by_name["mynet"]["macs"] is None
    assert read.where(read.rows[3]) == 3


def test_rows_of_another_target_are_not_the_studys(tmp_path):
    read = folder(tmp_path, row("a", "d", 0.9), row("a", "e", 0.3, target="e", source_top1=0.9))
    assert read.datasets == ["d"]
    assert [r["target"] for r in read.generalization_rows] == ["e"]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12))
def test_nothing_on_the_front_is_beaten_and_all_else_is(points):
    front = study.pareto(points)
    for i, (cost, good) in enumerate(points):
        beaten = any(c <= cost and g >= good and (c, g) != (cost, good) for c, g in points)
        assert (points[i] in [points[j] for j in front]) == (not beaten)
    assert [points[i][0] for i in front] == sorted({points[i][0] for i in front})


def test_the_costs_on_file_are_those_that_the_benchmark_counts():
    costs = pytest.importorskip("benchmarks.costs")
    with study.COSTS.open(newline="") as file:
        lines = {line["model"]: line for line in csv.DictReader(file)}
    for name in ("mobilenetv2_100", "resnet18"):
        assert {key: str(value) for key, value in costs.cost(name).items()} == lines[name]
    # resnet50 as its paper has it, 3.8 billion, and 0.3 more for the later stride: 4.09 (torchvision's own count).
    assert round(int(lines["resnet50"]["macs"]) / 1e9, 2) == 4.09
