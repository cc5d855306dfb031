"""The forward engine: the same features however it runs, and a choice that can be relied on."""

import pytest
import torch

from backbench import UserError
from backbench.extract import backbones, engine
from backbench.extract.engine import Engine, agreement, choose, fastest

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model():
    return backbones.create("test_resnet", weights="random").model.to(memory_format=torch.channels_last)


@pytest.fixture(scope="module")
def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(8, 3, 160, 160, generator=generator).contiguous(memory_format=torch.channels_last)


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


def test_reduced_precision_is_measured_against_float32(model, batch):
    exact = Engine(model, CPU, "float32")(batch)
    assert agreement(Engine(model, CPU, "float32")(batch), exact) == pytest.approx(1)
    assert 0.9 < agreement(Engine(model, CPU, "bfloat16")(batch), exact) < 1
    assert fastest(CPU) in ("float32", "bfloat16")


def test_compiled_gives_the_same_features_for_full_and_smaller_batches(model, batch):
    plain, compiled = Engine(model, CPU, "float32"), Engine(model, CPU, "float32", compiled=True)
    for n in (8, 3):
        torch.testing.assert_close(compiled(batch[:n]), plain(batch[:n]), rtol=1e-4, atol=1e-5)


def test_what_is_faster_is_taken_and_said(model, batch, monkeypatch):
    monkeypatch.setattr(engine, "fastest", lambda device: "bfloat16")
    monkeypatch.setattr(engine, "LEAST_COSINE", 0.9)
    for faster in ("float32", "bfloat16"):
        monkeypatch.setattr(engine, "_speed", lambda it, _, best=faster: 10.0 if it.precision == best else 5.0)
        found, speeds = choose(model, batch, CPU, left=100)
        assert str(found) == faster
        assert speeds == {
            "float32": 10.0 if faster == "float32" else 5.0,
            "bfloat16": 10.0 if faster != "float32" else 5,
        }


def test_compiling_is_tried_only_where_it_can_pay(model, batch, monkeypatch):
    tried = []
    monkeypatch.setattr(engine, "_speed", lambda it, _: 20.0 if it.compiled else 10.0)
    monkeypatch.setattr(engine, "compiled", lambda it, *_: tried.append(it) or Engine(model, CPU, it.precision))
    monkeypatch.setattr(engine.openvino, "kind", lambda: None)
    choose(model, batch, CPU, left=300, precision="float32")
    assert not tried
    choose(model, batch, CPU, left=1300, precision="float32", compile="off")
    assert not tried
    choose(model, batch, CPU, left=1300, precision="float32")
    assert len(tried) == 1


def test_features_that_disagree_are_not_taken(model, batch, monkeypatch, capsys):
    monkeypatch.setattr(engine, "fastest", lambda device: "bfloat16")
    monkeypatch.setattr(engine, "LEAST_COSINE", 0.9999)
    found, speeds = choose(model, batch, CPU, left=100, compile="on")
    assert found.precision == "float32"
    assert list(speeds) == ["float32", "float32, compiled"]
    assert "bfloat16 is not used, because its features disagree with float32" in capsys.readouterr().err


def test_without_a_compiler_the_run_goes_on_and_says_so(model, batch, monkeypatch, capsys):
    import torch._inductor.config as config

    torch._dynamo.reset()
    with config.patch({"cpp.cxx": ("/no/such/compiler",), "fx_graph_cache": False}):
        found, _ = choose(model, batch, CPU, left=100, precision="float32", compile="on")
    assert not found.compiled
    assert "can't be compiled here" in capsys.readouterr().err
    torch._dynamo.reset()


class Hungry(torch.nn.Module):
    """Runs out of memory on more than ``most`` images."""

    def __init__(self, most):
        super().__init__()
        self.most, self.seen = most, []

    def forward(self, batch):
        if len(batch) > self.most:
            raise torch.OutOfMemoryError("no")
        self.seen.append(len(batch))
        return batch.flatten(1)[:, :2]


def test_out_of_memory_halves_the_batch_and_loses_nothing(batch, capsys):
    hungry = Hungry(3)
    run = Engine(hungry, CPU, "float32")
    for _ in range(2):
        assert torch.equal(run(batch), batch.flatten(1)[:, :2])
    assert hungry.seen == [2] * 8  # halved to 4, to 2, and then kept
    assert "2 images at a time" in capsys.readouterr().err
    with pytest.raises(UserError, match="not even one image"):
        Engine(Hungry(0), CPU, "float32")(batch)


def test_what_was_begun_compiled_is_finished_so_or_not_at_all(tmp_path, monkeypatch):
    """Where it can't be compiled, the message's own way on works."""
    from click.testing import CliRunner

    from backbench.cache.writer import Writer
    from backbench.data import registry
    from backbench.devices import pick_device
    from backbench.extract import extraction, plan
    from backbench.extract.cli import main

    how = ["--model", "test_resnet", "--weights", "random", "--dataset", "digits", "--cache-dir", str(tmp_path)]
    how += ["--results-dir", str(tmp_path)]
    imageset, backbone = registry.load("digits", data_root=tmp_path), backbones.create("test_resnet", weights="random")
    identity = plan.identity(imageset, backbone, plan.Settings(device=pick_device("cpu")))
    identity |= {"precision": "float32", "compiled": True}
    path = tmp_path / "digits" / "test_resnet.h5"
    rows = {"labels": imageset.labels, "split": imageset.split, "ids": imageset.ids}
    with Writer(path, identity=identity, class_names=imageset.class_names, dim=96, dtype="float32", **rows):
        pass
    monkeypatch.setattr(extraction, "compiled", lambda *_: None)
    result = CliRunner().invoke(main, how)
    assert result.exit_code == 1
    assert "were begun compiled" in result.output
    assert "--overwrite --compile off" in result.output
    assert "compiled: the file has True, this run False" in CliRunner().invoke(main, [*how, "--compile", "off"]).output
    assert CliRunner().invoke(main, [*how, "--compile", "off", "--overwrite"]).exit_code == 0
