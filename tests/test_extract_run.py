"""The pass over a data set, on a folder of small real files and timm's tiny test models with random weights."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import timm
import torch
from click.testing import CliRunner
from PIL import Image

from backbench.cache import features, schema
from backbench.cache.features import open_file
from backbench.extract import backbones
from backbench.extract.cli import main
from backbench.extract.engine import Engine
from backbench.extract.guard import EVERY
from backbench.extract.preprocess import Preprocessor
from tests.brake import Brake

MODEL = "test_resnet"


@pytest.fixture
def images(tmp_path):
    """A folder of 3 classes with 12 pictures each, of several sizes."""
    rng = np.random.default_rng(0)
    for k, name in enumerate(("ant", "bee", "cat")):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(12):
            size = (int(rng.integers(20, 90)), int(rng.integers(20, 90)))
            noise = rng.integers(0, 200, (5, 5, 3), dtype=np.uint8)
            noise[..., k] += 55
            Image.fromarray(noise).resize(size).save(tmp_path / "images" / name / f"{i:02d}.png")
    return tmp_path / "images"


@pytest.fixture
def extract(tmp_path, images):
    """``extract(...)`` in this process: defaults for a quick run, more arguments as given; gives click's result."""

    def extract(*args, model=MODEL, code=0):
        line = ["--dataset", f"folder:{images}", "--weights", "random", "--batch-size", "8"]
        line += ["--precision", "float32", *map(str, args)]  # a trial may end otherwise the next time
        line += ["--model", model] if model else []
        line += ["--cache-dir", str(tmp_path / "cache"), "--results-dir", str(tmp_path / "results")]
        result = CliRunner().invoke(main, line)
        assert result.exit_code == code, result.output
        return result

    extract.path = schema.default_path(tmp_path / "cache", "folder-images", MODEL)
    return extract


def test_features_are_timms_own(extract, images):
    extract("--precision", "float32")
    backbone = backbones.create(MODEL, weights="random")
    transform = timm.data.create_transform(**backbone.config, is_training=False)
    pixels = Preprocessor(backbone)
    assert features.verify(extract.path) is None
    with open_file(extract.path) as file:
        assert file.class_names == ["ant", "bee", "cat"]
        assert np.bincount(file.split).tolist() == [24, 3, 9]  # int(8.4), int(9.6) - 8, the rest; a class
        for i in (0, 17, 35):
            with torch.inference_mode(), Image.open(images / file.ids[i]) as image:
                image = image.convert("RGB")
                whole = pixels.whole(*image.size)
                ours = pixels.view(np.array(image), 0, content="", seed=0)[None]
                ours = torch.from_numpy(np.array(ours)).permute(0, 3, 1, 2)
                for pixels_of, within in (
                    (backbone.normalise(ours), 1e-5),
                    (transform(image)[None], 2e-3 if whole else 2e-4),
                ):
                    expected = backbone.model(pixels_of)[0].numpy()
                    np.testing.assert_allclose(file.features[i], expected, rtol=1e-4, atol=within)
        assert file.identity["weights"] == "random, seed 42"
        assert file.identity["transform"]["exif"] == "ignore"
        assert file.identity["weights_sha256"] == backbone.weights_sha256
        seen = np.concatenate([backbone_input(backbone, images / i) for i in file.ids])
        assert file.measured["input_mean"] == pytest.approx(seen.mean(), abs=1e-4)
        assert file.measured["input_std"] == pytest.approx(seen.std(), abs=1e-4)


def backbone_input(backbone, path):
    with Image.open(path) as image:
        rows = backbone.transform()(image.convert("RGB"))[None, :, ::EVERY]
        return backbone.normalise(rows).numpy().ravel()


def test_a_finished_file_is_skipped_with_a_line_that_says_so(extract):
    first = json.loads(extract("--json").stdout)
    before = extract.path.stat().st_mtime_ns
    again = extract()
    assert "already complete" in again.stdout
    assert extract.path.stat().st_mtime_ns == before
    assert [f["already"] for f in first] == [False]
    assert {"dataset", "model", "path", "n", "images_per_second", "seconds"} <= first[0].keys()


