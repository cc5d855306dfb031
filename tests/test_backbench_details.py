import json
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backbench import UserError, details, rows

IDS = [f"images/{i}.png" for i in range(10)]


def content(predicted, labels, *, model="m", dataset="d", method="logistic", seed=42, ids=None, k=3, **more):
    """Details as a stage gives them to ``write``, with numpy's arrays."""
    predicted, labels = np.array(predicted), np.array(labels)
    n = np.bincount(labels, minlength=k)
    hits = np.bincount(labels[predicted == labels], minlength=k)
    pairs = sorted({(a, b) for a, b in zip(labels.tolist(), predicted.tolist(), strict=True) if a != b})
    counted = [[a, b, int(((labels == a) & (predicted == b)).sum())] for a, b in pairs]
    return {
        "dataset": dataset,
        "dataset_digest": "d" * 64,
        "model": model,
        "method": method,
        "seed": seed,
        "shots": None,
        "class_names": ["ant", "bee", "cow", "dog"][:k],
        "ids_digest": details.ids_digest(IDS[: len(labels)] if ids is None else ids),
        "predicted": predicted,
        "labels": labels,
        "per_class": {"accuracy": np.where(n > 0, hits / np.maximum(n, 1), np.nan), "n": n},
        "confusions": sorted(counted, key=lambda pair: -pair[2]),
        "curve": None,
        "calibration": None,
    } | more


def row(told, **more):
    """The row of such details."""
    top1 = float((np.array(told["predicted"]) == told["labels"]).mean())
    figures = {
        "val_top1": top1,
        "top1": top1,
        "top1_low": max(0.0, top1 - 0.1),
        "top1_high": min(1.0, top1 + 0.1),
        "converged": True,
    }
    return rows.make(
        "probe",
        **{key: told[key] for key in ("dataset", "model", "method", "seed")},
        figures=figures | {"shots": told["shots"]} | more,
        protocol={},
        features={"input_scale": 1.0},
        device="cpu",
        seconds=1.0,
    )


def save(folder, told, **more):
    """Write details and their row."""
    made = row(told, details=details.write(folder, told), **more)
    rows.append(folder, made)
    return made


def test_what_is_written_is_read_with_plain_numbers_and_null_for_nan(tmp_path):
    told = content([0, 1, 1, 0], [0, 1, 0, 0], seed=np.int64(7))
    relative = details.write(tmp_path, told)
    assert relative.startswith("details/2")
    assert [path.name for path in (tmp_path / "details").iterdir()] == [relative.split("/")[1]]
    found = details.read(tmp_path, relative)
    assert (found["format"], found["schema"], found["seed"]) == ("backbench details", 1, 7)
    assert found["predicted"] == [0, 1, 1, 0]
    assert found["per_class"] == {"accuracy": [2 / 3, 1.0, None], "n": [3, 1, 0]}
    assert found["confusions"] == [[0, 1, 1]]
    assert found["created"].endswith("+00:00")


@settings(max_examples=30, deadline=None)
@given(name=st.text(min_size=1), predicted=st.lists(st.integers(0, 2), min_size=1, max_size=9))
def test_any_name_is_kept_and_makes_a_safe_file_name(tmp_path_factory, name, predicted):
    folder = tmp_path_factory.mktemp("any")
    told = content(predicted, [1] * len(predicted), model=name, class_names=[name, "", "\ud800"])
    relative = details.write(folder, told)
    assert set(relative.removeprefix("details/")) <= set(
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-"
    )
    assert len(relative) < 200
    found = details.read(folder, relative)
    assert (found["model"], found["class_names"]) == (name, [name, "", "\ud800"])


def test_other_content_has_another_name_and_the_same_the_same(tmp_path):
    told = content([0], [0], created="2026-01-02T03:04:05.678+00:00")
    one, two = details.write(tmp_path, told), details.write(tmp_path, told | {"seed": 1})
    assert one != two
    assert one.startswith("details/20260102030405_d_m_logistic_")
    assert details.write(tmp_path, told) == one


def test_a_missing_key_is_the_stages_mistake(tmp_path):
    told = content([0], [0])
    del told["curve"], told["labels"]
    with pytest.raises(ValueError, match="labels, curve"):
        details.write(tmp_path, told)


@pytest.mark.parametrize("blocked", ["file", "folder"])
def test_what_cannot_be_written_is_said_and_leaves_nothing(tmp_path, monkeypatch, blocked):
    if blocked == "file":
        (tmp_path / "details").write_text("in the way")
    else:
        monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(UserError, match="predictions were not written"):
        details.write(tmp_path, content([0], [0]))
    assert blocked == "file" or not list((tmp_path / "details").iterdir())


@pytest.mark.parametrize(
    "relative", ["../rows.jsonl", "/etc/hostname", "", ".", "details/../..", "a\0b", 5, None, ["x"]]
)
def test_a_path_out_of_the_results_is_refused(tmp_path, relative):
    with pytest.raises(UserError, match="not a path in"):
        details.read(tmp_path / "results", relative)


