"""Folders as people have them: splits of any wording, links, other programs' folders, files that are no images."""

import io
import os

import numpy as np
import pytest
from PIL import Image

from backbench import UsageError, UserError
from backbench.data import formats, registry, splits
from tests.test_data_sources import classes, counts, lay, load


def images(root):
    return load(f"folder:{root}", "unused")


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("Training/", "Validation/", "Testing/"),
        ("Train/", "Val/", "Test/"),
        ("seg_train/seg_train/", "seg_valid/seg_valid/", "seg_test/seg_test/"),
        ("train_set/", "dev_set/", "test_set/"),
        ("trainset/", "valid/", "testset/"),
    ],
)
def test_splits_are_known_in_any_case_and_wording(tmp_path, train, val, test):
    lay(tmp_path / "two", *classes(train, cat=16, dog=16), *classes(test, cat=5, dog=5))
    found = images(tmp_path / "two")
    assert (found.class_names, counts(found)) == (["cat", "dog"], [28, 4, 10])
    assert found.notes[0].startswith("2 classes, 28 / 4 / 10 images in train / val / test, by the folders ")
    assert found.notes[0].endswith(", val taken from train.")
    lay(tmp_path / "three", *(one for at in (train, val, test) for one in classes(at, cat=4, dog=4)))
    assert counts(images(tmp_path / "three")) == [8, 8, 8]


def test_a_stray_image_beside_class_folders_is_passed_over(tmp_path):
    lay(tmp_path, *classes("train/", cat=8, dog=8), *classes("test/", cat=3, dog=3), "train/overview.jpg", "logo.png")
    found = images(tmp_path)
    assert (found.class_names, counts(found)) == (["cat", "dog"], [14, 2, 6])
    assert found.notes[1] == "2 images beside the class folders (logo.png, train/overview.jpg) were passed over."


def test_a_test_without_labels_is_refused_with_the_ways_on(tmp_path):
    lay(tmp_path, *classes("train/", cat=8, dog=8), "test/1.jpg", "test/2.jpg")
    with pytest.raises(UserError, match=r"test holds 2 images but no class folders.*train/ alone by folder:"):
        images(tmp_path)
    assert counts(images(f"{tmp_path}/train")) == [10, 2, 4]


def test_flat_splits_can_be_read_in_two_ways(tmp_path):
    lay(tmp_path, *(f"{split}/{i}.jpg" for split in ("train", "test") for i in range(12)))
    with pytest.raises(UserError, match=r"read in two ways. As splits: .* As classes: test/, train/. Choose with"):
        images(tmp_path)
    with pytest.raises(UserError, match="layout=classes', or put the images of each split into class folders"):
        images(tmp_path)
    assert images(f"{tmp_path}?layout=classes").class_names == ["test", "train"]
    with pytest.raises(UserError, match="no class folders"):
        images(f"{tmp_path}?layout=splits")
    with pytest.raises(UsageError, match="layout=splits or"):
        images(f"{tmp_path}?layout=flat")


def test_a_class_may_be_named_as_a_split(tmp_path):
    lay(tmp_path, *classes("", bus=8, plane=8, train=8))
    assert images(tmp_path).class_names == ["bus", "plane", "train"]


def inside(*splits_of: str, names=("cat", "dog"), n=8) -> list[str]:
    """Files of ``<class>/<split>/``."""
    return [f"{name}/{split}/{i}.jpg" for name in names for split in splits_of for i in range(n)]


def test_splits_inside_each_class(tmp_path):
    found = images(lay(tmp_path, *inside("train", "test"), "cat/overview.jpg"))
    assert (found.class_names, counts(found)) == (["cat", "dog"], [14, 2, 16])
    assert found.notes[0].endswith("by the folders test, train in each class, val taken from train.")
    assert found.notes[1] == "1 image beside the class folders (cat/overview.jpg) was passed over."


def test_val_inside_each_class_can_be_tested_on(tmp_path):
    lay(tmp_path, *inside("train", "val", "test"))
    assert counts(images(tmp_path)) == [16, 16, 16]
    found = images(f"{tmp_path}?test=val")
    assert counts(found) == [14, 2, 16]
    assert {id.split("/")[1] for id in found.ids} == {"train", "val"}