def test_one_row_is_written_for_what_was_computed(extract, tmp_path):
    from backbench import rows

    extract()
    extract()
    (row,) = rows.read(tmp_path / "results")
    assert (row["stage"], row["model"], row["n"]) == ("extract", MODEL, 36)
    assert row["features"]["weights"] == "random, seed 42"


def test_several_models_and_one_that_fails(extract, tmp_path):
    result = extract(
        "--model", "test_vit", "--model", "vit_small_patch16_224.dino", "--weights", tmp_path / "no.pth", code=1
    )
    assert result.output.count("no such file") == 1  # of all three, before any is created
    result = extract("--model", "test_vit", "--json")
    assert [f["model"] for f in json.loads(result.stdout)] == ["test_vit", MODEL]


def test_everything_wrong_with_a_request_is_said_at_once(extract):
    result = extract("--model", "resnet51", "--dataset", "caltech255", "--device", "cuda:7", code=2)
    for part in ("resnet51", "caltech255", "caltech256", "cuda:7"):
        assert part in result.output
    assert extract(model=None, code=2).output.count("--model is missing") == 1


def test_other_weights_are_refused_naming_the_difference(extract):
    extract()
    assert "weights: the file has 'random, seed 42', this run 'random, seed 1'" in extract("--seed", 1, code=1).output
    extract("--seed", 1, "--overwrite")
    with open_file(extract.path) as file:
        assert file.identity["seed"] == 1


def test_a_truncated_file_is_refused_and_overwritten_on_request(extract):
    extract()
    with extract.path.open("r+b") as file:
        file.truncate(3000)
    assert "truncated" in extract(code=1).output
    extract("--overwrite")
    assert features.verify(extract.path) is None


