"""Image sets as users have them on disk: layouts, quirks, splits and faults."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backbench import UsageError, UserError
from backbench.data import registry

DIGITS_DIGEST = "7e45138495c1a5ac5a2d923b41d2aa27f59f457b70094e6fbcfa93530984ef94"
"""Seed 42. A change of it makes every row of digits that of another data set: change it knowingly."""


def lay(root: Path, *files: str) -> Path:
    """Write a small picture at each path; its colour comes from its name, its bytes are the same on every run."""
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (5, 4), (len(file), 100, 200)).save(path, format="PNG")
    return root


def classes(prefix: str, **sizes: int) -> list[str]:
    return [f"{prefix}{name}/{i:03d}.jpg" for name, n in sizes.items() for i in range(n)]


def counts(images) -> list[int]:
    return np.bincount(images.split, minlength=3).tolist()


def load(name, root, **options):
    return registry.load(name, data_root=root, **options)


def test_names_and_unknown_names():
    assert registry.names()[:2] == ["caltech256", "cifar100"]
    assert {"caltech101", "cifar10", "office_shift", "office_shift/dslr", "digits"} < set(registry.names())
    registry.check("digits", "folder:anything")
    with pytest.raises(UsageError) as caught:
        registry.check("caltec256", "digits", "zzzz")
    assert len(caught.value.faults) == 2
    assert "'caltec256'. Did you mean caltech256" in caught.value.faults[0]
    assert "Known: caltech256, cifar100" in caught.value.faults[1]
    with pytest.raises(UsageError, match="ignore or apply"):
        load("digits", ".", exif="turn")


def test_digits():
    images = load("digits", "nowhere")
    assert len(images) == 1797
    assert counts(images) == [1252, 181, 364]
    assert images.ids[:2] == ["digits/0000", "digits/0001"]
    assert images.class_names == [str(n) for n in range(10)]
    assert images.labels[:10].tolist() == list(range(10))
    assert images.pixels.shape == (1797, 8, 8, 3)
    assert images.pixels.dtype == np.uint8
    # The first row of the first digit is 0 0 5 13 9 1 0 0 of 16; times 255 / 16: 79.7, 207.2, 143.4, 15.9
    assert images.pixels[0, 0, :, 0].tolist() == [0, 0, 80, 207, 143, 16, 0, 0]
    assert images.pixels.max() == 255
    assert np.array_equal(np.asarray(images.read(0)), images.pixels[0])
    assert images.read(0).mode == "RGB"
    assert images.digest == DIGITS_DIGEST
    assert images.path(0) is None


def test_the_seed_changes_split_and_digest_only():
    a, b = load("digits", ".", seed=1), load("digits", ".", seed=2)
    assert a.ids == b.ids
    assert counts(a) == counts(b)
    assert not np.array_equal(a.split, b.split)
    assert a.digest != b.digest


@pytest.mark.parametrize("place", ["caltech256/256_ObjectCategories", "256_ObjectCategories"])
def test_caltech256_with_its_quirks(tmp_path, place):
    sizes = {"056.dog": 10, "198.spider": 20, "257.clutter": 5, ".hidden": 1, "__MACOSX": 1}
    home = lay(tmp_path / place, *classes("", **sizes))
    (home / "198.spider/RENAME2").write_text("not an image")
    (home / "198.spider/._000.jpg").write_text("not an image")
    (home / "056.dog/greg/vision309").mkdir(parents=True)
    (home / "056.dog/folder.jpg").mkdir()
    images = load("caltech256", tmp_path)
    assert images.class_names == ["056.dog", "198.spider"]
    assert len(images) == 30
    assert counts(images) == [7 + 14, 0 + 1, 3 + 5]  # the rule for 10 and for 20
    assert images.ids[0] == "056.dog/000.jpg"
    assert images.labels.dtype == np.int64
    assert images.split.dtype == np.int8
    assert images.path(0) == f"{home}/056.dog/000.jpg"
    assert images.read(0).size == (5, 4)


def test_caltech101_leaves_the_background_out(tmp_path):
    lay(tmp_path / "caltech101/101_ObjectCategories", *classes("", BACKGROUND_Google=4, ant=10, bass=12))
    images = load("caltech101", tmp_path)
    assert images.class_names == ["ant", "bass"]
    assert counts(images) == [7 + 8, 0 + 1, 3 + 3]


def test_cifar_as_pictures(tmp_path):
    lay(tmp_path / "cifar10", *classes("train/", cat=40, dog=24), *classes("test/", cat=3, dog=2))
    images = load("cifar10", tmp_path)
    assert counts(images) == [56, 8, 5]  # an eighth of 64
    assert images.class_names == ["cat", "dog"]
    assert images.ids[0] == "test/cat/000.jpg"
    assert all((images.split[i] == 2) == id.startswith("test/") for i, id in enumerate(images.ids))


def test_cifar_batches_that_differ_are_never_unpickled(tmp_path):
    batches = tmp_path / "cifar10" / "cifar-10-batches-py"
    batches.mkdir(parents=True)
    # A pickle that would make a file if it were loaded.
    (batches / "data_batch_1").write_bytes(b"cos\nmkdir\n(V" + str(tmp_path / "owned").encode() + b"\ntR.")
    with pytest.raises(UserError, match=r"data_batch_1, .*backbench data download cifar10 --data-root") as caught:
        load("cifar10", tmp_path)
    assert not (tmp_path / "owned").exists()
    assert str(tmp_path) in str(caught.value)


def small_cifar(monkeypatch, tmp_path):
    """A CIFAR-100 of 16 + 4 pictures in torchvision's own format, with torchvision told its checksums."""
    import hashlib
    import pickle

    from torchvision import datasets

    home = tmp_path / "cifar-100-python"
    home.mkdir()
    rng = np.random.default_rng(0)

    def dump(name, content):
        (home / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((home / name).read_bytes()).hexdigest()]

    def batch(name, n):
        data = rng.integers(0, 256, (n, 3072), dtype=np.uint8)
        return data, dump(name, {"data": data, "fine_labels": [i % 2 for i in range(n)]})

    (train, train_sum), (test, test_sum) = batch("train", 16), batch("test", 4)
    meta = dump("meta", {"fine_label_names": ["apple", "bear"]})
    monkeypatch.setattr(datasets.CIFAR100, "train_list", [train_sum])
    monkeypatch.setattr(datasets.CIFAR100, "test_list", [test_sum])
    monkeypatch.setattr(datasets.CIFAR100, "meta", {"filename": "meta", "key": "fine_label_names", "md5": meta[1]})
    return train, test


