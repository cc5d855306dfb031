"""The folder a head is kept in: what goes in comes out, and nothing else does."""

import errno
import hashlib
import json
import os
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from backbench import UserError
from backbench.probe import head as head_module
from backbench.probe.head import ABOUT, TENSORS, LinearHead, load
from tests.conftest import IDENTITY
from tests.toy import clusters, mapped, split


def head(d=4, k=3, dtype="f8", seed=0) -> LinearHead:
    rng = np.random.default_rng(seed)
    arrays = rng.normal(size=d), rng.uniform(0.1, 3, size=d), rng.normal(size=(k, d)), rng.normal(size=k)
    return LinearHead(*(a.astype(dtype) for a in arrays))


def save(folder, found=None, **changes):
    found = found or head()
    classes = [f"class {i}" for i in range(found.n_classes)]
    found.save(folder, **{"classes": classes, "identity": IDENTITY, "method": "ridge", "row": {"top1": 0.5}} | changes)
    return folder


def test_scores_by_hand():
    found = LinearHead(np.array([1.0, 0]), np.array([2.0, 1]), np.array([[1.0, 0], [1, 1]]), np.array([0.0, 10]))
    assert found.scores(np.array([[5, 7]], "f4")).tolist() == [[2, 19]]


def test_scores_of_a_part_are_those_of_its_blocks(tmp_path):
    data = split(clusters(50, 4, 3), 30)
    with patch.object(head_module, "BLOCK", 7):
        for part in (data.train, mapped(data, tmp_path / "f").train):
            np.testing.assert_allclose(head().over(part), head().scores(data.train.features), rtol=1e-6)
            right = head().scores(data.train.features).argmax(axis=1) == data.train.labels
            assert head().top1(part) == right.mean()


names = st.lists(st.text(max_size=5), min_size=2, max_size=6, unique=True)


@settings(max_examples=30, deadline=None)
@given(classes=names, d=st.integers(1, 9), dtypes=st.lists(st.sampled_from(["f4", "f8"]), min_size=4, max_size=4))
def test_what_is_stored_is_what_is_loaded(tmp_path_factory, classes, d, dtypes):
    """Bit for bit, any names (lone surrogates too: names of folders need not be UTF-8), any memory order."""
    whole = head(d, len(classes))
    arrays = (whole.mean, whole.scale, np.asfortranarray(whole.weights), whole.intercept)
    whole = LinearHead(*(a.astype(t) for a, t in zip(arrays, dtypes, strict=True)))
    folder = tmp_path_factory.mktemp("head") / "new" / "folder"
    save(folder, whole, classes=[*classes[1:], classes[0] + "\udce9"])
    found = load(folder)
    for name in ("mean", "scale", "weights", "intercept"):
        np.testing.assert_array_equal(getattr(found.head, name), getattr(whole, name))
        assert getattr(found.head, name).dtype == getattr(whole, name).dtype
    assert found[1:] == ([*classes[1:], classes[0] + "\udce9"], IDENTITY, "ridge", {"top1": 0.5}, None, None)
    assert sorted(os.listdir(folder)) == [ABOUT, TENSORS]


@pytest.mark.parametrize("name", [ABOUT, TENSORS])
def test_a_file_cut_off_anywhere_is_refused(tmp_path, name):
    path = save(tmp_path / "h") / name
    whole = path.read_bytes()
    for size in range(0, len(whole) - 1, 7):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match="damaged"):
            load(tmp_path / "h")


def test_a_flipped_bit_in_the_numbers_is_found(tmp_path):
    path = save(tmp_path / "h") / TENSORS
    whole = bytearray(path.read_bytes())
    for place in range(0, len(whole), 5):
        whole[place] ^= 4
        path.write_bytes(whole)
        with pytest.raises(UserError, match="damaged"):
            load(tmp_path / "h")
        whole[place] ^= 4


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.sampled_from(["format", "schema", "sha256", "classes"]), value=json_values, gone=st.booleans())
def test_whatever_stands_in_the_json_it_is_refused_in_words(tmp_path, key, value, gone):
    path = save(tmp_path / "h") / ABOUT
    about = json.loads(path.read_text())
    assume(about.pop(key) != value)
    path.write_text(json.dumps(about if gone else about | {key: value}))
    with pytest.raises(UserError, match=r"head\.(json|safetensors)"):
        load(tmp_path / "h")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b'"backbench-head"', b"\xff\xfe", b"[" * 100_000, b'{"format": "other"}', b"1" * 5000],
    ids=lambda content: content[:12],
)
def test_a_foreign_json_is_refused(tmp_path, content):
    (save(tmp_path / "h") / ABOUT).write_bytes(content)
    with pytest.raises(UserError, match=r"head\.json is (damaged|no head)"):
        load(tmp_path / "h")


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("schema", 99, "schema 99, but this version reads schema 2"),
        ("identity", [], "identity is a list, a dict was expected"),
        ("row", None, "row is a NoneType"),
        ("method", 3, "method is a int"),
        ("classes", ["a"], "at least two"),
        ("classes", ["a", "b", 3], "text"),
        ("classes", ["a", "b", "a"], "twice: a"),
        ("classes", ["a", "b"], r"shape \(3, 4\) and dtype float64, \(2, 4\)"),
        ("classes", ["a", "b", "c", "d"], r"intercept has shape \(3,\)"),
        ("sha256", "0" * 64, "belongs to 0000"),
    ],
)
def test_a_json_that_does_not_fit_says_what_was_expected(tmp_path, key, value, says):
    path = save(tmp_path / "h") / ABOUT
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(UserError, match=says):
        load(tmp_path / "h")


