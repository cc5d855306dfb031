"""``backbench audit`` as a user runs it: findings, page, answer and row, and then the probe without what is decided."""

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

import backbench as bb
from backbench import findings
from backbench import rows as result_rows
from backbench.audit.cli import main as audit
from backbench.probe.cli import main as probe
from tests.test_audit_run import folder  # noqa: F401  a fixture


@pytest.fixture
def ask(folder, tmp_path, monkeypatch):  # noqa: F811
    """Call the command on planted images, from a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def ask(*more, code=0, command=audit):
        how = ["--features", str(folder / "cache"), "--results-dir", "results"]
        done = CliRunner().invoke(command, [*how, *more])
        assert done.exit_code == code, done.output
        return done

    ask.images = f"folder:{folder / 'images'}"
    return ask


def test_findings_page_answer_and_row(ask, tmp_path):
    ask("--method", "centroid", "--method", "ridge", command=probe)
    done = ask("--dataset", ask.images)
    lines = findings.read(tmp_path / "audit.csv")
    assert [line.id for line in lines if line.kind == "exact duplicate"] == ["train/red/copy.png"]
    assert (tmp_path / "audit.html").read_text().count("data-i=") == len(lines)
    assert "test images with a copy in train or val    2" in done.stdout
    assert "centroid" in done.stdout
    assert "ridge" in done.stdout
    assert "probe --features" in done.stderr
    (row,) = [row for row in result_rows.read(tmp_path / "results") if row["stage"] == "audit"]
    assert row["n_leaks"] == 2
    assert row["n_heads"] == 2
    assert row["rank_holds"] in (True, False)
    assert row["protocol"]["csv"] == "audit.csv"
    ask("--dataset", ask.images)
    assert sum(row["stage"] == "audit" for row in result_rows.read(tmp_path / "results")) == 1  # the same found again


def test_what_is_decided_is_kept_and_left_out(ask, tmp_path):
    ask("--no-images", "--out", "mine.csv", "--page", "pages/mine.html")
    assert (tmp_path / "pages" / "mine.html").exists()
    lines = findings.read("mine.csv")
    decided = {"exact duplicate": "same", "label": "wrong"}
    findings.write("mine.csv", [replace(line, decision=decided.get(line.kind, "")) for line in lines])
    done = ask("--no-images", "--out", "mine.csv", "--json")
    assert [line.decision for line in findings.read("mine.csv")] == [decided.get(line.kind, "") for line in lines]
    n_labels = json.loads(done.stdout)["row"]["n_label_suspects"]
    done = ask("--method", "centroid", "--exclude", "mine.csv", "--relabel", "mine.csv", command=probe)
    assert f"1 left out, {n_labels} relabelled" in done.stdout


def test_fitted_again_without_the_copies_in_train(ask):
    done = ask("--no-images", "--refit", "--json")
    (again,) = json.loads(done.stdout)["refitted"]
    goes = {
        line.id for line in findings.read("audit.csv") if "dup" in line.kind and "both in test" not in line.evidence
    }
    assert again["n_train"] - again["n_train_without_copies"] == len(goes)
    assert 0 <= again["top1_without_copies"] <= 1


def test_heads_that_are_not_there_are_said_to_be_missing(ask):
    assert "there is no ranking" in ask("--no-images").stdout


def test_a_file_that_is_no_audit_is_not_overwritten(ask, tmp_path):
    (tmp_path / "labels.csv").write_text("a,b\n1,2\n")
    done = ask("--no-images", "--out", "labels.csv", code=1)
    assert "labels.csv is no audit.csv" in done.output
    assert (tmp_path / "labels.csv").read_text() == "a,b\n1,2\n"


def test_from_python_nothing_is_written(folder, tmp_path, monkeypatch, capfd):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    found = bb.audit(folder / "cache", look=False)
    assert found.figures["n_exact"] == 1
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr().out == ""
