"""Images without labels: what is taken from folders, files, patterns, standard input and shards."""

import io
import os
import tarfile

import numpy as np
import pytest
from PIL import Image

from backbench import UsageError, UserError
from backbench.data import unlabelled

pytestmark = pytest.mark.usefixtures("cache_home")


def picture(path, shade=90):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (9, 7), (shade, 10, 200)).save(path)
    return path


@pytest.fixture
def photos(tmp_path):
    for k, name in enumerate(("1.png", "cat/2.png", "cat/old/3.png", "other/4.png")):
        picture(tmp_path / "photos" / name, 20 + k)
    (tmp_path / "photos" / "notes.txt").write_text("of the trip")
    return tmp_path / "photos"


def images(*places, lines=(), root="nowhere"):
    return unlabelled.images([str(place) for place in places], exif="ignore", data_root=root, lines=lines)


def test_a_folder_flat_and_nested(photos):
    found = images(photos)
    assert found.ids == ["1.png", "cat/2.png", "cat/old/3.png", "other/4.png"]
    assert found.split.tolist() == [2] * 4
    assert found.class_names == ["photos", "photos/cat", "photos/cat/old", "photos/other"]
    assert unlabelled.truth(found, ["bird", "cat"]).tolist() == [-1, 1, 1, -1]
    assert unlabelled.truth(found, ["old", "cat"]).tolist() == [-1, 1, 0, -1]
    assert found.notes == ("1 file (notes.txt) was passed over.",)
    assert found.read(2).getpixel((0, 0)) == (22, 10, 200)


def test_files_in_the_order_given_and_each_once(photos):
    found = images(photos / "other" / "4.png", photos / "1.png", photos / "cat" / ".." / "1.png")
    assert found.ids == [str(photos / "other/4.png"), str(photos / "1.png")]
    assert [found.read(i).getpixel((0, 0))[0] for i in range(2)] == [23, 20]
    assert unlabelled.truth(found, ["other"]).tolist() == [0, -1]


def test_patterns_and_standard_input(photos, monkeypatch):
    monkeypatch.chdir(photos)
    assert images("cat/*").ids == ["cat/2.png", "cat/old/3.png"]
    assert images("**/*.png").ids == ["1.png", "cat/2.png", "cat/old/3.png", "other/4.png"]
    assert images("*").ids == images("1.png", "cat", "other").ids  # the text file is passed over
    assert images("-", lines=["1.png\n", "\n", "cat\r\n"]).ids == ["1.png", "cat/2.png", "cat/old/3.png"]


def test_other_folders_of_one_name_are_other_sets(tmp_path):
    names = {images(picture(tmp_path / each / "new" / "1.png").parent).name for each in ("a", "b")}
    assert len(names) == 2
    assert all(name.startswith("new-new-") for name in names)


def test_names_that_are_not_utf8(tmp_path):
    picture(tmp_path / "a.png")
    os.rename(tmp_path / "a.png", os.fsencode(tmp_path / "a") + b"\xff.png")
    found = images(tmp_path)
    assert found.ids == ["a\\xff.png"]
    assert found.read(0).size == (9, 7)


def test_every_fault_of_a_request_at_once(photos, tmp_path):
    (tmp_path / "x.csv").write_text("file\n1.png\n")
    with pytest.raises(UserError) as caught:
        images(photos, "gone.png", "https://example.org/cat.png", tmp_path / "x.csv")
    assert [word in str(caught.value) for word in ("gone.png does not exist", "is an address", "table:")] == [True] * 3


def test_a_folder_without_images_says_what_it_holds(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(UserError, match=r"holds no image that can be read\n.*notes\.txt"):
        images(tmp_path)


def test_no_images_named():
    with pytest.raises(UsageError, match="no images are named"):
        images()
    with pytest.raises(UsageError, match="stands alone"):
        images("wds:nowhere", "hf:nowhere")


def test_a_registered_data_set_keeps_its_labels():
    found = images("digits")
    assert (found.name, len(found)) == ("digits", 1797)
    assert (unlabelled.truth(found, list("0123456789")) == found.labels).all()


def shard(path, labels):
    with tarfile.open(path, "w") as tar:
        for i, label in enumerate(labels):
            file = io.BytesIO()
            Image.new("RGB", (8, 8), (i, 0, 0)).save(file, "PNG")
            members = [("png", file.getvalue())] + ([("cls", str(label).encode())] if label is not None else [])
            for ending, content in members:
                member = tarfile.TarInfo(f"{i:03d}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


def test_shards_without_classes_and_with_some(tmp_path):
    found = images(f"wds:{shard(tmp_path / 'a.tar', [None, None])}")
    assert (found.ids, found.class_names, found.split.tolist()) == (["000.png", "001.png"], [""], [2, 2])
    (tmp_path / "classes.txt").write_text("ant\nbee\n")
    found = images(f"wds:{shard(tmp_path / 'b.tar', [1, None, 0])}")
    assert unlabelled.truth(found, ["ant", "bee"]).tolist() == [1, -1, 0]


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_tables_without_a_column_of_classes(tmp_path, kind):
    pa = pytest.importorskip("pyarrow")
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    table = pa.table({"image": [{"bytes": file.getvalue(), "path": None}] * 3, "note": ["x"] * 3})
    if kind == "parquet":
        import pyarrow.parquet

        pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    else:
        with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as out, pa.ipc.new_stream(out, table.schema) as writer:
            writer.write_table(table)
    found = images(f"hf:{tmp_path}")
    assert (len(found), found.class_names, found.split.tolist()) == (3, [""], [2, 2, 2])
    assert found.read(2).size == (8, 8)
    assert np.unique([found.content(i) for i in range(3)]).size == 1