def test_cifar_batches(monkeypatch, tmp_path):
    train, test = small_cifar(monkeypatch, tmp_path)
    images = load("cifar100", tmp_path)
    assert images.ids[3:5] == ["test/00003", "train/00000"]
    assert images.ids == sorted(images.ids)
    assert counts(images) == [14, 2, 4]
    assert images.class_names == ["apple", "bear"]
    assert images.labels.tolist() == [0, 1] * 10
    # torchvision's rows are three planes of 32 x 32
    assert np.array_equal(images.pixels[4], train[0].reshape(3, 32, 32).transpose(1, 2, 0))
    assert np.array_equal(np.asarray(images.read(0)), test[0].reshape(3, 32, 32).transpose(1, 2, 0))
    from sklearn.model_selection import train_test_split

    _, val = train_test_split(np.arange(16), test_size=0.125, random_state=42)
    assert sorted(images.ids[i] for i in np.flatnonzero(images.split == 1)) == sorted(f"train/{i:05d}" for i in val)


def test_cifar_batches_with_a_damaged_meta(monkeypatch, tmp_path):
    small_cifar(monkeypatch, tmp_path)
    (tmp_path / "cifar-100-python/meta").write_bytes(b"")
    with pytest.raises(UserError, match="another md5, meta: remove that folder"):
        load("cifar100", tmp_path)


def test_office_shift_is_test_only(tmp_path):
    for source in ("amazon", "dslr", "webcam"):
        lay(tmp_path / "office_shift" / source, *classes("", bike=2, mug=1))
    images = load("office_shift", tmp_path)
    assert counts(images) == [0, 0, 9]
    assert images.class_names == ["bike", "mug"]
    assert images.ids[0] == "amazon/bike/000.jpg"
    alone = load("office_shift/dslr", tmp_path)
    assert counts(alone) == [0, 0, 3]
    assert alone.ids[0] == "bike/000.jpg"
    assert alone.slug == "office_shift-dslr"
    shutil.rmtree(tmp_path / "office_shift/webcam")
    with pytest.raises(UserError, match="lacks webcam/: name the others alone"):
        load("office_shift", tmp_path)


def test_a_set_that_is_not_there(tmp_path):
    root = tmp_path / "with space"
    with pytest.raises(UserError) as caught:
        load("caltech256", root)
    assert f"looked for {root}/caltech256/256_ObjectCategories" in str(caught.value)
    assert f"backbench data download caltech256 --data-root '{root}'" in str(caught.value)
    with pytest.raises(UserError, match="no public download"):
        load("office_shift", root, download=True)


