"""Trials and compiled backbones that are kept: used where they hold, passed over where they don't, and bounded."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from backbench.cache.features import open_file
from backbench.data import registry
from backbench.extract import ahead, backbones, engine, extraction, plan, trials
from backbench.extract.trials import Kept

CPU = torch.device("cpu")
KEY = {"model": "net", "batch": [8, 3, 32, 32]}


def folder() -> Path:
    (one,) = trials.home().iterdir()
    return one


def library(folder: Path) -> None:
    (folder / "model.so").write_bytes(b"code")


def test_speeds_are_kept_for_the_same_key_only():
    one = Kept(KEY)
    one.speeds = {"float32": 10.0, "bfloat16": None}
    one.save()
    assert Kept(KEY).speeds == {"float32": 10.0, "bfloat16": None}
    assert Kept(KEY | {"batch": [4, 3, 32, 32]}).speeds == {}


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"\xff{", b'{"key": 1}', "speeds 0", "speeds text", "old", "of another key"],
    ids=lambda content: str(content)[:12],
)
def test_a_damaged_foreign_or_old_file_is_passed_over(content):
    one = Kept(KEY)
    one.speeds = {"float32": 10.0}
    one.save()
    path = folder() / trials.FILE
    found = json.loads(path.read_bytes())
    changed = {
        "speeds 0": {"speeds": {"float32": 0}},
        "speeds text": {"speeds": {"float32": "fast"}},
        "old": {"timed": time.time() - trials.DAYS * 86_400 - 1},
        "of another key": {"key": KEY | {"model": "other"}},
    }
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(found | changed[content]).encode())
    assert Kept(KEY).speeds == {}


def test_compiled_files_are_built_once_and_again_where_they_are_not_whole():
    built = []

    def build(folder):
        built.append(folder)
        library(folder)

    assert (Kept(KEY).built("torch", build) / "model.so").read_bytes() == b"code"
    assert Kept(KEY).has("torch")
    Kept(KEY).built("torch", build)
    assert len(built) == 1
    (folder() / "torch" / "model.so").write_bytes(b"c0de")
    assert not Kept(KEY).has("torch")
    assert (Kept(KEY).built("torch", build) / "model.so").read_bytes() == b"code"
    assert len(built) == 2


def test_a_build_that_fails_leaves_nothing():
    def build(folder):
        library(folder)
        raise RuntimeError("no compiler")

    with pytest.raises(RuntimeError):
        Kept(KEY).built("torch", build)
    assert not Kept(KEY).has("torch")
    assert not list(folder().iterdir())


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="Windows has no such permissions")
def test_a_folder_that_others_can_write_to_is_not_used():
    trials.home().mkdir(parents=True)
    trials.home().chmod(0o777)
    one = Kept(KEY)
    one.built("torch", library)
    one.save()
    assert not list(trials.home().iterdir())
    assert one.has("torch")  # as long as the process lives


def test_those_used_longest_ago_make_room(monkeypatch):
    for i in range(4):
        one = Kept(KEY | {"model": str(i)})
        one.built("torch", lambda folder: (folder / "model.so").write_bytes(bytes(600)))
        os.utime(one.folder / trials.FILE, (i, i))
    Kept(KEY | {"model": "1"})  # used again
    monkeypatch.setattr(trials, "MOST_BYTES", 2000)
    one.save()
    left = {json.loads(path.read_bytes())["key"]["model"] for path in trials.home().glob(f"*/{trials.FILE}")}
    assert left == {"1", "3"}


def test_what_a_killed_build_left_is_removed_after_a_day():
    left = Kept(KEY).folder / "new-killed"
    left.mkdir()
    Kept(KEY).save()
    assert left.exists()
    os.utime(left, (0, 0))
    Kept(KEY).save()
    assert not left.exists()


def test_a_trial_that_a_run_contradicts_is_forgotten():
    one = Kept(KEY)
    for seconds, forgotten in ((10.0, False), (4.0, False), (40.0, True), (2.0, True)):
        one.speeds = {"float32": 100.0}
        one.save()
        assert one.judge("float32", 1000, seconds, 32) == forgotten
        assert (Kept(KEY).speeds == {}) == forgotten
    one.speeds = {"float32": 100.0}
    assert not one.judge("float32", 32, 40.0, 32)  # too few images to tell
    assert not one.judge("bfloat16", 1000, 40.0, 32)


def test_the_key_holds_what_decides_features(tmp_path):
    settings, batch = plan.Settings(device=CPU), torch.zeros(8, 3, 160, 160)
    one = backbones.create("test_resnet", weights="random")
    key = trials.key(one, settings, batch)
    assert key == trials.key(backbones.create("test_resnet", weights="random"), settings, batch)
    assert key != trials.key(backbones.create("test_resnet", weights="random", seed=1), settings, batch)
    assert key != trials.key(one, settings, batch[:4])
    other = backbones.create("test_resnet", weights="random")
    other.config["mean"] = (0.1, 0.2, 0.3)
    assert key != trials.key(other, settings, batch)
    assert key["machine"][0] == "cpu"
    assert json.loads(json.dumps(key))


@pytest.fixture
def small(tmp_path):
    """``small(name, **settings)`` extracts 96 images and returns the run."""
    rng = np.random.default_rng(0)
    for i in range(96):
        path = tmp_path / "images" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(path)
    imageset = registry.load(f"folder:{tmp_path / 'images'}", data_root=tmp_path)

    def run(name, **settings):
        from backbench.extract.run import extract

        how = plan.Settings(device=CPU, **{"precision": "float32", **settings})
        backbone = backbones.create("test_resnet", weights="random")
        (done,) = extract([plan.planned(imageset, backbone, how, tmp_path / f"{name}.h5")], how)
        assert done.fault is None, done.fault
        return done

    return run


def test_a_backbone_that_was_compiled_here_starts_so_at_once(small, monkeypatch, capsys):
    """Without tracing or timing it again, and with the same bits; --overwrite times again."""
    first = small("a", compile="on")
    assert first.engine.compiled is True
    assert "the backbone was compiled in" in capsys.readouterr().err
    monkeypatch.setattr(ahead, "build", lambda *_: pytest.fail("it is compiled again"))
    timed = []
    monkeypatch.setattr(engine, "_speed", lambda it, _: timed.append(it) or 50.0)
    again = small("b", compile="on")
    assert again.engine.compiled is True
    assert not timed
    said = capsys.readouterr().err
    assert "as timed here on" in said
    assert "was compiled in" not in said
    assert again.trial["compile_seconds"] is None
    with open_file(first.path) as one, open_file(again.path) as other:
        assert (one.features == other.features).all()
        assert one.identity["compiled"] is other.identity["compiled"] is True
    small("b", compile="on", overwrite=True)
    assert timed


def test_on_auto_a_kept_engine_is_taken_even_where_compiling_would_not_pay(small, monkeypatch):
    small("a", compile="on")
    monkeypatch.setattr(ahead, "build", lambda *_: pytest.fail("it is compiled again"))
    monkeypatch.setattr(extraction, "FEW", 0)
    monkeypatch.setattr(engine, "FEW", 0)
    kept = json.loads((path := folder() / trials.FILE).read_bytes())
    kept["speeds"] = {"float32": 10.0, "float32, compiled": 20.0}
    path.write_text(json.dumps(kept))
    assert small("b").engine.compiled is True
    kept["speeds"] = {"float32": 20.0, "float32, compiled": 10.0}
    path.write_text(json.dumps(kept))
    assert small("c").engine.compiled is False


def test_the_reduced_format_is_compiled_even_where_a_busy_machine_timed_it_slow(monkeypatch):
    """Beside busy processes float32 was found at 25 images/s and bfloat16 at 20. Compiled, bfloat16 is far ahead."""
    monkeypatch.setattr(engine, "fastest", lambda device: "bfloat16")
    monkeypatch.setattr(engine, "LEAST_COSINE", 0.9)
    monkeypatch.setattr(engine.openvino, "kind", lambda: None)
    monkeypatch.setattr(engine, "_speed", lambda it, _: 25.0 if it.precision == "float32" else 20.0)
    monkeypatch.setattr(engine, "CLEAR", 0)
    asked = []
    monkeypatch.setattr(engine, "compiled", lambda it, *_: asked.append(it.precision))
    model = backbones.create("test_resnet", weights="random").model
    batch = torch.randn(8, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found, _ = engine.choose(model, batch, CPU, left=10_000)
    assert (found.precision, asked) == ("float32", ["bfloat16"])
