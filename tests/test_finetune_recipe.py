"""Recipes, as typed and as meant."""

import pytest

from backbench import UsageError
from backbench.finetune.recipe import PRESETS, make


def test_published_is_the_studys():
    """facts.md: AdamW, lr 1e-4, weight decay 1e-5, batch 64, at most 50 epochs, patience 8, 0.001; 5 then 10 epochs."""
    found = make("published", strategy="gradual")
    assert (found.optimizer, found.lr, found.weight_decay, found.batch_size, found.epochs) == (
        "adamw", 1e-4, 1e-5, 64, 50,
    )  # fmt: skip
    assert (found.patience, found.min_delta, found.head_epochs, found.stage_epochs) == (8, 0.001, 5, 10)
    assert (found.schedule, found.warmup_epochs, found.batch_norm) == ("constant", 0, "train")
    assert PRESETS["published"].strategy == "full"


def test_settings_take_their_kind_and_place():
    found = make("simple", ("mixup=0.2", "optimizer=sgd", "auto_augment=rand-m3-mstd0.5"), lr=1e-3, epochs=None)
    assert (found.mixup, found.optimizer, found.auto_augment, found.lr) == (0.2, "sgd", "rand-m3-mstd0.5", 1e-3)
    assert found.epochs == PRESETS["simple"].epochs


def test_all_faults_come_at_once():
    wrong = ("mixpu=1", "epochs=2.5", "batch_size=7", "smoothing=1", "schedule=warm", "optimizer=adamq", "lr=0",
             "auto_augment=foo", "hflip", "crop=true")  # fmt: skip
    with pytest.raises(UsageError) as stop:
        make("simple", wrong, wise=1.5)
    text = str(stop.value)
    assert len(stop.value.faults) == len(wrong) + 1
    for words in (
        "Did you mean mixup",
        "epochs=2.5",
        "even number",
        "cosine, constant",
        "Did you mean adam",
        "wise=1.5",
    ):
        assert words in text


def test_wise_needs_the_probes_head():
    with pytest.raises(UsageError, match="lp-ft"):
        make("simple", strategy="full", wise=0.5)
    assert make("full", strategy="gradual").wise is None
    assert make("full").wise == "auto"


def test_few_epochs_keep_a_quarter_for_larger_pictures():
    assert make("full", epochs=3).final_epochs == 0
    assert make("full", epochs=30).final_epochs == 3
