import shlex

import pytest

from backbench.report import study, summary
from tests.study import HOSTILE
from tests.test_backbench_details import save
from tests.test_report_compare import head, said
from tests.test_report_study import folder
from tests.test_report_table import row

QUESTIONS = ("Which backbone", "Does the answer hold", "What does fine-tuning", "How much accuracy is left")


def test_without_rows_each_says_what_to_run(tmp_path):
    found = summary.answers(study.load(tmp_path))
    assert [one["question"].startswith(start) for one, start in zip(found, QUESTIONS, strict=True)] == [True] * 4
    assert all(one["run"] and not one["answer"] and not one["evidence"] for one in found)
    assert found[0]["run"] == ["extract --model study --dataset caltech256", "probe --features cache"]


def test_which_backbone_worked_by_hand(tmp_path):
    # Of 40 images good has 39 right, near 37: not to be told apart. poor has 21, see test_report_compare.
    for model, wrong in {"good": [0], "near": [1, 2, 3], "poor": range(1, 20)}.items():
        save(tmp_path, head(model, said(*wrong)), val_top1=0.5, n_test=40, top1_low=0.8, top1_high=1.0)
    found = summary.which(study.load(tmp_path))
    assert found["answer"] == [
        "On d: good (logistic): 97.5 [80.0, 100.0] % of 40 test images are right; it was chosen on val. "
        "On these images it is not distinguishable from near."
    ]
    assert found["evidence"][0] == {"text": "good (logistic): 97.5 [80.0, 100.0] % top-1 on d", "rows": [0]}
    assert "40 test images" in found["sure"][0]
    assert "McNemar" in found["sure"][1]


def test_high_and_low_resolution_need_both(tmp_path):
    read = folder(
        tmp_path,
        *(row(name, "caltech256", top, val_top1=top) for name, top in zip("abcd", (0.9, 0.8, 0.7, 0.6), strict=True)),
    )
    assert summary.resolution(read)["run"] == ["extract --model study --dataset cifar100", "probe --features cache"]
    for name, top in zip("abcd", (0.5, 0.6, 0.3, 0.2), strict=True):
        read = folder(tmp_path, row(name, "cifar100", top, val_top1=top))
    found = summary.resolution(read)
    # One pair of six in the other order: tau = (5 - 1) / 6; of the 24 orders 4 have one or none, two-sided 8 / 24.
    assert found["answer"] == [
        "Of the 4 backbones measured on both caltech256 and cifar100, a is chosen on val of the first, and b on val of "
        "the second.",
        "The two orders don't agree significantly: Kendall's tau 0.67.",
    ]
    assert "Kendall's tau over 4 backbones, p = 0.333." in found["sure"]
    assert found["run"] == []


def test_fine_tuning_is_paired_with_its_probe(study):
    from backbench.report.study import load

    found = summary.fine_tuning(load(study["results"]))
    assert any("fine-tuning good (full) changes its probe's top-1 by" in sentence for sentence in found["answer"])
    (scratch,) = [one for one in found["answer"] if "from scratch, fair (small)" in one]
    assert "; good (logistic): 100.0 " in scratch  # which val chose of the others
    assert "2.5 points ahead, which is not significant" in scratch
    assert any(note.startswith("fair: McNemar's p") for note in found["sure"])
    assert any(note.startswith("good: McNemar's p") for note in found["sure"])


def test_elsewhere_and_commands_are_one_word_a_name(study):
    from backbench.report.study import load

    read = load(study["results"])
    assert summary.other_data_sets(read)["answer"] == [
        "good (logistic) has 90.0 % on here and 60.0 [50.0, 70.0] % on there <b>."
    ]
    commands = [command for one in summary.answers(read) for command in one["run"]]
    assert any(shlex.split(command)[2] == f"poor {HOSTILE}" for command in commands if command.startswith("extract"))


@pytest.mark.parametrize("pairs", [[(1, 2)], [(1, 2), (2, 1), (3, 3)]])
def test_few_backbones_show_no_agreement(pairs):
    assert summary._agreement(pairs)[0] == []
