"""A damaged feature file is refused wherever its features are used: no figure changes without a word."""

import json
import shutil

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from backbench import duplicates
from backbench.cache import features, schema, seal, writer
from backbench.cache.cli import main
from backbench.cache.features import FeatureFileError, open_file
from backbench.cache.writer import check_existing
from backbench.probe.cli import main as probe
from backbench.probe.predict import predict
from backbench.report import images
from tests.conftest import IDENTITY
from tests.damage import flips, probed

N, D, K = 120, 8, 3


def write(path, **changes):
    rng = np.random.default_rng(0)
    labels = np.arange(N) % K
    content = {
        "features": (rng.normal(size=(K, D))[labels] + rng.normal(size=(N, D))).astype("f4"),
        "labels": labels,
        "split": np.repeat([0, 1, 2], [60, 20, 40]),
        "ids": [f"{i:03d}.jpg" for i in range(N)],
        "class_names": ["ant", "bee", "cat"],
        "identity": IDENTITY,
    }
    return writer.write(path, **content | changes)


@pytest.fixture
def old(tmp_path, monkeypatch):
    """A file as it was written before there was a seal: of schema 1, its checksum an attribute."""
    with monkeypatch.context() as patch:
        patch.setattr(schema, "SCHEMA", 1)
        patch.setattr(seal, "SIZE", 0)
        patch.setattr(seal, "put", lambda path: None)
        path = write(tmp_path / "old.h5")
    with h5py.File(path, "r+") as h5:
        h5.attrs["sha256"] = np.bytes_(schema.checksum({name: h5[name][:] for name in schema.DATASETS}))
    return path


def damage(path, place=None):
    """Flip one bit, of the first feature if nothing is said."""
    with open_file(path, check=False) as file:
        place = file.features.offset + 2 if place is None else place
    content = bytearray(path.read_bytes())
    content[place] ^= 64
    path.write_bytes(content)
    return path


def test_no_damaged_byte_changes_a_row(tmp_path):
    """Anywhere in the file, each place as likely as another."""
    path = write(tmp_path / "a.h5")
    rng = np.random.default_rng(5)
    found = flips(path, rng.integers(path.stat().st_size, size=60), rng)
    assert {kind: len(places) for kind, places in found.items()} == {
        "unchanged": 0, "refused": 60, "changed": 0, "unclear": 0
    }  # fmt: skip


def test_the_identity_and_the_measured_figures_are_covered_too(tmp_path):
    path = write(tmp_path / "a.h5")
    content = path.read_bytes()
    for text in (IDENTITY["weights_sha256"].encode(), b"cpu ", b"toy"):
        path.write_bytes(content)
        with pytest.raises(FeatureFileError, match="checksum"):
            open_file(damage(path, content.index(text)))


def test_extract_does_not_call_it_complete_and_mends_it_on_request(tmp_path):
    path = damage(write(tmp_path / "a.h5"))
    with pytest.raises(FeatureFileError, match=r"is damaged: the checksum .* is stored\. .*--overwrite"):
        check_existing(path, IDENTITY)
    assert check_existing(path, IDENTITY, overwrite=True) == ("new", None)


def test_predict_and_the_map_refuse_it(tmp_path):
    path = write(tmp_path / "a.h5")
    line = ["--features", str(path), "--save", str(tmp_path / "heads"), "--results-dir", str(tmp_path / "results")]
    assert CliRunner().invoke(probe, line).exit_code == 0
    (head,) = (tmp_path / "heads").glob("*/*")
    assert predict(head, path).n_scored
    assert images.feature_map(path, most=9)["of"] == N
    damage(path)
    with pytest.raises(FeatureFileError, match="is damaged"):
        predict(head, path)
    with pytest.raises(FeatureFileError, match="is damaged"):
        images.feature_map(path, most=9)


def test_a_file_that_only_claims_to_be_finished_is_refused(tmp_path):
    path = write(tmp_path / "a.h5")
    with path.open("r+b") as file:
        file.write(bytes(seal.SIZE))
    with pytest.raises(FeatureFileError, match="it has no checksum, though its name says that it is finished"):
        open_file(path)


def test_a_file_of_schema_1_is_read_and_compared_as_it_was(old):
    with open_file(old) as file:
        assert (file.identity["schema"], file.covers) == (1, "arrays only")
    assert probed(old, old.parent / "results")[0] == 0
    assert check_existing(old, IDENTITY | {"schema": schema.SCHEMA})[0] == "complete"
    assert CliRunner().invoke(main, ["verify", str(old)]).stdout == f"{old}  whole, arrays only\n"
    assert "arrays only" in CliRunner().invoke(main, ["show", str(old)]).stdout
    with pytest.raises(FeatureFileError, match="the checksum of its arrays"):
        open_file(damage(old))


def test_an_unfinished_file_of_schema_1_does_not_go_on(old):
    part = shutil.move(old, schema.part_path(old))
    with pytest.raises(FeatureFileError, match=r"schema: the file has 1, this run 3\n--overwrite"):
        check_existing(old, IDENTITY | {"schema": schema.SCHEMA})
    assert check_existing(old, IDENTITY | {"schema": schema.SCHEMA}, overwrite=True) == ("new", None)
    assert part.exists()


def test_not_finite_rows_are_found_and_skipped_ones_are_not(tmp_path):
    x = np.ones((N, D), "f4")
    x[[5, 7], 3] = np.nan, np.inf
    path = write(tmp_path / "a.h5", features=x)
    with open_file(path) as file:
        assert file.not_finite().tolist() == [5, 7]
        file.done[5] = schema.SKIPPED
        assert file.not_finite().tolist() == [7]
    assert "NaN or infinite features in 2 of 120 rows: 005.jpg, 007.jpg" in features.verify(path)


def test_a_command_reads_a_file_once_for_all_methods_unless_it_is_written_to_meanwhile(tmp_path, monkeypatch):
    path, asked = write(tmp_path / "a.h5"), []
    broken, say = seal.broken, duplicates.say
    monkeypatch.setattr(seal, "broken", lambda path: asked.append(path) or broken(path))
    line = ["--features", str(path), "--results-dir", str(tmp_path / "results"), "--json"]
    line += ["--method", "ridge", "--method", "centroid", "--method", "knn"]
    result = CliRunner().invoke(probe, line)
    assert (result.exit_code, len(json.loads(result.stdout)), asked) == (0, 3, [path])
    monkeypatch.setattr(duplicates, "say", lambda file: say(file) or damage(path))  # after it was compared
    result = CliRunner().invoke(probe, line)
    assert (result.exit_code, json.loads(result.stdout)) == (1, [])
    assert result.stderr.count("is damaged") == 3