def test_unreadable_images_are_named_at_the_end_and_cost_no_other(extract, images):
    good = (images / "bee" / "03.png").read_bytes()
    (images / "bee" / "03.png").write_bytes(good[: len(good) // 2])
    (images / "cat" / "05.png").write_bytes(b"not a picture, but as many bytes")
    result = extract(code=1)
    assert "bee/03.png" in result.output
    assert "cat/05.png" in result.output
    assert "--on-error skip" in result.output
    with open_file(schema.part_path(extract.path), partial=True) as file:
        pending = np.flatnonzero(file.done == schema.PENDING)
        assert sorted(file.ids[i] for i in pending) == ["bee/03.png", "cat/05.png"]
        kept = np.array(file.features)

    assert extract("--on-error", "skip").exit_code == 0
    with open_file(extract.path) as file:
        assert np.flatnonzero(file.done == schema.SKIPPED).tolist() == pending.tolist()
        assert np.isnan(file.features[pending]).all()
        rest = np.setdiff1d(np.arange(36), pending)
        assert np.array_equal(file.features[rest], kept[rest])
        assert len(file.ids) == 36
    assert features.verify(extract.path) is None


def test_an_unreadable_image_does_not_change_its_neighbours(extract, images, tmp_path):
    extract()
    with open_file(extract.path) as file:
        whole, ids = np.array(file.features), file.ids
    size = (images / "bee" / "03.png").stat().st_size
    (images / "bee" / "03.png").write_bytes(b"x" * size)
    extract("--on-error", "skip", "--cache-dir", tmp_path / "other", "--out", tmp_path / "b.h5")
    with open_file(tmp_path / "b.h5") as file:
        rest = [i for i, name in enumerate(ids) if name != "bee/03.png"]
        assert np.array_equal(file.features[rest], whole[rest])


def test_the_published_mistake_needs_insisting(extract):
    result = extract("--input-scale", 255, code=1)
    assert "--no-input-guard" in result.output
    extract("--input-scale", 255, "--no-input-guard")
    with open_file(extract.path) as file:
        assert file.identity["input_scale"] == 255
        assert file.measured["input_std"] > 100


def test_features_float16_cannot_hold_are_named(extract, monkeypatch):
    monkeypatch.setattr(Engine, "__call__", lambda engine, batch: engine.model(batch).float() * 0 + 1e6)
    result = extract("--feature-dtype", "float16", code=1)
    assert "NaN or infinite" in result.output
    assert "--feature-dtype float32" in result.output


def test_a_module_in_train_mode_stops_the_run(tmp_path, monkeypatch):
    create = backbones.create

    def thawed(*args, **kwargs):
        backbone = create(*args, **kwargs)
        next(m for m in backbone.model.modules() if isinstance(m, torch.nn.BatchNorm2d)).train()
        return backbone

    monkeypatch.setattr(backbones, "create", thawed)
    args = ["--model", MODEL, "--dataset", "digits", "--weights", "random", "--cache-dir", str(tmp_path)]
    with pytest.raises(RuntimeError, match="train mode"):
        CliRunner().invoke(main, args, catch_exceptions=False)


COMMAND = [sys.executable, "-m", "backbench.extract", "--model", MODEL, "--weights", "random", "--batch-size", "4"]


@pytest.fixture
def many(tmp_path):
    """60 pictures: 15 batches, to be stopped between."""
    rng = np.random.default_rng(1)
    for name in ("ant", "bee"):
        (tmp_path / "many" / name).mkdir(parents=True)
        for i in range(30):
            noise = rng.integers(0, 255, (160, 160, 3), dtype=np.uint8)
            Image.fromarray(noise).save(tmp_path / "many" / name / f"{i:03d}.jpg")
    return tmp_path / "many"


@pytest.fixture
def start(many, tmp_path):
    """``start(place, ...)`` begins a run on these pictures; ``start.brake`` stops it, ``start.until(n)`` waits."""
    brake = Brake(tmp_path)
    with (tmp_path / "log").open("w") as log:

        def start(place, *how):
            where = ("--dataset", f"folder:{many}", "--cache-dir", tmp_path / place, "--results-dir", tmp_path / place)
            command = [str(part) for part in (*COMMAND, "--device", "cpu", *how, *where)]
            return subprocess.Popen(command, stdout=log, stderr=log, env=brake.environment, cwd=tmp_path)

        start.brake, start.path = brake, lambda place: schema.default_path(tmp_path / place, "folder-many", MODEL)
        yield start


def until_rows(path, count, process):
    """Wait until ``count`` rows are marked done."""
    while rows_done(schema.part_path(path)) < count:
        assert process.poll() is None
        time.sleep(0.02)


def rows_done(part):
    if not part.exists():
        return 0
    with open_file(part, partial=True) as file:
        return (file.done == schema.DONE).sum()


def test_killed_and_terminated_it_goes_on_to_the_same_bits(start, tmp_path):
    assert start("whole").wait() == 0
    whole, stopped = start.path("whole"), start.path("stopped")
    for count, how in ((4, signal.SIGKILL), (20, signal.SIGTERM), (40, signal.SIGINT)):
        start.brake.at(count)
        process = start("stopped")
        until_rows(stopped, count, process)
        process.send_signal(how)
        assert process.wait() == {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}[how]
        assert rows_done(schema.part_path(stopped)) == count
    start.brake.release()
    assert start("stopped").wait() == 0
    assert (tmp_path / "log").read_text().count("the same command goes on") == 2
    with open_file(whole) as a, open_file(stopped) as b:
        assert a.features.tobytes() == b.features.tobytes()
        assert a.ids == b.ids
        assert schema.checksum(a.arrays()) == schema.checksum(b.arrays())


def test_a_run_goes_on_in_the_format_it_was_begun_in(start, tmp_path):
    """Begun compiled, killed, and then asked for as it comes: the same bits as an unbroken run."""
    how = ("--precision", "float32", "--compile", "on")
    assert start("whole", *how).wait() == 0
    start.brake.at(4)
    process = start("stopped", *how)
    until_rows(start.path("stopped"), 4, process)
    process.kill()
    process.wait()
    start.brake.release()
    assert start("stopped").wait() == 0
    with open_file(start.path("whole")) as a, open_file(start.path("stopped")) as b:
        assert (a.identity["precision"], a.identity["compiled"]) == ("float32", True), (tmp_path / "log").read_text()
        assert schema.checksum(a.arrays()) == schema.checksum(b.arrays())
