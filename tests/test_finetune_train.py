"""The loop: stopped at any moment it goes on to the same weights, and what can go wrong says so and loses nothing."""

import json
import os
import signal
import time

import numpy as np
import pytest
import safetensors.torch
import timm
import torch

from backbench import UserError
from backbench.finetune.dataloader import Images
from backbench.finetune.recipe import make
from backbench.finetune.step import Step
from backbench.finetune.train import Trainer
from backbench.training import state
from tests import tuning

ALL = ("mixup=0.5", "cutmix=1", "re_prob=0.5", "drop_path=0.2", "ema=0.3", "final_scale=1.2", "final_epochs=1")


@pytest.fixture
def folder(tmp_path):
    tuning.pictures(tmp_path / "images")
    return tmp_path


def weights(path):
    return (path / "model.safetensors").read_bytes()


def test_killed_five_times_the_weights_are_those_of_an_unbroken_run(folder):
    """Everything that draws random numbers or has a state of its own is on."""
    how = [*(word for one in ALL for word in ("--set", one)), "--set", "batch_norm=train", "--epochs", "4"]
    how = (folder, *how)
    tuning.tune(*how, "--out", folder / "whole", command="full", strategy="discriminative")
    words = tuning.line(
        *how, "--out", folder / "killed", "--save-every", "0", command="full", strategy="discriminative"
    )
    rng, kills, seen = np.random.default_rng(0), 0, set()
    kept = folder / "killed" / state.FILE
    while kills < 5:
        process = tuning.in_child(words)
        before = kept.stat().st_mtime_ns if kept.exists() else 0
        while process.is_alive() and not (kept.exists() and kept.stat().st_mtime_ns != before):
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.15))
        assert process.is_alive(), "it ended before it was killed"
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        kills += 1
        seen.add(json.dumps(state.about(folder / "killed")["progress"]["updates"]))
    assert len(seen) > 1  # it got further between kills
    process = tuning.in_child(words)
    process.join()
    assert weights(folder / "killed") == weights(folder / "whole")
    assert not kept.exists()
    ours, theirs = (json.loads((folder / name / "model.json").read_text()) for name in ("killed", "whole"))
    assert ours["chosen"] == theirs["chosen"]
    assert ours["row"]["top1"] == theirs["row"]["top1"]


@pytest.mark.parametrize(
    ("number", "code", "whom"),
    [(signal.SIGTERM, 143, os.kill), (signal.SIGINT, 130, os.kill), (signal.SIGTERM, 143, os.killpg)],
)
def test_asked_to_stop_it_finishes_the_step_and_saves(folder, number, code, whom):
    """A batch system asks every process of a job, those that make pictures too."""
    how = ["--epochs", "3", "--set", "head_epochs=1"] + (["--workers", "1"] if whom is os.killpg else [])
    tuning.tune(folder, "--out", folder / "whole", *how, model="test_vit", strategy="gradual")
    words = tuning.line(folder, "--out", folder / "cut", *how, model="test_vit", strategy="gradual")
    process = tuning.in_child(words)
    while not (folder / "cut" / state.FILE).exists():
        time.sleep(0.01)
    time.sleep(0.2)
    whom(process.pid, number)
    process.join()
    assert process.exitcode == code
    assert state.about(folder / "cut")["progress"]["updates"] > 0  # long before the next saving was due
    tuning.tune(folder, "--out", folder / "cut", *how, model="test_vit", strategy="gradual")
    assert weights(folder / "cut") == weights(folder / "whole")


def trainer(folder, recipe, model=None, *, evaluate=None, **how):
    """On the pictures, with an ``evaluate`` that always finds val a little better."""
    imageset = tuning.imageset(folder / "images")
    torch.manual_seed(0)
    model = model or timm.create_model("test_resnet", num_classes=3)
    config = timm.data.resolve_data_config({"input_size": (3, 64, 64)}, model=model)
    calls = []

    def better(*_):
        calls.append(0)
        return len(calls) / 100, 1.0

    return Trainer(
        model,
        recipe,
        Images(imageset, config, recipe, seed=0),
        np.flatnonzero(imageset.split == 0),
        tuning.accelerator(),
        n_classes=3,
        evaluate=evaluate or better,
        folder=folder / "run",
        identity={},
        seed=0,
        **how,
    )


