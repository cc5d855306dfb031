"""Runs that bring a feature file to a changed data set: killed, with several backbones, in shards, beside damage."""

# ruff: noqa: F401, F811 - fixtures come from another module

import signal
import subprocess
import sys

import pytest

from backbench.cache import schema
from tests.test_extract_changed import (
    CLASSES,
    MODEL,
    agrees,
    by_content,
    extract,
    images,
    line,
    noise,
    weights,
)


def killed(line, method, call):
    """Run ``extract`` in a process that is killed as it makes call number ``call`` of a method of the writer."""
    program = (
        "import os, signal; from backbench.cache.writer import Writer; from backbench.extract.cli import main\n"
        f"method, calls = Writer.{method}, [0]\n"
        "def kill(self, *args, **more):\n"
        "    calls[0] += 1\n"
        f"    if calls[0] == {call}: self.commit(); os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return method(self, *args, **more)\n"
        f"Writer.{method} = kill; main({line()!r})"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -signal.SIGKILL


@pytest.fixture
def stopped(extract, line, images):
    """``stopped(method, call)``: 20 images are added to 60, and the run that computes them is killed.

    It gives the features that an unbroken run computes.
    """

    def stopped(method, call):
        extract()
        before = extract.path.read_bytes()
        for i in range(20):
            noise(images / CLASSES[i % 3] / f"{i:02d}-new.png", 500 + i)
        extract()
        unbroken = by_content(extract.path)
        extract.path.write_bytes(before)
        killed(line, method, call)
        assert schema.part_path(extract.path).exists()
        assert extract.path.read_bytes() == before
        return unbroken

    return stopped


@pytest.mark.parametrize(("method", "call", "left"), [("rows", 2, 12), ("finish", 1, 0)])
def test_killed_while_new_images_are_computed_it_goes_on_to_the_same_bits(extract, stopped, images, method, call, left):
    unbroken = stopped(method, call)
    extract()
    assert len(extract.decoded) == left
    agrees(extract.path, images)
    after = by_content(extract.path)
    assert {key: row.tobytes() for key, row in after.items()} == {key: row.tobytes() for key, row in unbroken.items()}


def test_what_a_killed_run_computed_is_kept_when_the_set_changes_again(extract, stopped, images):
    stopped("rows", 2)
    noise(images / "ant" / "later.png", 900)
    extract()
    assert "ant/later.png" in extract.decoded
    assert len(extract.decoded) == 13
    agrees(extract.path, images)
    assert not schema.part_path(extract.path).exists()


def test_several_backbones_that_lack_different_images(extract, line, images, tmp_path):
    extract()
    noise(images / "bee" / "05b.png", 999)
    both = ["--layer", "last", "--layer", "layer2"]
    extract(*both)
    assert len({*extract.decoded}) == 61
    assert extract.decoded.count("bee/05b.png") == 2  # the files lack different images, so each has a pass of its own
    agrees(extract.path, images)
    for path in extract.path.parent.glob("*.h5"):
        agrees(path, images)


def test_shards_of_a_set_that_has_changed(extract, images):
    extract()
    noise(images / "bee" / "05b.png", 999)
    assert "Run the command without --shard" in extract("--shard", "1/2", code=1).output
    extract("--workers", 2)
    assert extract.decoded == ["bee/05b.png"]
    agrees(extract.path, images)


def test_a_damaged_file_of_another_set_is_not_taken_over(extract, images, tmp_path):
    extract()
    with extract.path.open("r+b") as file:
        file.seek(9000)
        file.write(b"damage")
    images.rename(tmp_path / "renamed")
    extract("--dataset", f"folder:{tmp_path / 'renamed'}", only=True)
    assert len({*extract.decoded}) == 60
    agrees(schema.default_path(tmp_path / "cache", "folder-renamed", MODEL), tmp_path / "renamed")