def test_links_out_of_the_results_loops_and_pipes_are_refused(tmp_path):
    folder = tmp_path / "results" / "details"
    folder.mkdir(parents=True)
    outside = tmp_path / "outside.json"
    outside.write_text("{}")
    (folder / "link.json").symlink_to(outside)
    (folder / "loop.json").symlink_to(folder / "loop.json")
    os.mkfifo(folder / "pipe.json")
    for name, message in (
        ("link", "not a path in"),
        ("loop", "not (a path in|there)"),
        ("pipe", "not there"),
        ("none", "not there"),
    ):
        with pytest.raises(UserError, match=message):
            details.read(tmp_path / "results", f"details/{name}.json")


BROKEN = {
    "format": "tar",
    "schema": 2,
    "class_names": ["a", 1, "b"],
    "labels": [0, 1, 3],
    "predicted": [0, 1],
    "dataset_digest": None,
    "ids_digest": 7,
    "per_class": {"accuracy": [0.5, 1.5, None], "n": [1, 1, 1]},
    "confusions": [[0, 1]],
    "curve": [{"n_train": 5}],
    "calibration": {"before": {"n": [1], "confidence": [0.5], "accuracy": []}, "after": None},
}


@pytest.mark.parametrize("key", BROKEN)
def test_a_broken_file_is_refused_by_what_is_wrong(tmp_path, key):
    path = tmp_path / details.write(tmp_path, content([0, 1, 2], [0, 1, 1]))
    whole = json.loads(path.read_text())
    path.write_text(json.dumps(whole | {key: BROKEN[key]}))
    with pytest.raises(UserError, match=f"not a details file: .*{key}"):
        details.read(tmp_path, path.relative_to(tmp_path).as_posix())
    del whole[key]
    path.write_text(json.dumps(whole))
    with pytest.raises(UserError, match=f"not a details file: .*{key}"):
        details.read(tmp_path, path.relative_to(tmp_path).as_posix())


SETS = {"coverage": [1.0, 0.5, None], "size": [1.5, 2, None]}


def test_prediction_sets_by_class_are_kept_and_may_be_missing(tmp_path):
    told = content([0, 1, 2], [0, 1, 1], prediction_sets={"lac_90": SETS})
    assert details.read(tmp_path, details.write(tmp_path, told))["prediction_sets"] == {"lac_90": SETS}
    assert "prediction_sets" not in details.read(tmp_path, details.write(tmp_path, content([0], [0])))


@pytest.mark.parametrize(
    "broken",
    [
        None, [SETS], {"lac_90": None}, {"lac_90": {"coverage": [1.0, 0.5, None]}},
        *({"lac_90": SETS | change} for change in (
            {"coverage": [1.0, 1.5, None]}, {"coverage": [1.0, None]}, {"size": [1.5, -1, None]},
            {"size": [1.5, "2", None]}, {"size": [1.5]}, {"size": [1.5, 10**400, None]}, {"size": 2},
        )),
    ],
)  # fmt: skip
def test_broken_prediction_sets_are_refused(tmp_path, broken):
    path = tmp_path / details.write(tmp_path, content([0, 1, 2], [0, 1, 1]))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"prediction_sets": broken}))
    with pytest.raises(UserError, match="not a details file: prediction_sets not of the expected shape"):
        details.read(tmp_path, path.relative_to(tmp_path).as_posix())


@pytest.mark.parametrize(
    "text",
    ["", "[]", "nul", '{"a": NaN}', "[" * 100_000, "\ud800", f"[{'9' * 5000}]", '{"format": "backbench details"}'],
)
def test_no_json_or_another_is_refused(tmp_path, text):
    (tmp_path / "x.json").write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(UserError, match="not a details file"):
        details.read(tmp_path, "x.json")


def test_a_huge_file_is_not_read(tmp_path):
    with (tmp_path / "x.json").open("wb") as file:
        file.truncate(details.MOST_BYTES + 1)
    with pytest.raises(UserError, match="larger than 256 MB"):
        details.read(tmp_path, "x.json")


def test_curves_and_calibration_are_kept(tmp_path):
    bins = {"n": [0, 4], "confidence": [None, 0.9], "accuracy": [None, 1.0]}
    curve = [{"n_train": 10, "top1": 0.5, "top1_low": 0.4, "top1_high": 0.6}, {"n_train": 20, "top1": 0.7, "note": "x"}]
    more = {"curve": curve, "calibration": {"before": bins, "after": bins}}
    found = details.read(tmp_path, details.write(tmp_path, content([0], [0], **more)))
    assert {key: found[key] for key in more} == more


def test_details_of_another_row_are_refused(tmp_path):
    told = content([0, 1, 2], [0, 1, 1])
    made = save(tmp_path, told)
    assert details.of(tmp_path, made)["predicted"] == [0, 1, 2]
    for other in ({"model": "n"}, {"seed": 1}, {"shots": 5}, {"top1": 0.7}, {"top1": None}):
        with pytest.raises(UserError, match="belongs to another row"):
            details.of(tmp_path, made | other)


def test_the_digest_of_ids_is_their_own_in_their_order():
    assert details.ids_digest(["a", "b"]) == details.ids_digest(np.array(["a", "b"]))
    different = [["a", "b"], ["b", "a"], ["ab"], ["a,b"], ['a", "b'], []]
    assert len({details.ids_digest(ids) for ids in different}) == len(different)
    assert details.ids_digest(["\ud800é"]) != details.ids_digest(["\ud801é"])
