import json
import os
import subprocess
import sys

import pytest

from backbench import rows
from tests.test_report_table import STUDY, STUDY_MD


def report(*arguments, **settings):
    command = [sys.executable, "-m", "backbench.report", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, **settings)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    for row in STUDY:
        rows.append(folder, row)
    return folder


def test_alone_it_prints_the_table_and_with_its_name_the_same(study):
    alone, named = report("--results-dir", study), report("table", "--results-dir", study)
    assert alone.returncode == named.returncode == 0
    assert alone.stderr == ""
    assert "80.0† [78.0, 81.0]" in alone.stdout
    assert alone.stdout == named.stdout


def test_formats_on_stdout_and_in_files(study, tmp_path):
    assert report("--results-dir", study, "--format", "md").stdout == STUDY_MD
    out = tmp_path / "new" / "table.md"
    written = report("table", "--results-dir", study, "--out", out)
    assert (written.stdout, written.stderr) == ("", f"Wrote {out}\n")
    assert out.read_text(encoding="utf-8") == STUDY_MD
    found = json.loads(report("--results-dir", study, "--json").stdout)
    assert [one["model"] for one in found] == ["resnet50", "resnet50", "mynet", "mynet", "a|b<i>\n"]
    assert report("--results-dir", study, "--format", "csv").stdout.count("\n") == 7  # a name holds a line break


def test_without_rows_it_says_what_to_run(tmp_path):
    run = report("--results-dir", tmp_path / "my results")
    assert run.returncode == 1
    assert run.stdout == ""
    assert "extract --model" in run.stderr
    assert f"probe --features cache --results-dir '{tmp_path}/my results'" in run.stderr
    rows.append(tmp_path, {key: value for key, value in STUDY[0].items() if key != "top1"})
    assert "extract --model" not in report("--results-dir", tmp_path).stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--json", "--format", "md"], 2, "not both"),
        (["--format", "pdf"], 2, "'pdf' is not one of"),
        (["--json", "table"], 2, "after 'table'"),
        (["tabel"], 2, "No such command 'tabel'"),
        (["--results-dir", __file__], 1, "can't be read"),
        (["--all", "--out", f"{__file__}/table.md"], 1, "can't be written"),
    ],
)
def test_mistakes_are_one_message_and_an_exit_code(arguments, code, message):
    run = report(*arguments)
    assert run.returncode == code
    assert message in run.stderr
    assert "Traceback" not in run.stderr


def test_a_terminal_without_unicode_still_gets_its_table(study):
    run = report("--results-dir", study, env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert run.returncode == 0
    assert "80.0? [78.0, 81.0]" in run.stdout


def test_help_has_an_example_and_is_fast():
    code = (
        "import sys, runpy; sys.argv = ['report', '--help']\ntry: runpy.run_module('report')\nexcept SystemExit: pass\n"
    )
    code += "print({'pandas', 'numpy', 'rich', 'torch'} & sys.modules.keys())"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "report --format md --out table.md" in run.stdout
    assert run.stdout.endswith("set()\n")
    assert "--format csv" in report("table", "--help").stdout
