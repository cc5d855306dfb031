"""Views: which there are, that they are always the same, and what becomes of them in a feature file."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from backbench.cache.features import open_file
from backbench.data import registry
from backbench.extract import backbones, views
from backbench.extract.cli import main
from backbench.extract.preprocess import Preprocessor, Reader


class Toy(list):
    """Three images: train, val, train."""

    labels, split, ids = np.array([0, 1, 2]), np.array([0, 1, 0]), ["a", "b", "c"]


def test_rows_by_hand():
    toy = Toy("abc")
    plain, mean, rows = views.rows(toy), views.rows(toy, 3), views.rows(toy, 3, "rows")
    assert (plain.name, mean.name, rows.name) == ("plain", "mean3", "rows3")
    assert plain.images.tolist() == [[0], [1], [2]]
    assert plain.views.tolist() == [[0], [0], [0]]
    assert mean.images.tolist() == [[0, 0, 0], [1, 1, 1], [2, 2, 2]]
    assert mean.views.tolist() == [[0, 1, 2]] * 3
    assert rows.images.ravel().tolist() == [0, 0, 0, 1, 2, 2, 2]
    assert rows.views.ravel().tolist() == [0, 1, 2, 0, 0, 1, 2]
    assert rows.labels.tolist() == [0, 0, 0, 1, 2, 2, 2]
    assert rows.split.tolist() == [0, 0, 0, 1, 0, 0, 0]
    assert rows.ids == ["a", "a#1", "a#2", "b", "c", "c#1", "c#2"]


@given(id=st.text(max_size=5), view=st.integers(2, 99), width=st.integers(1, 900), height=st.integers(1, 900))
def test_a_random_crop_lies_inside_and_is_always_the_same(id, view, width, height):
    one = views.random_crop(id, view, seed=42, width=width, height=height)
    assert one == views.random_crop(id, view, seed=42, width=width, height=height)
    (left, top, right, bottom), _ = one
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    if 0.75 <= width / height <= 4 / 3:  # no side is cut short by much
        assert (right - left) * (bottom - top) / (width * height) > 0.35 * 0.56


def test_crops_differ_by_image_view_and_seed_and_half_are_mirrored():
    crops = [
        views.random_crop(f"{i}", v, seed=s, width=90, height=60) for i in range(9) for v in (2, 3) for s in (0, 1)
    ]
    assert len({box for box, _ in crops}) == len(crops)
    assert 0.2 < np.mean([mirror for _, mirror in crops]) < 0.8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Large and small pictures, by turns."""
    path = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for name in ("ant", "bee"):
        (path / name).mkdir()
        for i in range(15):
            noise = Image.fromarray(rng.integers(0, 256, (5, 4, 3), dtype=np.uint8))
            noise.resize((40, 50) if i % 2 else (200, 150)).save(path / name / f"{i}.png")
    return path


def read(imageset, images, view, *ways):
    with ThreadPoolExecutor(2) as pool:
        batches, faults = Reader(imageset, pool).read(np.array(images), np.array(view), list(ways))
    assert not faults.any()
    return [batch.numpy() for batch in batches]


def test_a_view_is_the_same_in_any_company(folder):
    imageset = registry.load(f"folder:{folder}", data_root=folder)
    backbone = backbones.create("test_resnet", weights="random")
    at = Preprocessor(backbone)
    smaller = Preprocessor(backbone)
    smaller.size, smaller.shorter = (96, 96), 110
    images = [7, 2, 2, 2, 2, 3, 3, 3, 3, 7]
    number = [1, 0, 1, 2, 3, 0, 1, 2, 3, 3]
    together, other = read(imageset, images, number, at, smaller)
    assert other.shape == (10, 3, 96, 96)
    for row, (image, view) in enumerate(zip(images, number, strict=True)):
        (alone,) = read(imageset, [image], [view], at)
        assert np.array_equal(alone[0], together[row])
    for start in (1, 5):
        assert np.array_equal(together[start], together[start + 1, :, :, ::-1])
        assert not np.array_equal(together[start + 2], together[start + 3])
    assert np.array_equal(together[1], at.resized(imageset.array(2)[None])[0].transpose(2, 0, 1))


def test_images_in_memory_have_views_too(tmp_path):
    imageset = registry.load("digits", data_root=tmp_path)
    (batch,) = read(
        imageset, [5, 5, 5, 6], [0, 1, 2, 0], Preprocessor(backbones.create("test_resnet", weights="random"))
    )
    assert np.array_equal(batch[0], batch[1, :, :, ::-1])
    assert batch[2].any()


def test_mean_and_rows_hold_the_same_views(folder, tmp_path):
    where = ["--cache-dir", str(tmp_path), "--results-dir", str(tmp_path), "--compile", "off", "--seed", "1"]
    how = [
        "--model",
        "test_resnet",
        "--weights",
        "random",
        "--dataset",
        f"folder:{folder}",
        "--precision",
        "float32",
        *where,
    ]
    for more in ([], ["--views", "3"], ["--views", "3", "--views-as", "rows", "--batch-size", "7"]):
        result = CliRunner().invoke(main, [*how, *more])
        assert result.exit_code == 0, result.output
    (plain, mean, rows) = (next(tmp_path.glob(f"*/test_resnet{end}.h5")) for end in ("", ".mean3", ".rows3"))
    with open_file(plain) as a, open_file(mean) as b, open_file(rows) as c:
        assert (a.ids, a.split.tolist()) == (b.ids, b.split.tolist())
        assert [id for id in c.ids if "#" not in id] == a.ids
        assert len(c.ids) == len(a.ids) + 2 * (a.split == 0).sum()
        for i in np.flatnonzero(a.split == 0)[:20]:
            three = c.features[c.ids.index(a.ids[i]) :][:3]
            assert c.ids[c.ids.index(a.ids[i]) + 2] == f"{a.ids[i]}#2"
            np.testing.assert_allclose(three[0], a.features[i], rtol=1e-3, atol=1e-4)
            np.testing.assert_allclose(three.mean(0), b.features[i], rtol=1e-3, atol=1e-4)
            assert np.abs(three[0] - three[2]).max() > 1e-3
        assert (b.identity["views"], c.identity["views"]) == ("mean3", "rows3")
