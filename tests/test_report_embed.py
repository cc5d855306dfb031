import shlex

import pytest
from click.testing import CliRunner

from backbench import rows
from backbench.report import cli
from tests.conftest import ROOT
from tests.test_report_table import STUDY, STUDY_MD


def run(*arguments):
    return CliRunner().invoke(cli.main, ["embed", *map(str, arguments)])


@pytest.fixture
def page(tmp_path):
    for row in STUDY:
        rows.append(tmp_path / "my results", row)
    command = f"report table --results-dir {shlex.quote(str(tmp_path / 'my results'))} --format md"
    path = tmp_path / "page.md"
    path.write_text(f"Before.\n\n<!-- {command} -->\nold\n<!-- end -->\nAfter: <!-- not ours -->\n")
    return path, command


def test_a_stale_table_is_told_then_renewed_then_fresh(page):
    path, command = page
    told = run(path, "--check")
    assert told.exit_code == 1
    assert f"stale: {command}" in told.stderr
    assert "old" in path.read_text()
    assert f"renewed: {command}" in run(path).stderr
    assert path.read_text() == f"Before.\n\n<!-- {command} -->\n\n{STUDY_MD}\n<!-- end -->\nAfter: <!-- not ours -->\n"
    assert run(path, "--check").exit_code == 0


def test_only_tables_are_run_and_nothing_else_is_written(page, tmp_path):
    path, _ = page
    path.write_text("<!-- report serve -->\n<!-- end -->\n")
    assert "holds no table" in run(path).stderr
    path.write_text(f"<!-- report table --out {tmp_path}/taken -->\n<!-- end -->\n")
    assert "leave out --out" in run(path).stderr
    assert not (tmp_path / "taken").exists()
    assert "can't be read" in run(tmp_path / "none.md").stderr
    path.write_text("<!-- report table --frmat md -->\n<!-- end -->\n")
    assert run(path).exit_code == 2


def test_the_tables_of_this_repository_are_fresh(monkeypatch):
    monkeypatch.chdir(ROOT)
    done = run("README.md", "docs/published-table.md", "--check")
    assert done.exit_code == 0, done.stderr
