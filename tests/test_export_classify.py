"""The script beside the graph: it needs no backbench, prepares images as timm does, and says what we say."""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest
import timm
from PIL import Image

from backbench.export import graph, run
from backbench.probe import predict
from tests import exportable


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("script")
    head, _ = exportable.head(folder)
    run.run(head, folder / "out", data_root=folder, results_dir=folder)
    return folder / "out"


@pytest.fixture
def script(out, monkeypatch):
    """The script as a module, called without images."""
    monkeypatch.setattr(sys, "argv", ["classify.py"])
    spec = importlib.util.spec_from_file_location("classify", out / "classify.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_says_what_we_say_of_every_image_without_backbench(out):
    head, images = out.parent / "head", out.parent / "images"
    (features,) = out.parent.glob("*.h5")
    said = predict.predict(head, features)
    blocked = (
        "import sys; sys.modules['backbench'] = sys.modules['torch'] = sys.modules['timm'] = None; sys.argv.pop(0)"
    )
    code = f"{blocked}; import runpy; runpy.run_path(sys.argv[0], run_name='__main__')"
    paths = [str(images / id) for id in said.ids]
    done = subprocess.run(
        [sys.executable, "-c", code, str(out / "classify.py"), *paths], capture_output=True, text=True, cwd=out.parent
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == paths
    sure = np.abs(np.array([float(line[2]) for line in lines]) - said.probability)
    assert sure.max() < 0.02  # by rounding in resizing
    assert [line[1] for line in lines] == said.classes


@pytest.mark.parametrize(
    ("size", "crop_pct", "crop_mode", "interpolation"),
    [
        (160, 0.95, "center", "bicubic"),
        (224, 0.875, "center", "bilinear"),
        (64, 1.0, "center", "bicubic"),
        (63, 1.15, "center", "bicubic"),
        (64, 0.9, "squash", "bilinear"),
        (64, 1.1, "squash", "lanczos"),
        (33, 0.9, "center", "nearest"),
    ],
)
def test_it_prepares_images_as_timm_does_to_the_bit(script, tmp_path, size, crop_pct, crop_mode, interpolation):
    config = {
        "input_size": (3, size, size),
        "crop_pct": crop_pct,
        "crop_mode": crop_mode,
        "interpolation": interpolation,
    }
    config |= {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    script.how.clear()
    script.how.update(graph.preprocessing(config, exif="ignore"))
    assert graph.no_script(config) is None
    transform = timm.data.create_transform(**config, is_training=False, use_prefetcher=True)
    rng = np.random.default_rng(0)
    for width, height in ((300, 200), (199, 301), (64, 64), (37, 90), (size + 1, size), (10, 11)):
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
        image.save(tmp_path / "a.png")
        wanted = np.asarray(transform(image)).transpose(1, 2, 0)
        np.testing.assert_array_equal(script.pixels(tmp_path / "a.png"), wanted)


def test_transparency_is_laid_on_white_and_orientation_is_as_for_training(script, tmp_path):
    from backbench.data import decode

    rgba = np.random.default_rng(1).integers(0, 256, (200, 180, 4), np.uint8)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    image = Image.fromarray(rgba[..., :3])
    image.getexif()[decode.ORIENTATION] = 6
    image.save(tmp_path / "b.png", exif=image.getexif())
    for name, exif in (("a.png", "ignore"), ("b.png", "ignore"), ("b.png", "apply")):
        script.how["exif"] = exif
        found = script.pixels(tmp_path / name)
        ours = decode.read(tmp_path / name, id=name, exif=exif)
        ours.save(tmp_path / "plain.png")
        np.testing.assert_array_equal(found, script.pixels(tmp_path / "plain.png"))


def test_what_it_can_not_prepare_is_told():
    square = {"input_size": (3, 64, 64), "crop_mode": "border"}
    assert "border to 64 x 64" in graph.no_script(square)
    assert "center to 64 x 96" in graph.no_script({"input_size": (3, 64, 96), "crop_mode": "center"})
