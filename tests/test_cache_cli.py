"""``backbench cache``: what is there, whether it is whole, and what made it."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from backbench.cache.cli import main
from backbench.cache.features import open_file
from tests.conftest import IDENTITY
from tests.test_cache_features import write
from tests.test_cache_writer import writer


@pytest.fixture
def files(tmp_path):
    write(tmp_path / "toy" / "whole.h5")
    with writer(tmp_path / "toy" / "half.h5", 10, 4) as w:
        w.rows(np.arange(4), np.ones((4, 4), "f4"))
    return tmp_path


def cache(*args, code=0):
    result = CliRunner().invoke(main, list(map(str, args)))
    assert result.exit_code == code, result.output
    return result


def test_ls_shows_finished_and_unfinished_files(files):
    head, half, whole = cache("ls", "--cache-dir", files).stdout.splitlines()
    assert head.split() == ["dataset", "model", "state", "n", "dim", "classes", "megabytes", "path"]
    assert "4 of 10" in half
    assert "complete" in whole
    found = json.loads(cache("ls", files, "--json").stdout)
    counts = [(f["state"], f["train"], f["val"], f["test"]) for f in found]
    assert counts == [("4 of 10", 4, 3, 3), ("complete", 4, 4, 4)]


def test_ls_lists_what_it_can_and_names_what_it_cannot(files):
    (files / "toy" / "broken.h5").write_bytes(b"broken")
    result = cache("ls", files, code=1)
    assert len(result.stdout.splitlines()) == 3
    assert "broken.h5 can't be read as HDF5" in result.stderr


def test_show_says_what_made_it(files):
    said = cache("show", files / "toy" / "whole.h5").stdout
    for value in (IDENTITY["weights"], IDENTITY["weights_sha256"], "crop_pct", "images_per_second"):
        assert value in said


def test_verify_tells_whole_from_damaged_and_unfinished(files):
    path = files / "toy" / "whole.h5"
    assert cache("verify", path).stdout == f"{path}  whole\n"
    with open_file(path) as file:
        place = file.features.offset
    with path.open("r+b") as file:
        file.seek(place)
        file.write(b"\1\2\3")
    result = cache("verify", files, "--json", code=1)
    whole = {entry["path"].rsplit("/")[-1]: entry["fault"] for entry in json.loads(result.stdout)}
    assert "checksum" in whole["whole.h5"]
    assert "unfinished" in whole["half.h5.part"]
    assert "2 of 2" in result.stderr


def test_an_empty_cache_says_how_to_fill_it(tmp_path):
    assert "extract --model" in cache("ls", "--cache-dir", tmp_path, code=1).stderr
