"""``backbench``, the command over all, and the old spellings that it and the rooms still take."""

import importlib

import pytest
from click.testing import CliRunner

from backbench import cli, rows
from backbench.finetune import cli as finetune
from backbench.generalize import cli as generalize
from backbench.probe import cli as probe
from backbench.report import cli as report


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_room_is_a_command(name):
    assert cli.main.get_command(None, name) is importlib.import_module(f"backbench.{name}.cli").main
    assert cli.COMMANDS[name] in CliRunner().invoke(cli.main, ["--help"], terminal_width=200).output


def test_the_version_is_told():
    assert CliRunner().invoke(cli.main, ["--version"]).output.startswith("backbench, version 0.1.0")


def test_generalize_is_finetunes_too():
    assert finetune.main.get_command(None, "generalize") is generalize.main


@pytest.mark.parametrize(
    ("command", "old", "new", "value"),
    [
        (generalize.main, ["--shift", "blur"], "corruptions", ("blur",)),
        (generalize.main, ["--shift=jpeg"], "corruptions", ("jpeg",)),
        (report.main.get_command(None, "elsewhere"), ["--shifts"], "corruptions", True),
        (probe.main, ["--method", "sgd"], "methods", ("published",)),
    ],
)
def test_old_spellings_are_taken_but_not_shown(command, old, new, value):
    context = command.make_context("x", list(old), resilient_parsing=False)
    assert context.params[new] == value
    shown = CliRunner().invoke(command, ["--help"]).output
    assert old[0].split("=")[0] not in shown.split() or old[0] == "--method"
    assert "sgd" not in shown


def test_old_rows_are_read_in_todays_words():
    old = {"method": "sgd", "shift": "blur", "robustness": 0.1, "top1_mapped_low": 0.5, "drop_apart": 0.2, "top1": 0.9}
    assert rows.today(old) == {
        "method": "published", "corruption": "blur", "effective_robustness": 0.1, "top1_mapped_classes_low": 0.5,
        "paired_drop_difference": 0.2, "top1": 0.9,
    }  # fmt: skip
    assert rows.today(rows.today(old)) == rows.today(old)
