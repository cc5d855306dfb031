"""OpenVINO as an engine: the same features, the same bits however a run went, and a file finished by what began it."""

import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner

from backbench.cache import merge
from backbench.cache.features import open_file
from backbench.cache.writer import Writer
from backbench.data import registry
from backbench.extract import backbones, engine, openvino, plan
from backbench.extract.cli import main
from backbench.extract.engine import Engine, choose, compiled

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model():
    return backbones.create("test_resnet", weights="random").from_pixels.to(memory_format=torch.channels_last)


@pytest.fixture(scope="module")
def batch():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (8, 3, 160, 160), dtype=torch.uint8, generator=generator)
    return pixels.contiguous(memory_format=torch.channels_last)


@pytest.fixture
def here():
    """The engine is installed: its name in feature files."""
    pytest.importorskip("openvino", reason="OpenVINO is optional: pip install 'backbench[openvino]'")
    return openvino.kind()


def ask(tmp_path, *more):
    how = ["--model", "test_resnet", "--weights", "random", "--dataset", "digits", "--precision", "float32"]
    return CliRunner().invoke(main, [*how, "--cache-dir", str(tmp_path), "--results-dir", str(tmp_path), *more])


def test_it_gives_the_same_features_and_the_same_bits_whatever_the_batch(here, model, batch):
    with torch.inference_mode():
        exact, fast = Engine(model, CPU, "float32"), compiled(Engine(model, CPU, "float32"), batch, here)
        assert (fast.compiled, str(fast)) == (here, f"float32, {here}")
        features = fast(batch)
        torch.testing.assert_close(features, exact(batch), rtol=1e-3, atol=1e-4)
        again = compiled(Engine(model, CPU, "float32"), batch, here)
        for one in (fast, again):  # a smaller batch is padded
            assert torch.equal(one(batch), features)
            assert torch.equal(one(batch[:3]), features[:3])


def test_an_odd_batch_is_computed_in_one_piece(here, model, batch):
    with torch.inference_mode():
        odd = compiled(Engine(model, CPU, "float32"), batch[:7], here)(batch[:7])
        torch.testing.assert_close(odd, Engine(model, CPU, "float32")(batch[:7]), rtol=1e-3, atol=1e-4)


def test_bfloat16_is_measured_against_float32(here, model, batch):
    if not openvino.possible("bfloat16"):
        pytest.skip("this processor has no bfloat16, which OpenVINO would silently replace by float32")
    with torch.inference_mode():
        fast = compiled(Engine(model, CPU, "bfloat16"), batch, here)
        cosine = engine.agreement(fast(batch), Engine(model, CPU, "float32")(batch))
    assert 0.9 < cosine < 0.999999


def test_a_signal_is_handled_after_another_thread_has_dropped_the_engine(here, tmp_path):
    """In a process of its own, which SIGSEGV would end: see ``openvino._core``."""
    code = f"""
import gc, os, pathlib, signal, threading, torch
from backbench.extract import openvino

folder = pathlib.Path({str(tmp_path)!r})
batch = torch.zeros(2, 3, 4, 4, dtype=torch.uint8).contiguous(memory_format=torch.channels_last)


class FromPixels(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.rest = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2))

    def forward(self, x):
        return self.rest(x.float())


openvino.build(FromPixels().eval(), batch, "float32", folder)
engines = [openvino.load(folder, "float32", batch)]


def drop():
    engines.clear()
    gc.collect()


thread = threading.Thread(target=drop)
thread.start()
thread.join()
signal.signal(signal.SIGTERM, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGTERM)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


def test_the_fastest_of_a_trial_is_taken(here, model, batch, monkeypatch):
    monkeypatch.setattr(
        engine, "_speed", lambda it, _: 1.0 if it.compiled is False else 9.0 if it.compiled == here else 5
    )
    with torch.inference_mode():
        found, speeds = choose(model, batch, CPU, left=100, precision="float32", compile="auto")
        assert found.compiled is False  # a short run in one format is not timed
        found, speeds = choose(model, batch, CPU, left=1000, precision="float32", compile="auto")
    assert (found.compiled, speeds) == (here, {"float32": 1.0, f"float32, {here}": 9.0})


def test_features_that_disagree_are_not_taken(here, model, batch, monkeypatch, capsys):
    monkeypatch.setattr(engine, "LEAST_COSINE", 1.1)
    with torch.inference_mode():
        found, _ = choose(model, batch, CPU, left=1000, precision="float32", compile="openvino")
    assert found.compiled is False
    assert f"float32, {here} is not used" in capsys.readouterr().err


def test_a_file_begun_by_it_is_finished_by_it_to_the_same_bits(here, tmp_path, monkeypatch):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert ask(whole, "--compile", "openvino").exit_code == 0
    computed, calls = Engine.__call__, []

    def killed(self, batch):
        calls.append(self)
        if len(calls) == 30:
            raise KeyboardInterrupt
        return computed(self, batch)

    monkeypatch.setattr(Engine, "__call__", killed)
    assert ask(stopped, "--compile", "openvino").exit_code != 0
    monkeypatch.setattr(Engine, "__call__", computed)
    assert (stopped / "digits" / "test_resnet.h5.part").exists()
    monkeypatch.setenv("BACKBENCH_ENGINES", str(tmp_path / "lost"))  # converted anew: the cache may be gone
    assert ask(stopped).exit_code == 0
    with open_file(whole / "digits" / "test_resnet.h5") as a, open_file(stopped / "digits" / "test_resnet.h5") as b:
        assert a.identity["compiled"] == b.identity["compiled"] == here
        assert (a.features == b.features).all()


def begun(tmp_path, kind) -> None:
    """An unfinished file of the data set digits that another engine began."""
    imageset, backbone = registry.load("digits", data_root=tmp_path), backbones.create("test_resnet", weights="random")
    identity = plan.identity(imageset, backbone, plan.Settings(device=CPU)) | {"precision": "float32", "compiled": kind}
    rows = {"labels": imageset.labels, "split": imageset.split, "ids": imageset.ids}
    path = tmp_path / "digits" / "test_resnet.h5"
    with Writer(path, identity=identity, class_names=imageset.class_names, dim=96, dtype="float32", **rows):
        pass


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("openvino 1.2.3", "pip install openvino==1.2.3, or start again with --overwrite"),
        ("openvino 1.2.3; rm -rf x", "an engine that this version doesn't know"),
    ],
)
def test_where_the_engine_that_began_a_file_is_missing_the_error_says_what_to_install(tmp_path, kind, said):
    begun(tmp_path, kind)
    result = ask(tmp_path)
    assert result.exit_code == 1
    assert said in re.sub(r"\s+", " ", result.output)
    assert "rm -rf" not in result.output
    assert ask(tmp_path, "--compile", "off", "--overwrite").exit_code == 0


def test_asked_for_without_being_installed_it_is_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(openvino, "kind", lambda: None)
    result = ask(tmp_path, "--compile", "openvino")
    assert result.exit_code == 2
    assert "pip install 'backbench[openvino]'" in result.output
    assert not list(tmp_path.iterdir())


def test_a_missing_shard_is_asked_for_with_the_engine_of_the_others():
    part = SimpleNamespace(identity={"precision": "bfloat16", "compiled": "openvino 2026.4.1"})
    assert merge._format(part) == "--precision bfloat16 --compile openvino"