@pytest.mark.parametrize(
    ("files", "passed"),
    [([f"emu/{i}.jpg" for i in range(8)], "emu/0.jpg"), (inside("masks"), "cat/masks/0.jpg")],
)
def test_splits_inside_some_classes_or_beside_others_can_be_read_in_two_ways(tmp_path, files, passed):
    lay(tmp_path, *inside("train", "test"), *files)
    with pytest.raises(UserError, match=r"two ways. As classes that hold their splits: cat/test, cat/train and so on"):
        images(tmp_path)
    assert counts(images(f"{tmp_path}?layout=splits")) == [14, 2, 16]
    whole = images(f"{tmp_path}?layout=classes")
    assert passed in whole.ids
    assert len(whole) == 32 + len(files)


def test_subfolders_of_a_class_whose_names_hold_words_of_splits_are_no_splits(tmp_path):
    lay(tmp_path, *inside("bullet train", "test tube"))
    assert images(tmp_path).notes[0].endswith("drawn with seed 42.")


def test_what_lies_beside_splits_is_said_once(tmp_path):
    lay(tmp_path, *classes("train/", cat=8, dog=8), *classes("test/", cat=3, dog=3), *classes("", unlabeled=9))
    (tmp_path / "val").mkdir()
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "1.dng").write_bytes(b"x")
    found = images(tmp_path)
    assert counts(found) == [14, 2, 6]
    assert found.notes[1] == (
        "1 file (raw/1.dng), 9 images in folders that are no splits (unlabeled/000.jpg, ...) and 2 folders without "
        "images (raw, val) were passed over."
    )


def test_a_test_that_is_left_out_is_no_empty_folder(tmp_path):
    lay(tmp_path, *classes("train/", cat=16, dog=16), *classes("val/", cat=5, dog=5), "test/1.jpg", "test/2.jpg")
    found = images(f"{tmp_path}?test=val")
    assert counts(found) == [28, 4, 10]
    assert [*found.notes] == [
        "2 classes, 28 / 4 / 10 images in train / val / test, by the folders train, val, tested on val, test left out, "
        "val taken from train."
    ]


def test_class_folders_one_level_deeper_are_pointed_at(tmp_path):
    lay(tmp_path, *classes("PetImages/", cat=8, dog=8))
    with pytest.raises(
        UserError, match=r"only in PetImages/, that is one class.*\(cat, dog\).*name folder:.*/PetImages"
    ):
        images(tmp_path)
    assert images(tmp_path / "PetImages").class_names == ["cat", "dog"]


def test_val_can_be_tested_on(tmp_path):
    lay(tmp_path, *classes("train/", cat=16, dog=16), *classes("val/", cat=5, dog=5))
    with pytest.raises(UserError, match=r"no images in test.*\?test=val"):
        images(tmp_path)
    found = images(f"{tmp_path}?test=val")
    assert counts(found) == [28, 4, 10]
    assert found.name.endswith("-val")
    with pytest.raises(UsageError, match=r"\?test=val, to test on val, is expected"):
        images(f"{tmp_path}?test=train")
    with pytest.raises(UserError, match="no val/ to test on"):
        images(f"{lay(tmp_path / 'b', *classes('', cat=9, dog=9))}?test=val")


def test_every_format_that_can_be_read_is_listed(tmp_path):
    """The table of endings and the decoder are one: an image of each format is found by its ending and read."""
    for form, endings in formats.FORMATS.items():
        buffer = io.BytesIO()
        Image.effect_noise((16, 16), 60).save(buffer, form)
        for ending in endings:
            for name in ("cat", "dog"):
                path = tmp_path / form / name / f"0.{ending.upper()}"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(buffer.getvalue())
        for name in ("cat", "dog"):
            for i in range(3):
                (tmp_path / form / name / f"without{i}").write_bytes(buffer.getvalue())
        found = images(tmp_path / form)
        assert len(found) == 2 * (len(endings) + 3)
        assert all(found.read(i).size == (16, 16) for i in range(len(found)))


