import json
import shutil

import numpy as np
import pytest

from backbench import details, rows
from backbench.report import head_panels, study
from tests.study import CLASSES, HOSTILE
from tests.test_backbench_details import content, save


@pytest.fixture(scope="module")
def found(study):
    from backbench.report.study import load

    root = study["pictures"]
    read = load(study["results"])
    return read, head_panels.gather(read, cache_dir=study["cache"], data_root=root, datasets=[f"folder:{root}"])


def head_of(found, model, method, start="folder-"):
    picked = [h for h in found[1]["heads"] if h["dataset"].startswith(start)]
    return next(h for h in picked if (h["model"], h["method"]) == (model, method))


def test_the_most_confidently_wrong_are_the_wrong_ones_surest_first(found, study):
    read, gathered = found
    key = next(key for key in read.heads if key[1] == f"poor {HOSTILE}" and key[2] == "logistic")
    kept = details.of(study["results"], read.heads[key])
    wrong = [(sure, i) for i, sure in enumerate(kept["confidence"]) if kept["predicted"][i] != kept["labels"][i]]
    shown = head_of(found, f"poor {HOSTILE}", "logistic")["wrong"]
    assert [one["sure"] for one in shown] == sorted((sure for sure, _ in wrong), reverse=True)
    for one in shown:
        split, name, _ = one["id"].split("/")
        assert (split, name) == ("test", one["is"])
        assert one["said"] != one["is"]
        assert gathered["pictures"][head_of(found, "good", "logistic")["dataset"]]["names"][one["picture"]] == one["id"]


def test_matrix_and_classes_count_the_same_images(found):
    head = head_of(found, f"poor {HOSTILE}", "logistic")
    n = {name: count for name, count, *_ in head["classes"]}
    right = {name: accuracy for name, _, accuracy, *_ in head["classes"]}
    assert set(n) == set(CLASSES)
    for i, (name, line) in enumerate(zip(head["matrix"]["names"], head["matrix"]["counts"], strict=True)):
        assert sum(line) == n[name]
        assert line[i] == round(right[name] * n[name])


def test_maps_hold_all_images_and_share_their_pictures(found):
    gathered = found[1]
    assert len(gathered["maps"]) == 5
    assert {one["n"] for one in gathered["maps"].values()} == {112, 1797}
    tuned = head_of(found, "good", "full")
    assert tuned["map"] is None  # fine-tuned: no frozen features, but the same test images, so that pictures are there
    small = head_of(found, "fair", "small")
    assert all(wrong["picture"] != head_panels.NONE for wrong in small["wrong"])
    assert len(small["wrong"]) == 1
    assert gathered["notes"] == []


def test_what_is_missing_is_said(study, tmp_path):
    read = __import__("backbench.report.study", fromlist=["load"]).load(study["results"])
    without = head_panels.gather(read, cache_dir=tmp_path, data_root=tmp_path)
    assert without["maps"] == {}
    assert "--cache-dir" in without["notes"][0]
    assert head_panels.gather(read, cache_dir=study["cache"], data_root=tmp_path, per_set=0)["notes"] == [
        "This page was made without images (--pictures 0)."
    ]
    unnamed = head_panels.gather(read, cache_dir=study["cache"], data_root=tmp_path)
    assert any("--dataset folder:PATH" in note for note in unnamed["notes"])


def test_details_of_before_there_was_a_confidence(tmp_path):
    save(tmp_path, content([0, 1, 1], [0, 1, 0]))
    gathered = head_panels.gather(study.load(tmp_path), cache_dir=tmp_path, data_root=tmp_path)
    assert gathered["heads"][0]["why"] == "The head's confidence was not stored. Run probe again."


def test_many_heads_stay_small_and_the_rest_is_counted(tmp_path, monkeypatch):
    for i in range(30):
        save(tmp_path, content([0, 1, 1], [0, 1, 0], model=f"m{i}"))
    read = study.load(tmp_path)
    monkeypatch.setattr(head_panels, "HEADS_BYTES", 4000)
    gathered = head_panels.gather(read, cache_dir=tmp_path, data_root=tmp_path)
    shown = len(gathered["heads"])
    assert 0 < shown < 30
    assert len(json.dumps(gathered["heads"])) < 2 * 4000
    assert f"{30 - shown} more heads" in gathered["notes"][-1]


def test_ids_of_other_images_are_not_used(study, tmp_path):
    """A row that claims features of another file's images gets no names and no pictures."""
    row = next(r for r in rows.read(study["results"]) if r["dataset"] == "digits")
    kept = details.of(study["results"], row) | {"ids_digest": "another"}
    rows.append(tmp_path, row | {"details": details.write(tmp_path, kept)})
    gathered = head_panels.gather(study_of(tmp_path), cache_dir=study["cache"], data_root=tmp_path)
    assert {one["id"] for one in gathered["heads"][0]["wrong"]} <= {""}
    assert np.sum(kept["confidence"]) > 0


def study_of(folder):
    from backbench.report.study import load

    return load(folder)


def test_a_damaged_feature_file_costs_its_map_and_not_the_page(study, tmp_path):
    from backbench.report.study import load

    cache = shutil.copytree(study["cache"], tmp_path / "cache")
    path = next(path for path in sorted(cache.rglob("*.h5")) if path.stem == "3.0")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    gathered = head_panels.gather(load(study["results"]), cache_dir=cache, data_root=study["pictures"], per_set=0)
    assert len(gathered["maps"]) == 4
    assert any(f"{path} is damaged" in note for note in gathered["notes"])
