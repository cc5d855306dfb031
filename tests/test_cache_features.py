"""The feature file: what is written is what is read, and nothing a stranger puts in it is followed."""

import shutil

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backbench import UserError
from backbench.cache import features, schema, seal, writer
from backbench.cache.features import FeatureFileError, open_file
from tests.conftest import IDENTITY


def write(path, n=12, d=5, k=3, dtype="f4", **changes):
    rng = np.random.default_rng(1)
    content = {
        "features": rng.normal(size=(n, d)).astype(dtype),
        "labels": np.arange(n) % k,
        "split": np.arange(n) % 3,
        "ids": [f"c{i % k}/é{i}.jpg" for i in range(n)],
        "class_names": [f"class {i}" for i in range(k)],
        "identity": IDENTITY,
    } | changes
    return writer.write(path, **content), content


names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=9)


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(1, 40),
    d=st.integers(1, 9),
    half=st.booleans(),
    ids=st.lists(names, min_size=40, max_size=40),
    classes=st.lists(names, min_size=1, max_size=6),
)
def test_what_is_written_is_what_is_read(tmp_path_factory, n, d, half, ids, classes):
    """Bit for bit, whatever the shape and the names, NaN payloads included."""
    path = tmp_path_factory.mktemp("file") / "toy.h5"
    bits = np.random.default_rng(n * d).integers(0, 2**16, size=(n, d * (1 if half else 2)), dtype=np.uint16)
    values = bits.view(np.float16 if half else np.float32)
    write(
        path,
        features=values,
        labels=np.arange(n) % len(classes),
        split=np.arange(n) % 3,
        ids=ids[:n],
        class_names=classes,
    )
    with open_file(path) as file:
        assert file.features.dtype == values.dtype
        assert file.features.tobytes() == values.tobytes()
        assert file.labels.tolist() == [i % len(classes) for i in range(n)]
        assert file.ids == ids[:n]
        assert file.class_names == classes
        assert file.identity == {"schema": schema.SCHEMA, **schema.PLAIN, **IDENTITY}
        assert file.complete


def test_names_that_are_not_utf8_survive(tmp_path):
    path, _ = write(tmp_path / "a.h5", n=1, k=1, ids=["caf\udce9.jpg"])
    with open_file(path) as file:
        assert file.ids == ["caf\udce9.jpg"]


def test_verify_finds_a_single_flipped_bit_in_any_dataset(tmp_path):
    path, _ = write(tmp_path / "a.h5")
    assert features.verify(path) is None
    with open_file(path) as file:
        places = {name: file._h5[name].id.get_offset() for name in schema.DATASETS}
    for name, place in places.items():
        copy = shutil.copy(path, tmp_path / f"{name}.h5")
        with copy.open("r+b") as file:
            file.seek(place)
            byte = file.read(1)[0]
            file.seek(place)
            file.write(bytes([byte ^ 1]))
        assert features.verify(copy) is not None, name


def test_a_truncated_file_is_refused(tmp_path):
    path, _ = write(tmp_path / "a.h5", n=500, d=50)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.raises(FeatureFileError, match=r"truncated.*--overwrite"):
        open_file(path)


@pytest.mark.parametrize("content", [b"", b"not HDF5 at all", b"\x89HDF\r\n\x1a\n" + bytes(100)])
def test_a_file_that_is_not_hdf5_is_refused(tmp_path, content):
    (tmp_path / "a.h5").write_bytes(content)
    with pytest.raises(FeatureFileError, match="can't be read as HDF5"):
        open_file(tmp_path / "a.h5")