def test_what_is_passed_over_is_said(tmp_path):
    lay(tmp_path, *classes("", cat=12, dog=12))
    for i in range(12):
        (tmp_path / "cat" / f"{i}.heic").write_bytes(b"\0\0\0\x18ftypheic")
        (tmp_path / "dog" / f"{i}.txt").write_text("no image")
        (tmp_path / "dog" / f"{i + 50}.txt").write_text("no image")
    (tmp_path / "dog" / "Thumbs.db").write_bytes(b"x")
    notes = images(tmp_path).notes
    if formats.heif():
        assert notes[1] == "24 files (24 .txt) were passed over."
    else:
        assert notes[1:] == (
            "36 files (24 .txt, 12 .heic) were passed over.",
            "To read .heic files, install pillow-heif: pip install pillow-heif.",
        )


@pytest.mark.skipif(formats.heif(), reason="pillow-heif is installed here")
def test_a_class_of_nothing_but_photos_that_arent_read_is_refused(tmp_path):
    lay(tmp_path, *classes("", cat=12, dog=12))
    (tmp_path / "emu").mkdir()
    (tmp_path / "emu" / "1.heic").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(UserError, match=r"emu .* hold no image but .heic.* Install pillow-heif"):
        images(tmp_path)


def test_folders_of_other_programs_are_neither_images_nor_classes(tmp_path):
    lay(tmp_path, *classes("", cat=12, dog=12))
    thumbnails = [f"cat/@eaDir/{i:03d}.jpg/SYNOPHOTO_THUMB_{size}.jpg" for i in range(12) for size in "SML"]
    lay(
        tmp_path, *thumbnails, "lost+found/a.jpg", "$RECYCLE.BIN/b.jpg", "__pycache__/c.jpg", ".ipynb_checkpoints/d.jpg"
    )
    found = images(tmp_path)
    assert (found.class_names, len(found)) == (["cat", "dog"], 24)
    assert found.notes[1].startswith("5 folders of other programs ($RECYCLE.BIN, ")


def test_linked_folders_are_followed_once(tmp_path):
    home = lay(tmp_path / "set", *classes("", cat=6, dog=6))
    store = lay(tmp_path / "store", *(f"more/{i}.jpg" for i in range(6)))
    (home / "cat" / "more").symlink_to(store / "more")
    (home / "cat" / "again").symlink_to(store / "more")
    (home / "dog" / "round").symlink_to(home)
    found = images(home)
    assert np.bincount(found.labels).tolist() == [12, 6]
    assert found.notes[1:] == (
        "2 links to a folder above or already taken (cat/more, dog/round) were passed over.",
        "1 link to a folder was followed.",
    )


@pytest.mark.parametrize("n", range(2, 40))
def test_small_classes_have_val_and_test_where_that_is_possible(n):
    train, val, test = splits.folder_counts(n)
    assert (train + val + test, min(train, test)) == (n, min(train, test))
    assert min(train, test) > 0
    assert val > 0 or n < 3
    if n > 10:
        assert (train, val, test) == splits.caltech_counts(n)
    assert splits.caltech_counts(10) == (7, 0, 3)  # the published study's, in floating point
    assert splits.folder_counts(10) == (7, 1, 2)


def test_classes_of_ten_faces(tmp_path):
    found = images(lay(tmp_path, *classes("", **{f"s{i}": 10 for i in range(1, 6)})))
    assert counts(found) == [35, 5, 10]


def test_a_folder_needs_no_kind(tmp_path, monkeypatch):
    lay(tmp_path / "photos", *classes("", cat=12, dog=12))
    monkeypatch.chdir(tmp_path)
    for name in ("photos", "./photos", "../" + tmp_path.name + "/photos", str(tmp_path / "photos")):
        registry.check(name)
        assert registry.load(name, data_root=tmp_path).name == "folder-photos"
    os.mkdir("digits")
    found = registry.load("digits", data_root=tmp_path)
    assert len(found) == 1797
    assert "not the folder digits/" in found.notes[-1]
    lay(tmp_path / "caltech256" / "256_ObjectCategories", *classes("", **{"001.ak47": 12, "002.flag": 12}))
    assert len(registry.load("caltech256", data_root=tmp_path).notes) == 1  # its own folder is no other
    (tmp_path / "labels.csv").write_text("file,label\n")
    with pytest.raises(UsageError, match=r"It is a file. Name it as table:labels.csv"):
        registry.check("labels.csv")
    with pytest.raises(UsageError, match="no data set is named 'photo'"):
        registry.check("photo")
