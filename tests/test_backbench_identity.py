"""Which rows are the same thing measured again. Rows are as the stages write them, with ``settings`` and before."""

import json
from pathlib import Path

import pytest

from backbench import identity, rows
from tests.conftest import IDENTITY, ROOT

OLD = {
    "objective": 0.3, "class_weight": "none", "C": 1.0, "C_tried": [{"C": 1.0, "val_top1": 0.5}], "evaluations": 3,
    "gap": 1e-5, "precision": "float32", "chosen_on": "val top-1", "test": "read once",
}  # fmt: skip
"""The protocol of logistic as it was before rows had settings."""


def row(stage="probe", *, protocol=OLD, features=None, seed=42, method="logistic", figures=None, **more) -> dict:
    return rows.make(
        stage, dataset="toy", model="resnet18", method=method, seed=seed, figures={"top1": 0.5} | (figures or {}),
        protocol=protocol, features=IDENTITY | (features or {}), device="cpu", seconds=1.0, **more,
    )  # fmt: skip


def same(a: dict, b: dict) -> bool:
    return identity.key(a) == identity.key(b)


@pytest.mark.parametrize(
    "outcome",
    [
        {"protocol": OLD | {"C": 10.0, "C_tried": [], "evaluations": 9, "gap": 0.1, "objective": 0.2}},
        {"protocol": OLD | {"chosen_on": "val cross-entropy", "intervals": "95 %, percentile bootstrap"}},
        {"seed": 43},
        {"features": {"compiled": True, "versions": {"torch": "3.0"}, "path": "elsewhere/a.h5", "seconds": 3.0}},
        {"figures": {"top1": 0.25}},
        {"protocol": {}, "settings": {"class_weight": "none"}},
        {"protocol": OLD | {"C": 10.0}, "settings": {}},
        {"features": {"layer": "last", "pool": "default", "views": "plain"}},  # absent in older files
    ],
)
def test_outcomes_the_seed_and_versions_leave_a_row_what_it_is(outcome):
    assert same(row(), row(**outcome))


@pytest.mark.parametrize(
    "apart",
    [
        {"protocol": OLD | {"class_weight": "balanced"}},
        {"settings": {"class_weight": "balanced"}},
        {"protocol": OLD | {"a_word_of_later": 1}},
        {"features": {"weights": "random, seed 42", "weights_sha256": "1" * 64}},
        {"features": {"weights_sha256": "1" * 64}},
        {"features": {"dataset_digest": "e" * 64}},
        {"features": {"images_digest": "e" * 64}},
        {"features": {"precision": "bfloat16"}},
        {"features": {"transform": {"input_size": [3, 288, 288], "crop_pct": 0.95}}},
        {"features": {"views": "mean5"}},
        {"features": {"input_scale": 255.0}},
        {"method": "ridge"},
        {"figures": {"shots": 5}},
        {"figures": {"source": "toy", "target": "other"}},
        {"stage": "finetune"},
    ],
)
def test_what_was_measured_tells_rows_of_one_name_apart(apart):
    assert not same(row(), row(**apart))


def test_random_weights_are_the_same_with_another_seed_since_they_follow_from_it():
    drawn = [row(features={"weights": f"random, seed {s}", "weights_sha256": str(s) * 32}, seed=s) for s in (42, 43)]
    assert same(*drawn)
    assert not same(row(), drawn[0])


def test_the_recipe_of_a_training_is_what_it_is_and_how_it_went_is_not():
    recipe = {"name": "small", "epochs": 5, "prune": 0.7, "wise": None}
    went = {"start": {"head": "fresh"}, "ended": "all epochs", "test": "read once", "seconds": "of steps"}
    ours = row("cnn", protocol=recipe | went)
    assert same(ours, row("cnn", protocol=recipe | {"ended": "early"}))
    assert same(ours, row("cnn", protocol={}, settings=recipe))
    assert same(ours, row("cnn", protocol=recipe | went | {"evaluated": "again, from the checkpoint"}))
    assert not same(ours, row("cnn", protocol=recipe | went | {"prune": 0}))
    assert not same(ours, row("cnn", protocol=recipe | went | {"views": "none"}))


def test_the_mean_of_a_networks_training_images_follows_from_the_split():
    told = {"weights": "from scratch", "weights_sha256": ""}
    sides = [
        row("cnn", features=told | {"transform": {"input_size": [3, 32, 32], "mean": [m] * 3, "std": [m] * 3}})
        for m in (0.1, 0.2)
    ]
    assert same(*sides)


def test_other_images_go_by_the_training_of_the_head_and_by_digests():
    told = {"source": "toy", "target": "other", "trained": "heads/a", "source_digest": "1", "target_digest": "2"}
    one = row(figures=told | {"trained_key": "k"})
    assert same(one, row(figures=told | {"trained_key": "k", "trained": "moved/a", "source": "called otherwise"}))
    assert not same(one, row(figures=told | {"trained_key": "l"}))
    assert not same(one, row(figures=told | {"trained_key": "k", "target_digest": "3"}))
    assert not same(one, row(figures=told | {"trained_key": "k", "corruption": "blur", "strength": 1}))
    assert not same(row(figures=told), row(figures=told | {"trained": "heads/b"}))  # without a key: by its folder


def test_old_rows_learn_of_new_ones_which_images_they_are_of():
    old, new = row(), row(features={"images_digest": "i" * 64})
    other_split = row(features={"dataset_digest": "e" * 64, "images_digest": "i" * 64}, seed=43)
    unknown = row(features={"dataset_digest": "f" * 64}, seed=44)
    keys = identity.keys([old, new, other_split, unknown])
    assert keys[0] == keys[1] == keys[2] == identity.key(new)
    assert keys[3] not in keys[:3]


def test_a_key_is_the_same_from_memory_and_from_the_file(tmp_path: Path):
    made = row(features={"transform": {"input_size": (3, 224, 224), "crop_pct": 0.95}})
    rows.append(tmp_path, made)
    assert identity.key(rows.read(tmp_path)[0]) == identity.key(made)


def test_no_row_of_the_study_has_a_setting_that_is_an_outcome():
    study = [json.loads(line) for line in (ROOT / "docs/study/rows.jsonl").read_text().splitlines()]
    assert all(identity.settings(row) == {} for row in study)
    assert len({identity.key(row) for row in study}) == len(study)