def forge(folder, tensors: bytes):
    """A folder whose digest is right, and whose tensors are these."""
    save(folder)
    (folder / TENSORS).write_bytes(tensors)
    about = json.loads((folder / ABOUT).read_text()) | {"sha256": hashlib.sha256(tensors).hexdigest()}
    (folder / ABOUT).write_text(json.dumps(about))
    return folder


def header(**entry):
    text = json.dumps({"mean": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} | entry}).encode()
    return len(text).to_bytes(8, "little") + text + bytes(4)


@pytest.mark.parametrize(
    "tensors",
    [
        b"",
        b"not safetensors at all",
        (2**62).to_bytes(8, "little") + b"{}",
        header(dtype="BF16", data_offsets=[0, 2]),
        header(dtype="F8_E5M2", data_offsets=[0, 1]),
        header(shape=[2**40]),
        header(data_offsets=[0, 2**40]),
        header(dtype="NO"),
        header(),
        save_tensors({}),
    ],
    ids=range(10),
)
def test_forged_tensors_are_refused(tmp_path, tensors):
    with pytest.raises(UserError, match="damaged"):
        load(forge(tmp_path / "h", tensors))


@pytest.mark.parametrize(
    ("name", "array", "says"),
    [
        ("mean", np.zeros(3), r"mean has shape \(3,\) and dtype float64, \(4,\) in float32 or float64 was expected"),
        ("mean", np.zeros((4, 1)), r"\(4, 1\)"),
        ("weights", np.zeros(12), r"\(12,\)"),
        ("weights", np.zeros((3, 0)), r"\(3, 0\)"),
        ("intercept", np.zeros(3, int), "int64"),
        ("intercept", np.zeros(3, np.float16), "float16"),
        ("intercept", np.array([0, np.nan, 0]), "not finite in float32.* in intercept"),
        ("weights", np.full((3, 4), 1e300), "not finite in float32.* in weights"),
        ("scale", np.array([1.0, 0, 1, 1]), "scale"),
        ("scale", np.array([1.0, -1, 1, 1]), "scales not above 0"),
        ("scale", np.array([1.0, 1e-300, 1, 1]), "1 / scale"),
        ("more", np.zeros(3), "holds intercept, mean, more, scale, weights"),
        ("mean", None, "holds intercept, scale, weights"),
    ],
)
def test_tensors_that_make_no_head_are_refused(tmp_path, name, array, says):
    whole = load_tensors((save(tmp_path / "h") / TENSORS).read_bytes()) | {name: array}
    forged = save_tensors({key: value for key, value in whole.items() if value is not None})
    with pytest.raises(UserError, match=says):
        load(forge(tmp_path / "h", forged))


@pytest.mark.parametrize(
    ("found", "changes", "says"),
    [
        (LinearHead(np.zeros(4), np.ones(4), np.full((3, 4), np.nan), np.zeros(3)), {}, "not finite"),
        (None, {"classes": ["a", "b"]}, "shape"),
        (None, {"classes": ["a", "b", "b"]}, "twice"),
    ],
)
def test_what_could_not_be_loaded_is_not_stored(tmp_path, found, changes, says):
    with pytest.raises(UserError, match=f"ridge head can't be stored.*{says}"):
        save(tmp_path / "h", found, **changes)
    assert not (tmp_path / "h").exists()


@pytest.mark.parametrize("name", [ABOUT, TENSORS])
def test_a_file_far_too_large_is_not_read(tmp_path, name):
    path = save(tmp_path / "h") / name
    os.truncate(path, head_module.LARGEST[name] + 1)  # sparse
    with pytest.raises(UserError, match="no head of backbench has more"):
        load(tmp_path / "h")


def test_a_folder_that_is_none_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for name in ("missing", "file", "folder"):
        with pytest.raises(UserError, match=r"head\.json can't be read: .*A head is a folder with"):
            load(tmp_path / name)
    with pytest.raises(UserError, match="can't be written: Not a directory"):
        save(tmp_path / "file" / "h")


def test_a_full_disk_leaves_the_head_that_was_there(tmp_path):
    folder = save(tmp_path / "h")
    before = load(folder)
    with (
        patch("os.fsync", side_effect=OSError(errno.ENOSPC, "No space left on device")),
        pytest.raises(UserError, match="No space left"),
    ):
        save(folder, head(seed=1))
    np.testing.assert_array_equal(load(folder).head.weights, before.head.weights)
    assert sorted(os.listdir(folder)) == [ABOUT, TENSORS]


def test_a_run_stopped_between_the_two_files_is_told_from_a_whole_head(tmp_path):
    folder = save(tmp_path / "h")
    replace, done = os.replace, []

    def once(*args):
        if done:
            raise KeyboardInterrupt
        done.append(replace(*args))

    with patch("os.replace", once), pytest.raises(KeyboardInterrupt):
        save(folder, head(seed=1))
    with pytest.raises(UserError, match=r"head\.safetensors is damaged.*belongs to"):
        load(folder)
    save(folder, head(seed=1))
    assert load(folder).head.weights[0, 0] == head(seed=1).weights[0, 0]
