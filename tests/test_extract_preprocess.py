"""Only the centre is resized, and it comes out as timm's own transform has it."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from backbench.data import registry
from backbench.extract import backbones
from backbench.extract.preprocess import Preprocessor, Reader


@pytest.fixture(scope="module")
def backbone():
    return backbones.create("test_resnet", weights="random")


def pixels(backbone, **config):
    found = backbones.Backbone(*(getattr(backbone, name) for name in ("name", "weights", "weights_sha256", "model")), {
        **backbone.config, **config
    })  # fmt: skip
    return Preprocessor(found)


def picture(width, height, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (max(1, height // 7), max(1, width // 9), 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height))


@settings(max_examples=80, deadline=None)
@given(
    width=st.integers(1, 700),
    height=st.integers(1, 700),
    size=st.sampled_from([64, 160, 224]),
    crop=st.sampled_from([0.5, 0.875, 0.95, 1.0]),
    interpolation=st.sampled_from(["bicubic", "bilinear"]),
)
def test_the_centre_is_timms(backbone, width, height, size, crop, interpolation):
    at = pixels(backbone, input_size=(3, size, size), crop_pct=crop, interpolation=interpolation)
    image = picture(width, height)
    if max(width, height) > 40 * min(width, height):
        return  # a line of pixels, which timm resizes to hundreds of megapixels
    ours, theirs = at.crop(image).astype(int), np.asarray(at.transform(image)).transpose(1, 2, 0).astype(int)
    assert ours.shape == (size, size, 3)
    assert np.abs(ours - theirs).max() <= 4
    assert np.abs(ours - theirs).mean() < 0.15  # where many values lie halfway between two levels


@pytest.mark.parametrize(
    ("width", "height"), [(1, 300), (5, 2000), (40, 700), (100, 300), (223, 500), (256, 600), (300, 1000), (2000, 5)]
)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_the_centre_of_tall_and_wide_images_is_timms(backbone, width, height, interpolation):
    at = pixels(backbone, input_size=(3, 224, 224), crop_pct=0.875, interpolation=interpolation)
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    ours, theirs = at.crop(image).astype(int), np.asarray(at.transform(image)).transpose(1, 2, 0).astype(int)
    assert np.abs(ours - theirs).max() <= 3
    assert np.abs(ours - theirs).mean() < 0.01


def test_a_line_of_pixels_is_not_resized_as_a_whole(backbone, monkeypatch):
    """1 x 60,000 pixels would become 182 x 10,920,000, 6 GB."""
    at, taken = pixels(backbone), []
    resize = Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda self, size, *how: taken.append(size) or resize(self, size, *how))
    for image in (picture(1, 60_000), picture(60_000, 1)):
        assert at.crop(image).shape == (160, 160, 3)
    assert max(width * height for width, height in taken[2:]) <= 160 * 160


def test_small_tall_images_are_not_resized_as_a_whole_either(backbone):
    at = pixels(backbone)
    assert not at.whole(1, 64)
    assert at.whole(32, 64)


@settings(max_examples=80, deadline=None)
@given(
    shorter=st.integers(1, 500),
    ratio=st.floats(1, 2),
    tall=st.booleans(),
    size=st.sampled_from([64, 160, 224]),
    crop=st.sampled_from([0.5, 0.875, 0.95, 1.0]),
    interpolation=st.sampled_from(["bicubic", "bilinear"]),
)
def test_an_image_resized_whole_is_timms(backbone, shorter, ratio, tall, size, crop, interpolation):
    at = pixels(backbone, input_size=(3, size, size), crop_pct=crop, interpolation=interpolation)
    sides = shorter, int(shorter * ratio)
    image = picture(*(sides if tall else sides[::-1]))
    assert at.whole(*image.size)
    ours = at.view(np.array(image), 0, content="", seed=0).astype(int)
    theirs = np.asarray(at.transform(image)).transpose(1, 2, 0).astype(int)
    assert np.abs(ours - theirs).max() <= 3
    assert np.abs(ours - theirs).mean() < 0.05


def test_too_little_memory_is_given_as_the_reason(backbone, tmp_path, monkeypatch):
    for i in range(16):
        (tmp_path / f"{i % 2}").mkdir(exist_ok=True)
        picture(90, 70).save(tmp_path / f"{i % 2}" / f"{i}.png")
    imageset = registry.load(f"folder:{tmp_path}", data_root=tmp_path)

    def full(*_):
        raise MemoryError

    at = pixels(backbone)
    monkeypatch.setattr(at, "resized", full)
    with ThreadPoolExecutor(1) as pool:
        _, faults = Reader(imageset, pool).read(np.arange(1), np.zeros(1, int), [at])
    assert str(faults[0]) == "0/0.png (90 x 70 pixels) can't be resized: there is too little memory for it"


def test_what_is_not_a_plain_centre_crop_is_left_to_timm(backbone):
    image = picture(90, 70)
    for config in ({"crop_mode": "squash"}, {"crop_mode": "border"}, {"interpolation": "lanczos"}):
        at = pixels(backbone, **config)
        assert at.shorter is None
        assert np.array_equal(at.crop(image), np.asarray(at.transform(image)).transpose(1, 2, 0))


def test_images_in_memory_are_resized_a_batch_at_a_time(backbone, tmp_path):
    imageset = registry.load("digits", data_root=tmp_path)
    at = pixels(backbone)
    (batch,), faults = Reader(imageset, None).read(np.arange(10, 30), np.zeros(20, int), [at])
    assert faults.tolist() == [None] * 20
    assert batch.shape == (20, 3, 160, 160)
    theirs = np.stack([np.asarray(at.transform(imageset.read(i))) for i in range(10, 30)])
    assert np.abs(batch.numpy().astype(int) - theirs).max() <= 2


def test_an_unreadable_image_is_black_and_named(backbone, tmp_path):
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        for i in range(4):
            picture(60, 50, seed=i).save(tmp_path / name / f"{i}.png")
    (tmp_path / "ant" / "2.png").write_bytes(b"not a picture")
    imageset = registry.load(f"folder:{tmp_path}", data_root=tmp_path)
    with ThreadPoolExecutor(2) as pool:
        (batch,), faults = Reader(imageset, pool).read(np.arange(4), np.zeros(4, int), [pixels(backbone)])
    assert [fault is None for fault in faults] == [True, True, False, True]
    assert "ant/2.png" in str(faults[2])
    assert [bool(image.any()) for image in batch] == [True, True, False, True]
