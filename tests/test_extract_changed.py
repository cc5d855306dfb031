"""A data set that changes: features belong to images, so that only new images are computed."""

import os
import shutil
import time

import h5py
import numpy as np
import pytest
import timm
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import save_file

from backbench.cache import features, schema, seal
from backbench.cache.features import open_file
from backbench.data import registry
from backbench.extract import preprocess
from backbench.extract.cli import main

MODEL = "test_resnet"
CLASSES = ("ant", "bee", "cat")


def noise(path, seed, size=(40, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), np.uint8)
    Image.fromarray(pixels).resize(size).save(path)


@pytest.fixture
def images(tmp_path):
    """A folder of 3 classes with 20 images each."""
    for k, name in enumerate(CLASSES):
        for i in range(20):
            noise(tmp_path / "images" / name / f"{i:02d}.png", 100 * k + i)
    return tmp_path / "images"


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "net.safetensors"
    save_file(timm.create_model(MODEL).state_dict(), path)
    return path


@pytest.fixture
def line(tmp_path, images, weights):
    def line(*args, only=False):
        own = [] if only else ["--dataset", f"folder:{images}"]
        return [
            *own, "--model", MODEL, "--weights", weights, "--batch-size", 8, "--precision", "float32",
            "--compile", "off", "--cache-dir", tmp_path / "cache", "--results-dir", tmp_path / "results", *args,
        ]  # fmt: skip

    return lambda *args, **more: [str(one) for one in line(*args, **more)]


@pytest.fixture
def extract(tmp_path, line, monkeypatch):
    """``extract(...)`` gives click's result; ``extract.decoded`` lists the images that were decoded by it."""
    read = preprocess.Reader.read

    def counted(self, images, views, preprocessors, unless=(), **how):
        made = read(self, images, views, preprocessors, unless, **how)
        black = (made[0][0].flatten(1).amax(1) == 0).numpy()
        extract.decoded += [self.imageset.ids[i] for i, left in zip(images, black, strict=True) if not left]
        return made

    monkeypatch.setattr(preprocess.Reader, "read", counted)
    monkeypatch.setattr("backbench.extract.run.Reader.read", counted)

    def extract(*args, code=0, **more):
        extract.decoded = []
        result = CliRunner().invoke(main, line(*args, **more))
        assert result.exit_code == code, result.output
        return result

    extract.path = schema.default_path(tmp_path / "cache", "folder-images", MODEL)
    return extract


def by_content(path):
    """The features of a file by the bytes of their images' files, which are read again."""
    with open_file(path) as file:
        return dict(zip(file.contents.tolist(), np.array(file.features), strict=True))


def agrees(path, images, **options):
    """Whether ``path`` is sound and holds ids, labels, split and digests of the folder as it is now."""
    assert features.verify(path) is None
    now = registry.load(f"folder:{images}", data_root=".", **options)
    with open_file(path) as file:
        assert (file.ids, file.class_names) == (now.ids, now.class_names)
        assert np.array_equal(file.labels, now.labels)
        assert np.array_equal(file.split, now.split)
        assert [content.decode() for content in file.contents] == [now.content(i) for i in range(len(now))]
        assert {key: file.identity[key] for key in schema.DIGESTS} == now.digests
        assert (file.done == schema.DONE).all()


def test_an_added_image_is_the_only_one_computed(extract, images):
    extract()
    before = by_content(extract.path)
    noise(images / "bee" / "05b.png", 999)
    result = extract()
    assert extract.decoded == ["bee/05b.png"]
    assert "1 image new. 60 features are kept." in result.output
    agrees(extract.path, images)
    after = by_content(extract.path)
    assert all(np.array_equal(after[content], row) for content, row in before.items())
    added = after.keys() - before.keys()
    extract("--overwrite")
    assert len({*extract.decoded}) == 61
    fresh = by_content(extract.path)
    np.testing.assert_allclose(after[added.pop()], next(fresh[one] for one in fresh.keys() - before.keys()), atol=1e-5)


