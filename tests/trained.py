"""A small trained world: pictures of three classes, features of a tiny random backbone, heads and one checkpoint."""

from pathlib import Path

from click.testing import CliRunner

import backbench.extract.cli
import backbench.probe.cli
from tests import tuning


def invoke(command, *words, code=0, **how):
    """click's result of a command in this process."""
    done = CliRunner().invoke(command, list(map(str, words)), **how)
    assert done.exit_code == code, done.output
    return done


def build(home: Path, *methods: str, checkpoint: bool = True, val: int = 5) -> Path:
    """Make ``images/``, ``cache/``, ``results/``, ``heads/folder-images/test_resnet-*`` and ``runs/images/tiny``.

    Of each class there are ``val`` images in val.
    """
    tuning.pictures(home / "images", val=val)
    where = ["--cache-dir", home / "cache", "--results-dir", home / "results"]
    invoke(
        backbench.extract.cli.main,
        "--model", "test_resnet", "--dataset", f"folder:{home / 'images'}", "--weights", "random",
        "--device", "cpu", "--precision", "float32", *where,
    )  # fmt: skip
    invoke(
        backbench.probe.cli.main,
        "--features", home / "cache", "--results-dir", home / "results", "--save", home / "heads",
        *(word for method in methods for word in ("--method", method)),
    )  # fmt: skip
    if checkpoint:
        tuning.tune(home, "--out", home / "runs" / "images" / "tiny", "--epochs", "1")
    return home
