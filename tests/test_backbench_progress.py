"""What a person at work is told: nothing is silent for long, nothing is said twice, and --help loads nothing."""

import json
import signal
import subprocess
import sys
import threading
import time

import pytest
from click.testing import CliRunner

from backbench import options, progress
from backbench.cli import COMMANDS
from tests.conftest import ROOT

HEAVY = ("torch", "timm", "pandas", "sklearn", "scipy", "h5py", "PIL", "rich", "logging", "importlib.metadata")
"""Modules that --help has no need of. With them it takes seconds, without them a tenth of one."""


@pytest.fixture
def quick(monkeypatch):
    """Silence counts as long after some hundredths of a second."""
    monkeypatch.setattr(progress, "EVERY", 0.03)
    monkeypatch.setattr(progress, "SOON", 0.01)
    monkeypatch.setattr(progress, "WATCHED_EVERY", 0.005)


def until(said, capsys, lines: int) -> list[str]:
    """What stderr holds once it has so many lines."""
    text = ""
    while text.count("\n") < lines:
        time.sleep(0.005)
        text += capsys.readouterr().err
    said.extend(text.splitlines())
    return said


def test_a_long_step_is_named_again_and_again(quick, capsys):
    said = []
    with progress.watched(), progress.step("listing photos"):
        until(said, capsys, 3)
    assert said[0] == "Now listing photos."
    assert said[-1].startswith(("Now listing photos.", "Still listing photos, after "))


def test_a_step_that_usually_takes_long_says_so_at_once(capsys):
    with progress.step("loading torch", usually="2 to 10 s"):
        pass
    assert capsys.readouterr().err == "Loading torch, which usually takes 2 to 10 s.\n"
    with progress.loading("sys", "time"):  # they are there
        pass
    assert capsys.readouterr().err == ""


def test_of_two_steps_the_inner_one_is_named(quick, capsys):
    said = []
    with progress.watched(), progress.step("outer work"):
        with progress.step("inner work"):
            until(said, capsys, 1)
        assert "inner work" in said[0]
        said.clear()
        capsys.readouterr()
        assert "outer work" in until(said, capsys, 1)[-1]


def test_work_without_a_name_is_not_silent_either(quick, capsys):
    with progress.watched():
        assert until([], capsys, 1)[0] == "Still at work, after 0 s."


def test_a_batch_that_takes_long_repeats_the_line_of_the_progress(quick, capsys):
    with progress.watched(), progress.progress(8, "photos resnet50") as advance:
        advance(2)
        assert until([], capsys, 2)[-1].startswith("photos resnet50  2/8 images  ")


def test_nothing_is_said_where_silence_is_expected(quick, capsys, monkeypatch):
    with progress.watched(), progress.step("serving"), progress.resting():
        time.sleep(0.1)
    with progress.watched(), progress.silenced(), progress.step("loading torch", usually="2 to 10 s"):
        pass
    monkeypatch.setattr(progress, "_hushed", True)
    with progress.watched(), progress.step("work of a worker", usually="long"):
        time.sleep(0.1)
    assert capsys.readouterr().err == ""


def test_of_several_processes_that_train_together_only_the_first_speaks(quick, capsys, monkeypatch):
    monkeypatch.setattr(progress, "_hushed", False)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with progress.watched(), progress.step("loading torch", usually="2 to 10 s"):
        time.sleep(0.05)
    assert capsys.readouterr().err == ""


def test_a_group_and_its_command_are_watched_once_and_no_longer_than_they_run(quick):
    @options.Group("outer").command(cls=options.Command)
    def inner():
        seen.append([one for one in threading.enumerate() if one is progress._watcher])

    seen, outer = [], options.Group("outer", commands={"inner": inner})
    assert CliRunner().invoke(outer, ["inner"]).exit_code == 0
    assert len(seen[0]) == 1
    assert progress._watcher is None


HELD = """
import os, signal, time
from backbench import progress
from backbench.signals import held_back
arrived, held = [], True
signal.signal(signal.SIGTERM, lambda *_: arrived.append(held))
with progress.watched():
    time.sleep(0.1)  # the thread has begun
    with held_back(signal.SIGTERM):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)
        held = False
print(arrived)
"""


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="Windows has no signal masks")
def test_what_a_command_holds_back_waits_while_it_is_watched():
    """In a process of its own, which has no other threads."""
    assert subprocess.run([sys.executable, "-c", HELD], capture_output=True, check=True).stdout == b"[False]\n"


@pytest.mark.parametrize("room", COMMANDS)
def test_help_loads_nothing_that_it_does_not_need(room):
    code = (
        f"import sys\nfrom backbench.{room}.cli import main\n"
        f"main(['--help'], standalone_mode=False)\nprint(*({{*{HEAVY!r}}} & sys.modules.keys()), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: ")
    assert done.stderr.strip() == ""


def test_the_first_lines_of_a_long_command_come_before_torch_and_the_rows_alone_on_stdout(tmp_path):
    """What was printed so far is looked at when torch begins to be imported."""
    code = f"""
import builtins, io, sys
from backbench.extract.cli import main
said, find = io.StringIO(), builtins.__import__
def imported(name, *more, **how):
    if name == "torch" and "torch" not in sys.modules and not before:
        before.append(sys.stderr.getvalue())
    return find(name, *more, **how)
before, builtins.__import__, real, sys.stderr = [], imported, sys.stderr, said
main(["--model", "test_resnet", "--weights", "random", "--dataset", "digits", "--compile", "off", "--json",
      "--cache-dir", {str(tmp_path)!r}, "--results-dir", {str(tmp_path)!r}], standalone_mode=False)
print(before[0], file=real)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    before = done.stderr.strip().splitlines()
    assert any(line.startswith("digits: 10 classes") for line in before)
    assert before[-1] == "Loading torch and timm, which usually takes 2 to 10 s."
    assert json.loads(done.stdout)[0]["n"] == 1797