def test_removed_renamed_and_moved_images_cost_nothing(extract, images):
    extract()
    before = by_content(extract.path)
    (images / "ant" / "03.png").unlink()
    (images / "ant" / "04.png").rename(images / "ant" / "zz.png")
    (images / "bee" / "00.png").rename(images / "cat" / "from-bee.png")  # a corrected label
    (images / "cat").rename(images / "dog")
    result = extract()
    assert extract.decoded == []
    assert "1 image fewer, 22 renamed. 59 features are kept." in result.output
    agrees(extract.path, images)
    after = by_content(extract.path)
    assert len(after) == 59
    assert all(np.array_equal(after[content], before[content]) for content in after)


def test_another_seed_reads_no_image(extract, images, monkeypatch):
    extract()
    old = time.time_ns() - 10**10
    for path in images.rglob("*.png"):
        os.utime(path, ns=(old, old))
    monkeypatch.setattr("backbench.data.contents.RECENT", -(10**12))  # else the files are too new to be trusted
    extract()
    assert (extract.path.parent / "contents.npy").exists()
    monkeypatch.setattr("backbench.data.imageset.ImageSet._bytes", lambda *_: pytest.fail("an image was read"))
    extract("--seed", 7)
    with open_file(extract.path) as file:
        assert file.identity["seed"] == 7
    monkeypatch.undo()
    agrees(extract.path, images, seed=7)


