import csv
import io
import json

import pytest
from click.testing import CliRunner

from backbench import rows
from backbench.report import cli
from tests.test_backbench_details import save
from tests.test_report_compare import head, said
from tests.test_report_table import row


def run(*arguments):
    return CliRunner().invoke(cli.main, ["diff", *map(str, arguments)])


@pytest.fixture
def two(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    for folder, wrong in ((a, range(1, 20)), (b, [0])):
        save(folder, head("moved", said(*wrong)))
        save(folder, head("same", said(3)))
        save(folder, head("near", said(*([1, 2] if folder == a else [1]))))
    rows.append(a, row("gone", "d", 0.5))
    rows.append(b, row("come", "d", 0.5))
    for folder, top1 in ((a, 0.5), (b, 0.7)):
        rows.append(folder, row("untold", "d", top1, features={"input_scale": 1.0, "precision": f"{top1}"}))
    return a, b


def test_what_changed_worked_by_hand(two):
    found = json.loads(run(*two, "--json").stdout)
    shown = {one["model"]: one for one in found}
    assert [one["model"] for one in found][:3] == ["moved", "untold", "near"]
    # Alone right: b on 1 to 19, a on 0. p = 2 (1 + 20) / 2^20.
    assert shown["moved"]["difference"] == pytest.approx(18 / 40)
    assert shown["moved"]["p"] == pytest.approx(42 / 2**20)
    assert (shown["near"]["p"], shown["near"]["verdict"]) == (1.0, "not distinguishable")
    assert {name: one["verdict"] for name, one in shown.items()} == {
        "moved": "different", "untold": "no paired test", "near": "not distinguishable", "same": "same predictions",
        "gone": "only in A", "come": "only in B",
    }  # fmt: skip
    assert shown["untold"]["changed"] == ["precision"]
    assert (shown["gone"]["b"], shown["come"]["a"]) == (None, None)


def test_people_and_spreadsheets_get_the_same(two):
    lines = run(*two).stdout.splitlines()
    assert lines[0].split()[:5] == ["data", "set", "backbone", "method", "A"]
    assert "+45.0 [+" in lines[1]
    assert "<0.001" in lines[1]
    assert run(*two, "--format", "md").stdout.startswith("| data set | backbone | method | A top-1 % |")
    tidied = list(csv.DictReader(io.StringIO(run(*two, "--format", "csv").stdout)))
    assert {one["model"] for one in tidied} == {"moved", "untold", "near", "same", "gone", "come"}


def test_the_same_thing_is_compared_whatever_it_is_called_and_nothing_is_lost(tmp_path):
    """In b another class weight stands beside it, so that both are called otherwise than in a."""
    a, b = tmp_path / "a", tmp_path / "b"
    plain, coarse = ({"features": {"input_scale": 1.0, "precision": name}} for name in ("float32", "bfloat16"))
    rows.append(a, row("net", "d", 0.5, **plain))
    rows.append(b, row("net", "d", 0.6, **coarse))
    rows.append(b, row("net", "d", 0.7, **plain))
    found = json.loads(run(a, b, "--json").stdout)
    assert [(one["model"], one["a"], one["b"]) for one in found] == [
        ("net", 0.5, 0.7), ("net (precision bfloat16)", None, 0.6),
    ]  # fmt: skip


def test_an_empty_folder_is_said(two, tmp_path):
    done = run(two[0], tmp_path / "none")
    assert done.exit_code == 1
    assert "holds no accuracies" in done.stderr
