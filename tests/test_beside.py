"""Beside a user's own modules called as our rooms are, everything works: only ``backbench`` is our name."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT

ROOMS = (
    "data", "cache", "extract", "probe", "audit", "training", "finetune", "cnn", "predict", "export", "generalize",
    "report",
)  # fmt: skip


@pytest.fixture
def own(tmp_path):
    """A folder of a user's own, with a module or package of each name, which stops whoever imports it."""
    for i, room in enumerate(ROOMS):
        file = tmp_path / f"{room}.py" if i % 2 else tmp_path / room / "__init__.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text("raise SystemExit('the user\\'s own module was imported')\n")
    return tmp_path


def test_all_rooms_are_imported_from_the_package(own):
    code = "import backbench.cli\n" + "".join(
        f"import backbench.{room}.cli\n" for room in ROOMS if (ROOT / room / "cli.py").exists()
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=own, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("command", [["data", "ls"], ["cache", "--help"], ["probe", "--help"], ["report", "--help"]])
def test_commands_run_there(own, command):
    done = subprocess.run([sys.executable, "-m", "backbench", *command], cwd=own, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_other_name_lands_beside_other_packages(own):
    code = f"from importlib.util import find_spec; print(*filter(find_spec, {ROOMS!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=own.parent, capture_output=True, text=True)
    assert done.stdout.split() == [], "a room is importable by its bare name"