def test_content_changed_in_place_is_seen(extract, images):
    """Of the same size in bytes, with the same times of modification, as BMP or PGM exported anew."""
    for path in sorted(images.rglob("*.png")):
        Image.open(path).convert("L").resize((32, 32)).save(path.with_suffix(".bmp"))
        path.unlink()
    extract()
    one, two = images / "ant" / "07.bmp", images / "bee" / "07.bmp"
    size, times = one.stat().st_size, one.stat()
    Image.effect_noise((32, 32), 60).save(one)
    assert one.stat().st_size == size
    os.utime(one, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert "1 image changed. 59 features are kept." in extract().output
    assert extract.decoded == ["ant/07.bmp"]
    agrees(extract.path, images)
    first, second = one.read_bytes(), (images / "cat" / "07.bmp").read_bytes()  # two exchanged between classes
    one.write_bytes(second)
    (images / "cat" / "07.bmp").write_bytes(first)
    assert "2 renamed" in extract().output.replace("images ", "")
    assert extract.decoded == []
    agrees(extract.path, images)
    assert two.exists()


def test_the_same_image_under_two_names_is_computed_once(extract, images):
    for i in range(8, 20):
        shutil.copy(images / "ant" / f"{i:02d}.png", images / "cat" / f"copy{i}.png")
    extract()
    assert len({*extract.decoded}) == 60
    agrees(extract.path, images)
    with open_file(extract.path) as file:
        rows = [file.ids.index(id) for id in ("ant/09.png", "cat/copy9.png")]
        assert np.array_equal(*file.features[rows])
        assert file.measured["images_per_second"] > 0
    shutil.copy(images / "bee" / "00.png", images / "bee" / "again.png")
    extract()
    assert extract.decoded == []


def test_features_of_another_set_of_the_same_name_are_not_replaced(extract, images):
    extract()
    before = extract.path.read_bytes()
    for i, path in enumerate(sorted(images.rglob("*.png"))):
        noise(path, 5000 + i)
    said = extract(code=1).output
    assert "60 images changed. Fewer than half of them are still there." in said
    assert "--overwrite" in said
    assert "--out FILE" in said
    assert extract.path.read_bytes() == before
    extract("--overwrite")
    agrees(extract.path, images)


def test_new_images_are_not_mixed_with_features_of_other_versions(extract, images, monkeypatch):
    extract()
    now = "backbench.extract.plan.versions"
    from backbench.extract.versions import versions

    monkeypatch.setattr(now, lambda device: versions(device) | {"timm": "9.9"})
    (images / "cat" / "00.png").rename(images / "cat" / "new-name.png")
    extract()
    noise(images / "cat" / "new.png", 999)
    said = extract(code=1).output
    assert "lacks 1 of 61 images (1 image new), but it was made by other versions" in said
    assert "versions.timm: the file has" in said
    extract("--overwrite")
    agrees(extract.path, images)


def test_an_unreadable_image_is_left_out_without_compiling(extract, images, monkeypatch):
    (images / "bee" / "03.png").write_bytes(b"no image")
    extract(code=1)
    monkeypatch.setattr("backbench.extract.engine.Engine.__call__", lambda *_: pytest.fail("a model was run"))
    assert "60 images, 1 left out" in extract("--on-error", "skip").output
    (images / "bee" / "04.png").rename(images / "bee" / "05b.png")
    assert "1 left out" in extract().output


def test_views_of_images_are_kept_by_content(extract, images):
    extract("--views", 3, "--views-as", "rows")
    (path,) = extract.path.parent.glob("*.h5")
    before = by_content(path)
    (images / "ant" / "04.png").rename(images / "ant" / "zz.png")
    noise(images / "bee" / "05b.png", 999)
    extract("--views", 3, "--views-as", "rows")
    assert features.verify(path) is None
    after = by_content(path)
    both = before.keys() & after.keys()
    assert len(both) > 130
    assert all(np.array_equal(after[key], before[key]) for key in both)
    assert (
        "crop_seed: the file has 42, this run 7"
        in extract("--views", 3, "--views-as", "rows", "--seed", 7, code=1).output
    )


def test_a_set_under_another_name_and_a_part_of_it_cost_nothing(extract, images, tmp_path):
    extract()
    before = by_content(extract.path)
    images.rename(tmp_path / "renamed")
    result = extract("--dataset", f"folder:{tmp_path / 'renamed'}", only=True)
    assert extract.decoded == []
    path = schema.default_path(tmp_path / "cache", "folder-renamed", MODEL)
    assert f"{path}: 60 features are taken over from {extract.path}." in result.output
    agrees(path, tmp_path / "renamed")
    after = by_content(path)
    assert all(np.array_equal(after[content], row) for content, row in before.items())
    for i in range(24):
        noise(tmp_path / "other" / f"{i % 2}" / f"{i}.png", 7000 + i)
    extract("--dataset", f"folder:{tmp_path / 'other'}", only=True)
    assert len({*extract.decoded}) == 24


def as_schema_2(path, images):
    """Make the file what earlier versions wrote: without contents, with digests of names and sizes."""
    listings = registry.load(f"folder:{images}", data_root=".").listings
    with h5py.File(path, "r+") as h5:
        del h5["contents"]
        h5.attrs["schema"] = 2
        for key, digest in zip(("dataset_digest", "images_digest"), listings, strict=True):
            h5.attrs[key] = digest
    seal.put(path)


def test_a_file_of_an_earlier_version_is_taken_over_where_its_images_are_older(extract, images):
    extract()
    before = by_content(extract.path)
    as_schema_2(extract.path, images)
    noise(images / "bee" / "05b.png", 999)
    assert "belongs to another state of the data set" in extract(code=1).output
    (images / "bee" / "05b.png").unlink()
    extract()
    assert extract.decoded == []
    agrees(extract.path, images)
    after = by_content(extract.path)
    assert all(np.array_equal(after[content], row) for content, row in before.items())


def test_a_file_of_an_earlier_version_is_refused_where_images_were_touched_since(extract, images):
    extract()
    as_schema_2(extract.path, images)
    (images / "bee" / "05.png").touch()
    assert "some image files are newer than it" in extract(code=1).output
    assert features.verify(extract.path) is None
    extract("--overwrite")
    agrees(extract.path, images)