def test_folder_of_classes(tmp_path):
    lay(tmp_path / "pets", *classes("", cat=20, dog=4))
    images = load(f"folder:{tmp_path}/pets", "unused")
    assert images.name == images.slug == "folder-pets"
    assert counts(images) == [14 + 2, 1 + 1, 5 + 1]
    assert images.root == tmp_path / "pets"


def test_folder_with_its_own_splits(tmp_path):
    files = [*classes("train/", cat=5, dog=5), *classes("val/", cat=2, dog=1), *classes("test/", cat=3, dog=3)]
    images = load(f"folder:{lay(tmp_path, *files)}", "unused")
    assert counts(images) == [10, 3, 6]
    assert images.ids[-1] == "val/dog/000.jpg"


def test_folder_without_val_takes_it_from_train(tmp_path):
    lay(tmp_path, *classes("train/", cat=16, dog=9), *classes("test/", cat=3, dog=3))
    images = load(f"folder:{tmp_path}", "unused")
    assert counts(images) == [25 - 3, 2 + 1, 6]


def test_folder_with_test_only(tmp_path):
    lay(tmp_path, *classes("test/", cat=1, dog=2))
    assert counts(load(f"folder:{tmp_path}", "unused")) == [0, 0, 3]


def test_a_class_may_be_named_train(tmp_path):
    lay(tmp_path, *classes("", plane=4, train=4))
    assert load(f"folder:{tmp_path}", "unused").class_names == ["plane", "train"]


def test_subfolders_of_a_class_belong_to_it(tmp_path):
    lay(tmp_path, *classes("cat/young/", a=4), *classes("", dog=4))
    images = load(f"folder:{tmp_path}", "unused")
    assert images.class_names == ["cat", "dog"]
    assert images.ids[0] == "cat/young/a/000.jpg"


@pytest.mark.parametrize(
    ("files", "fault"),
    [
        ([], "holds no class folders"),
        (["a.jpg"], "holds images but no class folders"),
        (classes("", cat=9), "found one class, 'cat',"),
        (classes("", cat=9, dog=1, emu=1), r"2 classes \(dog \(1\), emu \(1\)\) with too few images: of the images"),
        (classes("", cat=2, dog=2), r"no images in val \(train / val / test: 2 / 0 / 2\)"),
        ([*classes("train/", cat=9), *classes("test/", cat=2, dog=2)], r"1 class \(dog \(2\)\) with too few"),
        ([*classes("train/", cat=1, dog=1), *classes("test/", cat=2, dog=2)], "no images in val"),
        ([*classes("train/", cat=9, dog=9), *classes("valid/", cat=9, dog=9)], r"no images in test .*\?test=val"),
    ],
)
def test_folders_that_cannot_be_split(tmp_path, files, fault):
    with pytest.raises(UserError, match=fault):
        load(f"folder:{lay(tmp_path, *files)}", "unused")


def test_an_empty_class_folder_or_split(tmp_path):
    lay(tmp_path, *classes("", cat=9, dog=9))
    (tmp_path / "emu").mkdir()
    images = load(f"folder:{tmp_path}", "unused")
    assert images.class_names == ["cat", "dog"]
    assert images.notes[1] == "1 folder without images (emu) was passed over."
    other = lay(tmp_path / "other", *classes("train/", cat=9, dog=9), *classes("test/", cat=9, dog=9))
    (other / "val").mkdir()
    images = load(f"folder:{other}", "unused")
    assert counts(images) == [16, 2, 18]
    assert images.notes[1] == "1 folder without images (val) was passed over."


def test_folder_that_is_not_one(tmp_path):
    with pytest.raises(UserError, match="does not exist: a folder is expected"):
        load(f"folder:{tmp_path}/gone", "unused")
    lay(tmp_path, "a.png")
    with pytest.raises(UserError, match="is a file"):
        load(f"folder:{tmp_path}/a.png", "unused")


def test_exif_goes_to_the_decoder(tmp_path):
    lay(tmp_path, *classes("", cat=4, dog=4))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (5, 4)).save(tmp_path / "cat/000.jpg", exif=exif)
    assert load(f"folder:{tmp_path}", "unused").read(0).size == (5, 4)
    assert load(f"folder:{tmp_path}", "unused", exif="apply").read(0).size == (4, 5)


def test_real_sets(shared_data):
    images = load("caltech256", shared_data)
    assert len(images.class_names) == 10
    assert counts(images) == [781, 113, 229]
    assert images.digest == "23f75afcaf658144bc92001ace5f13f6dce65a157e7603af25a72f0dd340c2d2"
    assert len(load("caltech101", shared_data)) == 4722
    assert counts(load("cifar10", shared_data)) == [43_750, 6_250, 10_000]
    assert counts(load("office_shift", shared_data)) == [0, 0, 1410]
    assert images.read(0).mode == "RGB"