def test_pieces_of_a_batch_make_the_step_of_the_whole(folder):
    """Mixing included; BatchNorm's statistics are pretraining's, so that no image depends on its company."""
    found = []
    for micro in (None, 4, 2):
        made = trainer(folder, make("simple", ("mixup=1", "cutmix=1", "clip=0"), epochs=1, lr=1e-3, strategy="full"))
        made.step.micro = micro or made.step.micro
        made.run()
        found.append(made.model.state_dict())
        (folder / "run" / state.FILE).unlink()
    for key, tensor in found[0].items():
        assert torch.allclose(tensor, found[1][key], atol=2e-5), key
        assert torch.allclose(tensor, found[2][key], atol=2e-5), key


class Small(torch.nn.Module):
    """A device with room for four images at a time, in front of a model."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def __getattr__(self, name):
        return super().__getattr__(name) if name in ("inner", "_modules") else getattr(self._modules["inner"], name)

    def forward(self, x):
        if len(x) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.inner(x)


def test_out_of_memory_halves_what_goes_through_at_a_time(folder, capsys):
    recipe = make("simple", ("batch_size=16",), epochs=1, strategy="full")
    made = trainer(folder, recipe)
    made.step.wrapped = Small(made.model)
    made.step.wrap = lambda: None
    made.run()
    assert made.step.micro == 4
    assert "continues with 4 images at a time" in capsys.readouterr().err
    (folder / "run" / state.FILE).unlink()
    whole = trainer(folder, recipe)
    whole.run()
    for key, tensor in whole.model.state_dict().items():
        assert torch.allclose(tensor, made.model.state_dict()[key], atol=2e-5), key


def test_no_room_for_two_images_is_said(folder):
    made = trainer(folder, make("simple", epochs=1, strategy="full"))
    made.step.micro = 2
    with pytest.raises(UserError, match=r"2 images at a time .* --grad-checkpointing"):
        made.step._halve()


def test_a_device_that_fails_loses_nothing(folder):
    made = trainer(folder, make("simple", epochs=3, strategy="full"), save_every=0)
    calls = []

    def lost(module, args):
        calls.append(0)
        if len(calls) == 3:
            raise RuntimeError("CUDA error: unspecified launch failure")

    hook = made.model.register_forward_pre_hook(lost)
    with pytest.raises(UserError, match=r"cpu failed: CUDA error: .* --device names another device"):
        made.run()
    hook.remove()
    assert state.about(folder / "run")["progress"]["updates"] == 2
    assert trainer(folder, make("simple", epochs=3, strategy="full")).run().ended == "all epochs"


def test_a_fault_that_is_ours_is_no_device(folder):
    made = trainer(folder, make("simple", epochs=1, strategy="full"))
    made.model.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        made.run()


def test_a_loss_that_is_not_finite_ends_it_with_the_best_so_far(folder):
    made = trainer(folder, make("simple", ("clip=0", "optimizer=sgd"), epochs=5, lr=1e6, strategy="full"))
    at = made.run()
    assert at.ended.startswith("diverged: the loss is not finite at epoch")
    assert all(torch.isfinite(tensor).all() for tensor in made.best.values() if tensor.is_floating_point())
    again = trainer(folder, make("simple", ("clip=0", "optimizer=sgd"), epochs=5, lr=1e6, strategy="full"))
    assert again.run().ended == at.ended  # and stays so


def test_a_val_that_collapses_ends_it(folder):
    found = iter([(0.9, 1.0), (0.95, 0.9), (0.3, 2.0), (0.96, 0.8), (0.3, 2.0), (0.4, 2.0)])
    at = trainer(folder, make("simple", epochs=9, strategy="full"), evaluate=lambda *_: next(found)).run()
    assert at.ended == "diverged: val top-1 is 40.0% after epoch 5, and was 96.0%"
    assert at.best == {"epoch": 3, "weights": "tuned", "val_top1": 0.96, "val_nll": 0.8, "scale": 1.0}


def test_the_choice_goes_by_cross_entropy_and_progress_by_top1(folder):
    found = iter([(0.9, 0.3), (0.5, 0.2), (0.6, 0.4), (0.7, 0.5)])
    recipe = make("simple", ("patience=3",), epochs=9, strategy="full")
    at = trainer(folder, recipe, evaluate=lambda *_: next(found)).run()
    assert at.ended == "no progress in 3 epochs"
    assert (at.best["epoch"], at.best["val_top1"]) == (1, 0.5)


def test_patience_and_ties(folder):
    """Patience 2 at 0.001 of top-1. Of equal cross-entropies the higher top-1 is taken, of both equal the first."""
    found = iter([(0.7, 0.9), (0.71, 0.8), (0.7101, 0.8), (0.7101, 0.8), (0.1, 0.1)])
    recipe = make("simple", ("patience=2", "min_delta=0.001"), epochs=9, strategy="full")
    at = trainer(folder, recipe, evaluate=lambda *_: next(found)).run()
    assert at.ended == "no progress in 2 epochs"
    assert at.best["epoch"] == 2
    assert [row["epoch"] for row in at.history] == [0, 1, 2, 3]


def test_the_rate_warms_up_and_falls_and_is_each_groups_own(folder):
    recipe = make(
        "simple", ("warmup_epochs=1",), epochs=4, lr=1e-3, batch_size=8, head_scale=1.0, strategy="discriminative"
    )
    made = trainer(folder, recipe)
    steps = 3  # 24 images
    seen = []
    made.step.optimizer.step = lambda: seen.append([group["lr"] for group in made.optimizer.param_groups])
    made.run()
    assert len(seen) == 4 * steps
    assert [len(set(np.round(rates, 12))) for rates in seen[steps:]] == [6] * (3 * steps)
    head = [max(rates) for rates in seen]
    assert head[0] == pytest.approx(1e-5)
    assert head[:steps] == sorted(head[:steps])
    assert head[steps:] == sorted(head[steps:], reverse=True)
    # Cosine over 12 steps: at the sixth half of the rate.
    assert head[6] == pytest.approx(0.5e-3)


def test_a_state_of_another_model_is_refused(folder):
    trainer(folder, make("simple", epochs=1, strategy="full")).run()
    other = timm.create_model("test_efficientnet", num_classes=3)
    with pytest.raises(UserError, match=r"doesn't fit this run .* --overwrite starts again"):
        trainer(folder, make("simple", epochs=1, strategy="full"), other).run()
    (folder / "run" / state.FILE).write_bytes(b"junk")
    with pytest.raises(UserError, match="is not a training state"):
        state.about(folder / "run")


def test_a_state_keeps_every_optimizers_numbers(tmp_path):
    for name in ("adamw", "sgd", "nadam", "lion"):
        from timm.optim import create_optimizer_v2

        def fresh(name=name):
            torch.manual_seed(0)
            model = torch.nn.Linear(3, 2)
            return model, create_optimizer_v2(model, opt=name, lr=0.1)

        def update(model, optimizer):
            optimizer.zero_grad()
            model(torch.ones(1, 3)).sum().backward()
            optimizer.step()

        model, optimizer = fresh()
        update(model, optimizer)
        state.write(tmp_path, model=model, optimizer=optimizer, ema=None, kept={}, about={})
        again, theirs = fresh()
        state.read(tmp_path, model=again, optimizer=theirs, ema=None)
        update(model, optimizer)
        update(again, theirs)
        assert torch.equal(model.weight, again.weight), name


def test_adaptive_clipping_leaves_the_classifier(folder):
    model = timm.create_model("test_resnet", num_classes=3)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 100.0)
    recipe = make("simple", ("agc=0.01",), strategy="full")
    Step(model, None, None, recipe, tuning.accelerator(), n_classes=3, seed=0, micro=2)._clip()
    assert model.fc.weight.grad.max() == 100
    assert model.conv1[0].weight.grad.norm() < 0.02 * max(1, model.conv1[0].weight.norm())


def test_a_full_disk_is_said_and_what_was_there_stays(tmp_path):
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    state.write(tmp_path, model=model, optimizer=optimizer, ema=None, kept={}, about={"n": 1})
    before = (tmp_path / state.FILE).read_bytes()
    place = tmp_path / f".{state.FILE}.{os.getpid()}.new"
    place.mkdir()  # no file can be made there
    with pytest.raises(UserError, match="can't be written"):
        state.write(tmp_path, model=model, optimizer=optimizer, ema=None, kept={}, about={"n": 2})
    if place.exists():
        place.rmdir()
    assert (tmp_path / state.FILE).read_bytes() == before
    assert safetensors.torch.load_file(tmp_path / state.FILE).keys() == {"model.weight", "model.bias"}
