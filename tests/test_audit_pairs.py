"""Near duplicates: all pairs are compared, and pixels tell copies that were moved, mirrored, darkened or compressed."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_sample_images

from backbench.audit import pairs, pixels, shortcuts
from backbench.probe.subsets import Subset


def unit(x):
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@settings(max_examples=30)
@given(n=st.integers(2, 60), least=st.floats(-0.5, 0.9), block=st.integers(1, 64), seed=st.integers(0, 99))
def test_every_pair_is_found_whatever_the_blocks(n, least, block, seed):
    directions = unit(np.random.default_rng(seed).standard_normal((n, 5)))
    cosine = directions @ directions.T
    expected = {(i, j) for i in range(n) for j in range(i + 1, n) if abs(cosine[i, j] - least) > 1e-6}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairs, "BLOCK", block)
        found = pairs.similar(directions, least=least, most=n)
    assert {(i, j) for i, j in expected if cosine[i, j] > least} == set(zip(found.a, found.b, strict=True)) & expected
    assert found.cosine == pytest.approx(cosine[found.a, found.b], abs=1e-5)


def test_where_there_are_too_many_the_nearest_are_kept(monkeypatch):
    monkeypatch.setattr(pairs, "BLOCK", 16)
    directions = unit(np.random.default_rng(0).standard_normal((100, 3)))
    cosine = (directions @ directions.T)[np.triu_indices(100, 1)]
    found = pairs.similar(directions, least=-1, most=2)
    assert len(found) == 200
    assert np.sort(found.cosine) == pytest.approx(np.sort(cosine)[-200:], abs=1e-6)


def test_whitened_features_have_the_same_spread_on_every_axis():
    """By scikit-learn's PCA: with many images hardly anything is added to the variances, and the axes agree."""
    from sklearn.decomposition import PCA

    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    x = (rng.standard_normal((20_000, 6)) * [9, 7, 5, 4, 3, 3] @ turn).astype(np.float32)
    ours = pairs.whitened(Subset(x, np.zeros(len(x), int)))
    theirs = unit(PCA(6, whiten=True).fit_transform(x))
    assert np.abs((ours @ ours[:50].T) - (theirs @ theirs[:50].T)).max() < 0.02


def test_a_row_of_zeros_and_constant_features_are_like_nothing():
    x = np.ones((4, 3), np.float32)
    assert not pairs.whitened(Subset(x, np.zeros(4, int))).any()
    assert len(pairs.similar(np.zeros((4, 3), np.float32))) == 0


@pytest.mark.parametrize(("n", "axes"), [(2000, 64), (300, 16)])
def test_about_one_pair_is_as_near_by_chance(n, axes):
    """Of noise, in 20 draws; 0.5 to 1.5 pairs in theory, fewer as cosines end at 1."""
    rng = np.random.default_rng(0)
    draws = [unit(rng.standard_normal((n, axes))) for _ in range(20)]
    beyond = [len(pairs.similar(one, least=pairs.by_chance(one))) for one in draws]
    assert sum(beyond) < 30


@pytest.fixture(scope="module")
def photos():
    """A church and a flower of scikit-learn, and the flower from 3 % further right."""
    church, flower = (Image.fromarray(one) for one in load_sample_images().images)
    return {"church": church, "flower": flower, "moved": flower.crop((20, 0, 640, 427))}


class Given:
    def __init__(self, *images):
        self.images = [np.asarray(image) for image in images]

    def array(self, row):
        return self.images[row]


def compared(*images):
    small, _ = pixels.look(Given(*images), np.arange(len(images)))
    return [found.tolist()[0] for found in pixels.alike(small, np.array([0]), np.array([1]))]


def jpeg(image, quality):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file)


@pytest.mark.parametrize("change", ["itself", "mirrored", "dark", "jpeg", "half", "moved"])
def test_a_changed_copy_is_alike(photos, change):
    flower = photos["flower"]
    copy = {
        "itself": flower,
        "mirrored": flower.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        "dark": flower.point(lambda level: level // 2),
        "jpeg": jpeg(flower, 20),
        "half": flower.resize((320, 213)),
        "moved": photos["moved"],
    }[change]
    colours, edges, mirrored = compared(flower, copy)
    assert colours > 0.9
    assert edges > (0.6 if change == "moved" else 0.9)
    assert mirrored == (change == "mirrored")


def test_another_photo_is_not_alike(photos):
    colours, edges, _ = compared(photos["flower"], photos["church"])
    assert colours < 0.6
    assert edges < 0.3


def test_an_image_without_contrast_is_like_nothing(photos):
    blank = Image.new("RGB", (50, 40), (9, 9, 9))
    assert compared(blank, blank)[:2] == [0, 0]
    assert compared(blank, photos["flower"])[:2] == [0, 0]


def test_correlation_is_that_of_every_shift_by_hand():
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    small[1, 2:, :-3] = small[0, :-2, 3:]
    one, other = (x.astype(np.float64) - x.mean() for x in small)
    best = max(
        (one[max(0, -y) : 32 - max(0, y), max(0, -x) : 32 - max(0, x)]
         * other[max(0, y) : 32 - max(0, -y), max(0, x) : 32 - max(0, -x)]).sum()
        for y in range(-4, 5) for x in range(-4, 5)
    ) / np.sqrt((one**2).sum() * (other**2).sum())  # fmt: skip
    colours, _, _ = pixels.alike(small, np.array([0]), np.array([1]))
    assert best > 0.7
    assert colours[0] == pytest.approx(best, abs=1e-4)


def test_what_is_measured_of_an_image_by_hand():
    pixels = np.zeros((2, 3, 3), np.uint8)
    pixels[1] = 90
    assert shortcuts.measure(pixels) == (45, 45, 90, 3, 2)


def test_a_property_that_tells_the_class_is_a_shortcut():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 100)
    measured = rng.normal(100, 5, (200, 5))
    measured[:, 0] += 30 * labels
    measured[:, 3:] = 32
    ids = [f"{i}.{'png' if label else 'jpg'}" for i, label in enumerate(labels)]
    found = shortcuts.find(measured, ids, labels, np.arange(200))
    assert [one.property for one in found] == ["file type", "brightness"]
    assert found[0].balanced == 1
    assert found[0].chance == 0.5
    assert shortcuts.find(measured[:, ::-1], ["a.jpg"] * 200, rng.permutation(labels), np.arange(200)) == []
