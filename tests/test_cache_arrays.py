"""Features in memory and in .npz files: what fits, what doesn't, and what a stranger's file may not do."""

import io
import pickle
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import backbench as bb
from backbench import UserError, identity
from backbench.cache import features
from backbench.cache.arrays import Features
from backbench.data import splits

X = np.arange(24, dtype="f4").reshape(8, 3)
LABELS = np.repeat(["cat", "bee"], 4)
SPLIT = ["train", "train", "val", "test"] * 2


def test_names_become_numbers_and_arrays_are_as_in_a_feature_file():
    found = Features(X, LABELS, split=SPLIT)
    assert found.class_names == ["bee", "cat"]
    assert found.labels.tolist() == [1] * 4 + [0] * 4
    assert found.split.tolist() == [0, 0, 1, 2] * 2
    assert (found.labels.dtype, found.split.dtype, found.done.dtype) == (np.int64, np.int8, np.uint8)
    assert found.features is X or np.shares_memory(found.features, X)
    assert found.ids[:2] == ["000000", "000001"]
    assert found.equal.tolist() == [-1] * 8


@pytest.mark.parametrize(
    ("labels", "class_names", "expected", "names"),
    [
        ([10, 9, 10, 9, 2, 2, 2, 2], None, [2, 1, 2, 1, 0, 0, 0, 0], ["2", "9", "10"]),  # by size, not as text
        ([0.0, 1.0] * 4, None, [0, 1] * 4, ["0", "1"]),
        ([True, False] * 4, None, [1, 0] * 4, ["False", "True"]),
        ([0, 1] * 4, ["dog", "ape", "none"], [0, 1] * 4, ["dog", "ape", "none"]),
        (["dog", "ape"] * 4, ["dog", "ape"], [0, 1] * 4, ["dog", "ape"]),
        (np.array(["dog", "ape"] * 4, object), None, [1, 0] * 4, ["ape", "dog"]),
        (np.array([b"dog", b"ape"] * 4), None, [1, 0] * 4, ["ape", "dog"]),
    ],
)
def test_labels_may_be_numbers_or_names(labels, class_names, expected, names):
    found = Features(X, labels, split=SPLIT, class_names=class_names)
    assert (found.labels.tolist(), found.class_names) == (expected, names)


def test_float16_and_arrays_that_are_not_contiguous_are_taken():
    half = Features(X.astype("f2"), LABELS, split=SPLIT)
    assert half.features.dtype == np.float16
    assert half.identity["arrays_digest"] != Features(X, LABELS, split=SPLIT).identity["arrays_digest"]
    turned = Features(np.asfortranarray(X.astype(">f8")), LABELS, split=SPLIT)
    assert turned.identity["arrays_digest"] == Features(X, LABELS, split=SPLIT).identity["arrays_digest"]


def test_without_a_split_the_rule_of_caltech_by_ids_and_seed():
    rng = np.random.default_rng(0)
    labels, ids = np.arange(60) % 3, [f"{i}.jpg" for i in range(60)]
    found = Features(rng.normal(size=(60, 4)), labels, ids=ids, seed=7)
    assert found.split.tolist() == splits.caltech_rule(ids, labels, seed=7).tolist()
    assert found.split.tolist() != Features(rng.normal(size=(60, 4)), labels, ids=ids).split.tolist()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"x": X[0]}, r"x has shape \(3,\)"),
        ({"x": X[:0]}, r"x has shape \(0, 3\)"),
        ({"x": X.astype(str)}, "dtype <U"),
        ({"x": [[1.0], [1.0, 2.0]]}, "x is no array of numbers"),
        ({"x": np.where(X == 4, np.nan, X)}, "NaN or infinite features in 1 of 8 rows: 1"),
        ({"x": X.astype(float) * 1e40}, "NaN or infinite features in 8 of 8"),
        ({"labels": LABELS[:5]}, r"labels has shape \(5,\)"),
        ({"labels": np.linspace(0, 1, 8)}, "labels has dtype float64"),
        ({"labels": np.where(np.arange(8) == 2, np.nan, 1.0)}, "labels has dtype float64"),
        (
            {"labels": [0, 1, 2, 3] * 2, "class_names": ["a", "b"]},
            "labels are 0 to 3, class_names has names for 0 to 1",
        ),
        ({"class_names": ["cat", "dog"]}, "labels has names that class_names lacks: bee"),
        ({"class_names": ["cat", "bee", "cat"]}, "class_names has names that occur twice: cat"),
        ({"split": ["train", "tset"] * 4}, "split has 'tset'; 0, 1, 2 or train, val, test expected"),
        ({"split": [0, 3] * 4}, "split has 3"),
        ({"split": [0, 1]}, r"split has shape \(2,\)"),
        ({"ids": ["a"] * 8}, "ids has names that occur twice: a"),
        ({"ids": ["a"]}, r"ids has shape \(1,\)"),
    ],
)
def test_what_does_not_fit_is_said(changes, said):
    with pytest.raises(UserError, match=said):
        Features(**{"x": X, "labels": LABELS, "split": SPLIT} | changes)


