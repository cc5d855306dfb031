"""Which commit runs: in a checkout, in what git archives, in what is built, and where nothing tells."""

import shutil
import subprocess
import sys

import pytest

import backbench
from backbench import commit
from tests.conftest import ROOT


@pytest.fixture
def checkout(tmp_path):
    """A repository of one commit with this project's packing, and its commit."""
    root = tmp_path / "checkout"
    (root / "backbench").mkdir(parents=True)
    for name in ("setup.py", ".gitattributes", "backbench/__init__.py", "backbench/commit.py", "backbench/commit.txt"):
        shutil.copy(ROOT / name, root / name)
    (root / "setup.cfg").write_text(
        "[metadata]\nname = backbench\nversion = 1\n[options]\npackages = backbench\n"
        "[options.package_data]\nbackbench = commit.txt\n"
    )
    git = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    for line in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "one"], ["tag", "-a", "-m", "t", "v9"]):
        subprocess.run([*git, *line], check=True)
    done = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    return root, done.stdout.strip()[: commit.LENGTH]


def test_git_is_asked_in_a_checkout_and_says_what_is_not_committed(checkout):
    root, head = checkout
    assert commit.asked(root) == head
    (root / "setup.cfg").write_text("changed")
    assert commit.asked(root) == f"{head}.dirty"


def test_a_git_archive_tells_its_commit(checkout, tmp_path):
    root, head = checkout
    subprocess.run(f"git -C '{root}' archive HEAD | tar -x -C '{tmp_path}'", shell=True, check=True)
    assert commit.written(tmp_path / "backbench" / commit.FILE) == head


def test_what_is_built_from_a_checkout_tells_its_commit(checkout, tmp_path):
    root, head = checkout
    line = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(tmp_path / "built")]
    subprocess.run(line, cwd=root, check=True, capture_output=True)
    assert commit.written(tmp_path / "built" / "backbench" / commit.FILE) == head
    assert commit.written(root / "backbench" / commit.FILE) is None  # the checkout's own is as it was


def test_where_nothing_tells_the_version_stands_alone(tmp_path, monkeypatch):
    assert commit.written(tmp_path / "none") is None
    assert commit.asked(tmp_path) is None
    monkeypatch.setattr(commit, "commit", lambda: None)
    assert backbench.version() == backbench.__version__
    monkeypatch.setattr(commit, "commit", lambda: "abcdef123456.dirty")
    assert backbench.version() == f"{backbench.__version__}+gabcdef123456.dirty"
