"""Many backbones in one pass: every file as if its backbone had run alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from backbench import Faults, UserError
from backbench.cache import schema
from backbench.cache.features import open_file
from backbench.data import decode, registry
from backbench.extract import ahead, backbones, pipeline, run
from backbench.extract.plan import Settings, planned

CPU = torch.device("cpu")
MODELS = ("test_resnet", "test_vit", "test_efficientnet")


@pytest.fixture
def folder(tmp_path):
    """30 pictures of two classes, of two sizes."""
    rng = np.random.default_rng(0)
    for name in ("ant", "bee"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(15):
            noise = Image.fromarray(rng.integers(0, 256, (6, 5, 3), dtype=np.uint8))
            noise.resize((40, 50) if i % 4 == 0 else (130, 110)).save(tmp_path / "images" / name / f"{i:02d}.png")
    return tmp_path / "images"


@pytest.fixture(scope="module")
def created():
    """Of two input sizes."""
    first, *others = (backbones.create(model, weights="random") for model in MODELS)
    return [replace(first, config={**first.config, "input_size": (3, 128, 128)}), *others]


def extract(folder, place, together, **how):
    imageset = registry.load(f"folder:{folder}", data_root=folder)
    how = {"precision": "float32", "compile": "off", "batch_size": 8, **how}
    settings = Settings(device=CPU, **how)
    files = [planned(imageset, one, settings) for one in together]
    return run.extract([replace(file, path=place / f"{file.label}.h5") for file in files], settings)


def sha256s(place):
    found = {}
    for path in sorted(place.glob("*.h5")):
        with open_file(path) as file:
            found[path.stem] = schema.checksum(file.arrays())
    return found


@pytest.fixture
def alone(folder, tmp_path, created):
    for backbone in created:
        (one,) = extract(folder, tmp_path / "alone", [backbone])
        assert one.fault is None
    return sha256s(tmp_path / "alone")


def test_together_gives_the_same_bits_and_reads_each_picture_once(folder, tmp_path, created, alone, monkeypatch):
    read, opened = decode.read, []
    monkeypatch.setattr(decode, "read", lambda path, **how: opened.append(path) or read(path, **how))
    runs = extract(folder, tmp_path / "together", created)
    assert [(one.label, one.fault, one.complete) for one in runs] == [(model, None, False) for model in MODELS]
    assert sha256s(tmp_path / "together") == alone
    assert len(set(opened)) == 30
    assert len(opened) == 30 + 8  # the first batch is read for the trial too, once for all
    assert all(one.complete for one in extract(folder, tmp_path / "together", created))
    assert len(opened) == 30 + 8


def test_only_what_each_file_lacks_is_computed_to_the_same_bits(folder, tmp_path, created, alone):
    """One backbone begun, one finished, one new."""
    good = (folder / "bee" / "03.png").read_bytes()
    (folder / "bee" / "03.png").write_bytes(b"x" * len(good))
    (begun,) = extract(folder, tmp_path / "together", created[:1])
    assert "bee/03.png" in str(begun.fault)
    (folder / "bee" / "03.png").write_bytes(good)
    extract(folder, tmp_path / "together", created[1:2])
    with open_file(schema.part_path(begun.path), partial=True) as file:
        assert (file.done == schema.PENDING).sum() == 1
    runs = extract(folder, tmp_path / "together", created)
    assert [one.complete for one in runs] == [False, True, False]
    assert sha256s(tmp_path / "together") == alone
    with open_file(begun.path) as file:
        assert file.running["images"] == 30


def test_one_that_fails_does_not_stop_the_others(folder, tmp_path, created, alone):
    broken = backbones.create("test_vit", weights="random")
    broken.model.norm.weight[3] = float("nan")
    (tmp_path / "together").mkdir()
    (tmp_path / "together" / "test_efficientnet.h5").write_bytes(b"something else")
    first, second, third = extract(folder, tmp_path / "together", [created[0], broken, created[2]])
    assert first.fault is None
    assert "test_vit gives NaN" in str(second.fault)
    assert "can't be read as HDF5" in str(third.fault)
    assert (tmp_path / "together" / "test_efficientnet.h5").read_bytes() == b"something else"
    (tmp_path / "together" / "test_efficientnet.h5").unlink()
    assert sha256s(tmp_path / "together") == {"test_resnet": alone["test_resnet"]}


def test_an_unreadable_image_is_left_pending_or_out_in_all(folder, tmp_path, created):
    (folder / "ant" / "02.png").write_bytes(b"x" * (folder / "ant" / "02.png").stat().st_size)
    runs = extract(folder, tmp_path / "together", created)
    assert len({id(one.fault) for one in runs}) == 1
    assert "ant/02.png" in str(runs[0].fault)
    runs = extract(folder, tmp_path / "together", created, skip_unreadable=True)
    for one in runs:
        assert one.fault is None
        with open_file(one.path) as file:
            assert np.flatnonzero(file.done == schema.SKIPPED).tolist() == [2]


class Full(torch.nn.Module):
    """A device on which there is room for one model at a time is asked for more."""

    held = 0

    def __init__(self, model):
        super().__init__()
        self.training = False
        self.model = model

    def to(self, device, **how):
        if Full.held:
            Full.held = 0
            raise torch.OutOfMemoryError("no")
        Full.held = 1
        return self

    def forward(self, pixels):
        return self.model(pixels)


def test_models_that_a_device_has_no_room_for_wait(folder, tmp_path, created, alone, capsys):
    crowded = [replace(backbone) for backbone in created]
    for backbone in crowded:
        backbone.__dict__["from_pixels"] = Full(backbone.from_pixels)
    for backbone, plain in zip(crowded, created, strict=True):
        backbone.from_pixels.normalise = plain.normalise
    Full.held = 0
    runs = extract(folder, tmp_path / "together", crowded)
    assert [one.fault for one in runs] == [None] * 3
    assert sha256s(tmp_path / "together") == alone
    assert "2 backbones wait for the next pass" in capsys.readouterr().err


def test_as_many_share_a_pass_as_memory_has_room_for(created):
    def sets(room):
        faults = Faults()
        found = pipeline._sets(range(4), made, faults, room)
        return [[backbone.name for backbone in together] for together in found], faults.errors

    def made(number):
        if number == 1:
            raise UserError("its weights can't be had")
        yield created[number - (number > 1)]

    apart, faults = sets(0)
    assert apart == [[model] for model in MODELS]
    assert [str(fault) for fault in faults] == ["its weights can't be had"]
    assert sets(1 << 40)[0] == [list(MODELS)]


def test_a_compiled_backbone_is_compiled_once(folder, tmp_path, created, monkeypatch):
    built, build = [], ahead.build
    monkeypatch.setattr(ahead, "build", lambda *how: built.append(how) or build(*how))
    (one,) = extract(folder, tmp_path, created[1:2], compile="on")
    assert one.fault is None
    assert one.engine.compiled
    assert len(built) == 1


def test_what_cannot_be_compiled_ahead_is_compiled_once_while_it_runs(folder, tmp_path, created, monkeypatch):
    """What the trial is given and what the pass reads, in another thread, must look alike to the compiler."""
    monkeypatch.setattr(ahead, "build", lambda *_: 1 / 0)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    (one,) = extract(folder, tmp_path, created[1:2], compile="on")
    assert one.fault is None
    assert one.engine.compiled
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
