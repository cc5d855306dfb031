"""The input guard, with numbers worked out by hand."""

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from backbench.data import registry
from backbench.extract import backbones
from backbench.extract.cli import main as extract
from backbench.extract.feature_tap import FromPixels
from backbench.extract.guard import EVERY, InputGuard, InputRangeError, levels_of, spread
from backbench.extract.preprocess import Preprocessor

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


def photos(seed=0):
    """(4, 16, 16, 3) uint8 with the mean and spread of ImageNet's pixels."""
    noise = np.random.default_rng(seed).normal(0.449 * 255, 0.226 * 255, (4, 16, 16, 3))
    return noise.clip(0, 255).astype(np.uint8)


def levels(pixels):
    """The counts of levels (3, 256) of all pixels (B, H, W, 3), one by one."""
    counts = np.zeros((3, 256), int)
    for channel in range(3):
        for level in pixels[..., channel].ravel():
            counts[channel, level] += 1
    return counts


def test_levels_of_every_sixteenth_row_are_counted():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 33, 7, 3), dtype=np.uint8)
    found = levels_of(pixels)
    assert found.shape == (2, 5, 3, 256)
    for i in range(2):
        for j in range(5):
            assert np.array_equal(found[i, j], levels(pixels[i, j, [0, EVERY, 2 * EVERY]]))


def test_mean_and_spread_are_those_of_everything_seen():
    guard = InputGuard(*HALF, name="m")
    # 48 values of -1 and 144 of +1: mean (144 - 48) / 192 = 0.5, spread sqrt(1 - 0.25).
    assert guard.see(levels(np.zeros((1, 4, 4, 3), np.uint8)), check=False) == (48, -48, 48)
    for _ in range(3):
        guard.see(levels(np.full((1, 4, 4, 3), 255, np.uint8)), check=False)
    assert guard.mean == pytest.approx(0.5)
    assert guard.std == pytest.approx(0.75**0.5)


@pytest.mark.parametrize("scale", [1, 3.5])
def test_what_pixels_become_is_what_the_model_is_given(scale):
    guard = InputGuard(*IMAGENET, name="m", scale=scale)
    pixels = photos()
    normalise = FromPixels(torch.nn.Identity(), *IMAGENET, scale)
    batch = normalise(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    count, total, squares = guard.see(levels(pixels), check=False)
    assert count == batch.numel()
    assert total == pytest.approx(batch.double().sum().item(), rel=1e-5)
    assert squares == pytest.approx(batch.double().square().sum().item(), rel=1e-5)
    guard.confirm(pixels, batch)
    for wrong in (batch * 255, batch.flip(1), batch + float("nan")):
        with pytest.raises(RuntimeError, match="off by"):
            guard.confirm(pixels, wrong)


def test_what_is_expected_follows_from_the_normalisation():
    guard = InputGuard(*HALF, name="m")
    assert (guard.lowest, guard.highest) == (-1, 1)
    assert guard.expected_mean == pytest.approx((0.449 - 0.5) / 0.5)
    assert guard.expected_std == pytest.approx(0.226 / 0.5)


@pytest.mark.parametrize(("mean", "std"), [IMAGENET, HALF])
def test_the_published_mistake_is_stopped_and_measured(mean, std):
    """0..255 into mean and std for 0..1: 255 times the expected spread."""
    InputGuard(mean, std, name="m").see(levels(photos()))
    with pytest.raises(InputRangeError) as caught:
        InputGuard(mean, std, name="vit", scale=255).see(levels(photos()))
    message = str(caught.value)
    assert "vit" in message
    assert "--no-input-guard" in message
    times = int(message.split("about ")[1].split()[0])
    assert 230 < times < 280


def test_dividing_by_255_twice_is_stopped():
    with pytest.raises(InputRangeError, match="divided by 255 twice"):
        InputGuard(*IMAGENET, name="m", scale=1 / 255).see(levels(photos()))


def blank(level=255):
    return np.full((4, 16, 16, 3), level, np.uint8)


def test_a_class_of_blank_images_is_judged_by_images_from_all_over():
    asked = []
    guard = InputGuard(*IMAGENET, name="m", others=lambda: asked.append(1) or levels(photos()))
    for level in (255, 255, 0, 0):
        guard.see(levels(blank(level)))
    guard.see(levels(photos()))
    assert len(asked) == 1


@pytest.mark.parametrize("scale", [1 / 255, 1])
def test_blank_images_all_over_are_stopped_at_once(scale):
    others = levels(photos() if scale != 1 else blank(0))
    with pytest.raises(InputRangeError, match="divided by 255 twice or are blank"):
        InputGuard(*IMAGENET, name="m", scale=scale, others=lambda: others).see(levels(blank()))


def test_where_nothing_can_be_judged_by_nothing_is_stopped():
    InputGuard(*IMAGENET, name="m", others=lambda: None).see(levels(blank()))


@pytest.fixture(scope="module")
def preprocessor():
    return Preprocessor(backbones.create("test_resnet", weights="random"))


def spread_set(folder, blanks):
    for name in ("ant", "bee", "cat"):
        (folder / name).mkdir()
        for i in range(40):
            image = blank()[0] if name in blanks else photos(seed=i)[0]
            Image.fromarray(image).save(folder / name / f"{i:02d}.png")
    return registry.load(f"folder:{folder}", data_root=folder)


def test_the_spread_sample_is_of_all_classes(tmp_path, preprocessor):
    imageset = spread_set(tmp_path, ["ant"])
    (tmp_path / "cat" / "39.png").write_bytes(b"")
    sample = spread(imageset, preprocessor)
    assert sample.shape == (3, 256)
    assert sample[0].sum() == 63 * 10 * 160  # of 64 the last can't be read; every sixteenth of 160 rows
    assert sample[0, 255] >= 21 * 10 * 160  # a third are white
    assert spread(imageset.part(0, 40), preprocessor) is None  # one class of three
    assert spread(imageset.part(30, 50), preprocessor)[0].sum() == 20 * 10 * 160


def test_a_blank_class_that_sorts_first_stops_no_run(tmp_path):
    (tmp_path / "images").mkdir()
    spread_set(tmp_path / "images", ["ant"])
    line = ["--model", "test_resnet", "--weights", "random", "--dataset", f"folder:{tmp_path / 'images'}"]
    line += ["--device", "cpu", "--precision", "float32", "--compile", "off", "--cache-dir", tmp_path / "cache"]
    line += ["--results-dir", tmp_path / "results"]
    assert CliRunner().invoke(extract, [str(word) for word in line]).exit_code == 0
    wrong = CliRunner().invoke(extract, [*map(str, line), "--input-scale", str(1 / 255), "--overwrite"])
    assert wrong.exit_code == 1
    assert "divided by 255 twice" in wrong.output


def test_unchecked_it_only_measures():
    guard = InputGuard(*IMAGENET, name="m", scale=255)
    guard.see(levels(photos()), check=False)
    assert guard.std > 200


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255)), min_size=1, max_size=4),
    st.sampled_from([IMAGENET, HALF]),
)
def test_no_real_image_is_stopped(shades, norm):
    """Two-tone images of any shades (black on black but for a few levels excepted) pass."""
    guard = InputGuard(*norm, name="m")
    for dark, light in shades:
        pixels = np.full((1, 8, 8, 3), dark, np.uint8)
        pixels[:, :, ::2] = light if abs(light - dark) > 4 else (dark + 5) % 256
        guard.see(levels(pixels))