def test_all_faults_come_at_once():
    with pytest.raises(UserError) as error:
        Features(X * np.nan, LABELS[:2], split=[5] * 8, ids=["a"] * 8)
    assert [fault.split(": ")[1].split()[0] for fault in error.value.faults] == ["ids", "labels", "split", "x"]


def row(found: Features) -> dict:
    """As much of a row as its identity takes."""
    return {"stage": "probe", "method": "logistic", "dataset": "d", "model": "m", "protocol": {}, "settings": {},
            "features": found.identity}  # fmt: skip


def test_the_identity_is_a_digest_of_the_arrays_not_a_name():
    key = identity.key(row(Features(X, LABELS, split=SPLIT)))
    assert key == identity.key(row(Features(X.copy(), LABELS, split=SPLIT, model="other", dataset="else")))
    other = X.copy()
    other[7, 2] += 1
    changed = {
        "x": other,
        "labels": np.roll(LABELS, 1),
        "ids": [f"{i}.jpg" for i in range(8)],
    }
    keys = {
        identity.key(row(Features(**{"x": X, "labels": LABELS, "split": SPLIT} | {k: v}))) for k, v in changed.items()
    }
    assert len(keys | {key}) == 4
    # Another split is the same data, split otherwise, as by another seed.
    again = Features(X, LABELS, split=SPLIT[::-1]).identity
    assert again["images_digest"] == Features(X, LABELS, split=SPLIT).identity["images_digest"]
    assert again["dataset_digest"] != Features(X, LABELS, split=SPLIT).identity["dataset_digest"]


def test_an_npz_file_is_opened_like_a_feature_file(tmp_path):
    np.savez(tmp_path / "mine.npz", x=X, labels=LABELS, split=SPLIT, class_names=["bee", "cat"], other=np.ones(3))
    with bb.open(tmp_path / "mine.npz") as file:
        assert file.identity["model"] == "mine"
        assert file.path == tmp_path / "mine.npz"
        assert file.identity["arrays_digest"] == Features(X, LABELS).identity["arrays_digest"]
        np.testing.assert_array_equal(file.features, X)
    assert features.verify(tmp_path / "mine.npz") is None
    np.savez_compressed(tmp_path / "small.npz", x=X.astype("f8"), labels=LABELS)
    assert bb.open(tmp_path / "small.npz").features.dtype == np.float32


class Mine:
    """Would leave a mark if it were unpickled."""

    def __reduce__(self):
        return exec, ("raise SystemExit('unpickled')",)


def npz(path, **members: bytes):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


def npy(array, **how) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **how)
    return file.getvalue()


def said_shape(shape) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return file.getvalue()


def test_a_strangers_npz_file_runs_nothing_and_fills_no_memory(tmp_path):
    labels = npy(LABELS)
    bad = npy(np.array([Mine()], object), allow_pickle=True)
    with pytest.raises(UserError, match="holds Python objects"):
        bb.open(npz(tmp_path / "a.npz", x=npy(X), labels=bad))
    with pytest.raises(UserError, match=r"can.t be read as \.npz"):
        bb.open(npz(tmp_path / "b.npz", x=pickle.dumps(Mine()), labels=labels))
    with pytest.raises(UserError, match="bytes are there"):
        bb.open(npz(tmp_path / "c.npz", x=said_shape((1 << 40, 1 << 10)), labels=labels))
    zeros = np.zeros((100 << 20) // 4, "f4").reshape(-1, 1024)
    with pytest.raises(UserError, match="not read"):
        bb.open(npz(tmp_path / "d.npz", x=npy(zeros), labels=labels))
    with pytest.raises(UserError, match=r"lacks labels: the arrays x, labels.*It holds 'x', 'lables'"):
        bb.open(npz(tmp_path / "e.npz", x=npy(X), lables=labels))
    with pytest.raises(UserError, match="is not a file"):
        bb.open(tmp_path / "none.npz")


@given(st.data())
def test_a_damaged_npz_file_is_refused_or_read(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("damaged") / "a.npz"
    np.savez_compressed(path, x=X, labels=LABELS, split=SPLIT)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)
    try:
        found = bb.open(path)
    except UserError:
        return
    assert len(found) == len(found.labels) == len(found.split)


def test_groups_are_drawn_whole_and_none_may_be_missing():
    x, labels = np.random.default_rng(0).normal(size=(120, 3)), np.arange(120) % 2
    groups = np.repeat([f"p{i}" for i in range(20)], 6)
    found = Features(x, labels, groups=groups)
    assert found.groups.tolist() == groups.tolist()
    assert np.bincount(found.split).tolist() == [84, 12, 24]
    assert all(len({*found.split[groups == group]}) == 1 for group in {*groups})
    assert Features(x, labels, groups=np.arange(120) // 6).groups[7] == "1"
    given = np.arange(120) % 3
    assert Features(x, labels, groups=groups, split=given).split.tolist() == given.tolist()
    for missing in (None, float("nan"), ""):
        with pytest.raises(UserError, match="groups lacks 1 of 120 rows: 3"):
            Features(x, labels, groups=[*groups[:3], missing, *groups[4:]])
    with pytest.raises(UserError, match="features in memory: the images of each class are all of one group"):
        Features(x, labels, groups=labels)