def test_someone_elses_hdf5_is_refused(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as h5:
        h5["features"] = np.zeros((3, 2))
    with pytest.raises(FeatureFileError, match="not a backbench feature file"):
        open_file(tmp_path / "a.h5")


def swap(path, name, make):
    with h5py.File(path, "r+") as h5:
        del h5[name]
        make(h5, name)
    seal.put(path)  # as who makes such a file would
    return path


def external_link(h5, name):
    h5[name] = h5py.ExternalLink("secret.h5", "/features")


def external_storage(h5, name):
    h5.create_dataset(name, (12, 5), "f4", external=[("/etc/passwd", 0, 240)])


def virtual(h5, name):
    virtual_layout = h5py.VirtualLayout((12, 5), "f4")
    virtual_layout[:] = h5py.VirtualSource("secret.h5", "features", (12, 5))
    h5.create_virtual_dataset(name, virtual_layout)


def soft_link(h5, name):
    h5[name] = h5py.SoftLink("/labels")


def chunked(h5, name):
    h5.create_dataset(name, data=np.zeros((12, 5), "f4"), chunks=(2, 5))


@pytest.mark.parametrize("make", [external_link, external_storage, virtual, soft_link, chunked])
def test_a_file_that_points_elsewhere_is_refused(tmp_path, make):
    path, _ = write(tmp_path / "a.h5")
    write(tmp_path / "secret.h5")
    with pytest.raises(FeatureFileError, match="refused"):
        open_file(swap(path, "features", make))


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("labels", np.full(12, 3), "labels are out of range"),
        ("split", np.full(12, 7, np.uint8), "split are out of range"),
        ("labels", np.zeros(11, np.int64), "shape"),
        ("features", np.zeros((12, 5), "f8"), "float64"),
        ("ids", np.zeros(12), "ids"),
    ],
)
def test_content_that_contradicts_itself_is_refused(tmp_path, name, value, says):
    path, _ = write(tmp_path / "a.h5")
    with pytest.raises(FeatureFileError, match=says):
        open_file(swap(path, name, lambda h5, name: h5.create_dataset(name, data=value)))


def test_another_schema_is_refused(tmp_path):
    path, _ = write(tmp_path / "a.h5")
    with h5py.File(path, "r+") as h5:
        h5.attrs["schema"] = 99
    seal.put(path)
    with pytest.raises(FeatureFileError, match="schema 99"):
        open_file(path)


def test_find_takes_files_folders_and_globs_and_names_every_miss(tmp_path):
    a, _ = write(tmp_path / "x" / "a.h5")
    b, _ = write(tmp_path / "x" / "b.h5")
    assert features.find([tmp_path, a]) == [a, b]
    assert features.find([tmp_path / "x" / "*.h5"]) == [a, b]
    with pytest.raises(UserError) as caught:
        features.find([tmp_path / "no", tmp_path / "*.hdf", a])
    assert len(caught.value.faults) == 2
    assert "extract --model" in str(caught.value)


def test_a_feature_file_is_small_beyond_its_rows(tmp_path):
    path, _ = write(tmp_path / "a.h5", n=1000, d=100)
    assert path.stat().st_size < 1000 * (100 * 4 + 8 + 1 + 1 + 16 + 40) + 16_384


@pytest.mark.parametrize(
    ("apart", "label"),
    [
        ({}, "resnet18"),
        ({"views": "mean5"}, "resnet18.mean5"),
        ({"layer": "layer3", "pool": "gem", "pooling": "gem"}, "resnet18.layer3.gem"),
        ({"layer": "last", "pool": "avg+cls", "pooling": "avg+cls", "views": "rows3"}, "resnet18.last.avg+cls.rows3"),
    ],
)
def test_features_are_called_by_what_sets_them_apart(apart, label):
    assert schema.label({**IDENTITY, **apart}) == label


def test_a_file_from_before_there_was_a_choice_is_the_plain_one():
    plain = {**schema.PLAIN, **IDENTITY}
    assert schema.differences(plain, IDENTITY, versions=True) == []
    assert schema.differences({**plain, "views": "mean5"}, IDENTITY, versions=True) == [
        "views: the file has 'plain', this run 'mean5'"
    ]


def test_the_checksum_is_the_same_mapped_or_in_memory_whole_or_in_part(tmp_path):
    x = np.random.default_rng(0).random((5, 1 << 20), np.float32)  # 20 MB: more than one block
    mapped = np.memmap(tmp_path / "x", np.float32, "w+", offset=12, shape=x.shape)
    mapped[:] = x
    others = {name: np.arange(3) for name in schema.DATASETS}
    for rows in (slice(None), slice(1, 4)):
        assert schema.checksum(others | {"features": mapped[rows] if rows.start else mapped}) == schema.checksum(
            others | {"features": x[rows]}
        )
