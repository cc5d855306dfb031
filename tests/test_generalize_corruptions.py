"""Pictures made worse: by how much, the same in every run, and never taken for the clean ones."""

import numpy as np
import pytest
from PIL import Image

from backbench.data import derived, registry
from backbench.generalize import corruptions
from tests import tuning


@pytest.fixture(scope="module")
def photo():
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (300, 400, 3), np.uint8)).resize((600, 450), Image.Resampling.BICUBIC)


def detail(image):
    """Mean difference between neighbours along rows, 0..255."""
    return np.abs(np.diff(np.asarray(image, float), axis=1)).mean()


@pytest.mark.parametrize("name", corruptions.LEVELS)
def test_five_strengths_each_worse_than_the_last(photo, name):
    assert len(corruptions.LEVELS[name]) == 5
    small = corruptions._resized(photo, corruptions.SIDE)
    clean = np.asarray(photo if name == "resolution" else small, float)
    away = [
        np.abs(np.asarray(corruptions.corrupt(photo, name, strength, seed=1, id="a"), float) - clean).mean()
        for strength in range(1, 6)
    ]
    assert away == sorted(away)
    assert away[0] > 0


def test_noise_has_the_stated_deviation_and_its_own_seed():
    """Grey 128 keeps noise of 0.08 (20.4 levels) off both ends."""
    grey = Image.new("RGB", (200, 200), (128, 128, 128))
    one, again, other, seed = (
        np.asarray(corruptions.corrupt(grey, "noise", 1, seed=s, id=id), float)
        for s, id in ((1, "a"), (1, "a"), (1, "b"), (2, "a"))
    )
    assert one.std() == pytest.approx(0.08 * 255, rel=0.01)
    assert one.mean() == pytest.approx(128, abs=0.3)
    assert (one == again).all()
    assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.02
    assert abs(np.corrcoef(one.ravel(), seed.ravel())[0, 1]) < 0.02


def test_resolution_keeps_the_size_and_leaves_small_pictures_alone(photo):
    low = corruptions.corrupt(photo, "resolution", 5, seed=1, id="a")
    assert low.size == photo.size
    assert detail(low) < detail(photo) / 10
    small = photo.resize((40, 30))
    assert (np.asarray(corruptions.corrupt(small, "resolution", 4, seed=1, id="a")) == np.asarray(small)).all()


def test_others_are_laid_on_at_224_pixels(photo):
    assert [min(corruptions.corrupt(photo, name, 1, seed=1, id="a").size) for name in ("blur", "noise", "jpeg")] == [
        224
    ] * 3
    small = photo.resize((40, 30))
    assert corruptions.corrupt(small, "jpeg", 1, seed=1, id="a").size == (40, 30)


@pytest.mark.parametrize("name", ["folder", "digits"])
def test_a_view_is_a_set_of_its_own(tmp_path, name):
    given = f"folder:{tuning.pictures(tmp_path / 'images')}" if name == "folder" else name
    origin = registry.load(given, data_root=tmp_path)
    test = np.flatnonzero(origin.split == 2)
    plain = derived.plain(origin, "test")
    made = [plain, *(corruptions.corrupted(origin, test, "noise", k, seed=s) for k, s in ((1, 1), (2, 1), (1, 2)))]
    assert len({one.digest for one in [origin, *made]}) == 5
    assert made[1].name == f"{origin.name}+noise-0.08"
    assert plain.ids == [origin.ids[i] for i in test]
    assert (plain.split == 2).all()
    assert (np.asarray(plain.read(3)) == np.asarray(origin.read(int(test[3])))).all()
    assert (np.asarray(made[1].read(3)) != np.asarray(plain.read(3))).any()
    assert (
        np.asarray(made[1].read(3)) == np.asarray(corruptions.corrupted(origin, test, "noise", 1, seed=1).read(3))
    ).all()
