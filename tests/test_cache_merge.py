"""Shards joined: the same bytes as one file, or refused with what is missing and the command that makes it."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from backbench import UserError
from backbench.cache import features, merge, schema, shards
from backbench.cache.cli import main
from backbench.cache.features import open_file
from backbench.cache.writer import Writer
from tests.conftest import IDENTITY

D = 3


def arrays(n, seed=0):
    rng = np.random.default_rng(seed)
    ids = [f"{'x' * int(rng.integers(1, 9))}{i:04d}" for i in range(n)]  # of several lengths
    return {"labels": rng.integers(0, 4, n), "split": np.arange(n) % 3, "ids": ids}, rng.normal(size=(n, D)).astype(
        "f4"
    )


def write(path, index, small, x, *, skipped=(), pending=(), finish=True, **identity):
    """A feature file of the rows ``index`` of a set."""
    rows = {k: v[index.start : index.stop] for k, v in small.items()}
    told = IDENTITY | dict.fromkeys(schema.DIGESTS) | identity
    with Writer(path, identity=told, **rows, class_names=list("abcd"), dim=D, dtype="f4") as w:
        todo = np.array([i for i in range(len(index)) if index[i] not in {*skipped, *pending}], int)
        w.rows(todo, x[index.start : index.stop][todo])
        w.skip(np.array([i for i in range(len(index)) if index[i] in skipped], int))
        w.running |= {"seconds": 1.0, "images": len(index), "input_count": len(index), "input_sum": 2.0 * len(index)}
        w.running["input_squares"] = 5.0 * len(index)
        if finish:
            w.finish(device="cpu")


def shard(whole, number, count, n=40, batch_size=4, **how):
    start, stop = shards.span(n, number, count, batch_size=batch_size)
    small, x = arrays(n)
    about = {"rows": [start, stop], "of": n, "batch_size": batch_size}
    path = shards.path_of(Path(whole), number, count)
    write(path, range(start, stop), small, x, **{"shard": about} | how)
    return path


@given(st.integers(1, 100), st.integers(1, 20), st.integers(1, 25))
def test_spans_tile_the_rows_in_whole_batches(n, batch_size, count):
    spans = [shards.span(n, k + 1, count, batch_size=batch_size) for k in range(count)]
    assert [i for start, stop in spans for i in range(start, stop)] == list(range(n))
    assert all(start % batch_size == 0 or start == n for start, _ in spans)
    batches = [-(-(stop - start) // batch_size) for start, stop in spans]
    assert max(batches) - min(batches) <= 1


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_joined_they_are_the_file_of_a_single_run(tmp_path_factory, data):
    tmp = tmp_path_factory.mktemp("merge")
    n, batch_size = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 9))
    count = data.draw(st.integers(1, min(12, -(-n // batch_size))))
    skipped = data.draw(st.sets(st.integers(0, n - 1), max_size=3))
    write(tmp / "one.h5", range(n), *arrays(n), skipped=skipped)
    for number in range(1, count + 1):
        shard(tmp / "many.h5", number, count, n, batch_size, skipped=skipped)
    (family,) = shards.families(tmp)
    assert merge.merge(family) == tmp / "many.h5"
    assert sorted(path.name for path in tmp.iterdir()) == ["many.h5", "one.h5"]
    assert features.verify(tmp / "many.h5") is None
    with open_file(tmp / "one.h5") as one, open_file(tmp / "many.h5") as many:
        assert schema.checksum(one.arrays()) == schema.checksum(many.arrays())
        ours, theirs = one.arrays(), many.arrays()
        for name in schema.DATASETS:
            if name != "running":
                assert ours[name].dtype == theirs[name].dtype
                assert ours[name].tobytes() == theirs[name].tobytes(), name
        assert one.identity == many.identity
        # of input values with mean 2 and mean square 5, wherever they were seen
        assert (many.measured["input_mean"], many.measured["input_std"]) == (2.0, 1.0)
        assert many.measured["seconds"] == count
        assert many.measured["device"] == (f"{count} x cpu" if count > 1 else "cpu")


def merged(*args, code=0):
    result = CliRunner().invoke(main, ["merge", *map(str, args)])
    assert result.exit_code == code, result.output
    return result.output


def test_all_that_is_missing_or_unfinished_is_named_with_its_command(tmp_path):
    whole = tmp_path / "toy" / "m.h5"
    shard(whole, 2, 4)
    shard(whole, 4, 4, pending=(37, 38), finish=False)
    said = merged(tmp_path, code=1)
    for text in ("shard 1 of 4", "shard 3 of 4", "lacks 2 of its 12 rows", "--shard 1/4", "--shard 3/4", "--shard 4/4"):
        assert text in said
    assert "--shard 2/4" not in said
    assert not whole.exists()


def test_no_search_takes_a_shard_for_a_feature_file(tmp_path):
    path = shard(tmp_path / "m.h5", 1, 1)
    for pattern in (tmp_path, tmp_path / "m.h5"):
        with pytest.raises(UserError, match=r"shards of it.*cache merge"):
            features.find([pattern])
    with pytest.raises(UserError, match=r"a shard, which holds only part of the rows.*cache merge"):
        open_file(path)
    assert features.verify(path) is None
    assert "40 of 40, shard of 40" in CliRunner().invoke(main, ["ls", str(tmp_path)]).output


def test_every_difference_is_named_and_how_to_mend_it(tmp_path):
    shard(tmp_path / "m.h5", 1, 2, precision="bfloat16", input_scale=2.0)
    shard(tmp_path / "m.h5", 2, 2)
    said = merged(tmp_path / "m.h5", code=1)
    assert "precision: the file has 'float32', m.h5.shard-1-of-2 'bfloat16'" in said
    assert "input_scale: the file has 1.0, m.h5.shard-1-of-2 2.0" in said
    assert "--precision bfloat16 --compile off or --precision float32 --compile off" in said


def test_batches_of_another_size_do_not_join(tmp_path):
    shard(tmp_path / "m.h5", 1, 2)
    shard(tmp_path / "m.h5", 2, 2, batch_size=5)
    assert "shard.batch_size: the file has 5" in merged(tmp_path, code=1)


def test_a_renamed_or_damaged_shard_is_refused(tmp_path):
    one, two = (shard(tmp_path / "m.h5", k, 2) for k in (1, 2))
    with open_file(two, partial=True) as file:
        place = file.features.offset
    with two.open("r+b") as raw:
        raw.seek(place)
        raw.write(b"\0\0\1")
    assert "checksum" in merged(tmp_path, code=1)
    shutil.copy(one, two)
    assert "holds rows (0, 20), but by its name it should hold (20, 40)" in merged(tmp_path, code=1)
    assert not (tmp_path / "m.h5").exists()


def test_stopped_anywhere_it_goes_on(tmp_path, monkeypatch):
    """While rows are copied, and while the shards are removed."""
    whole = tmp_path / "m.h5"
    paths = [shard(whole, k, 3) for k in (1, 2, 3)]
    (family,) = shards.families(whole)
    unlink = Path.unlink

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "finish", stop)
        with pytest.raises(KeyboardInterrupt):
            merge.merge(family)
    assert all(path.exists() for path in paths)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda path, **_: stop() if path == paths[1] else unlink(path, missing_ok=True))
        with pytest.raises(KeyboardInterrupt):
            merge.merge(family)
    assert [path.exists() for path in paths] == [False, True, True]
    assert merged(tmp_path) == f"{whole}\n"
    assert not any(path.exists() for path in paths)
    assert features.verify(whole) is None


def test_kept_on_request_and_a_set_made_otherwise_is_not_replaced(tmp_path):
    whole = tmp_path / "m.h5"
    paths = [shard(whole, k, 2) for k in (1, 2)]
    small, x = arrays(40)
    write(whole, range(40), small, x, pooling="max")
    before = whole.read_bytes()
    assert "pooling: the file has 'max', the shards 'avg'" in merged(tmp_path, code=1)
    assert whole.read_bytes() == before
    merged(tmp_path, "--overwrite", "--keep")
    assert all(path.exists() for path in paths)
    with open_file(whole) as file:
        assert file.identity["pooling"] == "avg"


def test_shards_made_by_other_versions_are_not_taken_for_what_is_left_of_a_joining(tmp_path):
    """Of timm 2.0 after an upgrade, beside a whole file of timm 1.0 (which look alike to extract)."""
    whole = tmp_path / "m.h5"
    small, x = arrays(40)
    write(whole, range(40), small, x + 1)
    paths = [shard(whole, k, 2, versions={**IDENTITY["versions"], "timm": "2.0"}) for k in (1, 2)]
    before = [path.read_bytes() for path in (whole, *paths)]
    said = merged(tmp_path, code=1)
    assert "versions.timm: the file has '1.0', the shards '2.0'" in said
    assert "m.h5.shard-1-of-2: features of 20 of its 20 rows differ in the file" in said
    assert f"backbench cache merge {whole} --overwrite" in said
    assert [path.read_bytes() for path in (whole, *paths)] == before
    merged(tmp_path, "--overwrite")
    with open_file(whole) as file:
        assert np.array_equal(file.features, x)
        assert file.identity["versions"]["timm"] == "2.0"
    assert not any(path.exists() for path in paths)


def test_an_unfinished_shard_is_never_removed(tmp_path):
    whole = tmp_path / "m.h5"
    write(whole, range(40), *arrays(40))
    shard(whole, 1, 2)
    shard(whole, 2, 2, pending=(38,), finish=False)
    assert "m.h5.shard-2-of-2.part: it is unfinished" in merged(tmp_path, code=1)
    assert sorted(path.name for path in tmp_path.glob("*shard*")) == ["m.h5.shard-1-of-2", "m.h5.shard-2-of-2.part"]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("labels", lambda small, x: small | {"labels": (small["labels"] + 1) % 4}),
        ("split", lambda small, x: small | {"split": (small["split"] + 1) % 3}),
        ("names", lambda small, x: small | {"ids": [f"other {i}" for i in small["ids"]]}),
    ],
)
def test_whatever_the_file_holds_otherwise_keeps_the_shards(tmp_path, name, change):
    whole = tmp_path / "m.h5"
    small, x = arrays(40)
    write(whole, range(40), change(small, x), x)
    path = shard(whole, 2, 2)
    assert f"m.h5.shard-2-of-2: {name} of 20 of its 20 rows differ in the file" in merged(tmp_path, code=1)
    assert path.exists()


def test_nothing_to_join_says_so(tmp_path):
    assert "no shards at" in merged(tmp_path, code=1)
