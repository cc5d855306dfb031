import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backbench import UserError
from backbench.data import unlabelled
from backbench.predict import copies
from backbench.predict.predictions import Predictions
from tests.conftest import ROOT
from tests.packed import png, shard


def predictions(ids, classes, said, unknown=None) -> Predictions:
    top = np.array(said)[:, None]
    unknown = None if unknown is None else np.array(unknown)
    return Predictions(list(ids), list(classes), top, np.ones(top.shape), unknown=unknown)


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def source(tmp_path):
    """Three files of one name in three folders, the last like the first, and one more."""
    made = {"x/a.jpg": b"one", "y/a.jpg": b"two", "z/a.jpg": b"one", "z/b.png": b"three"}
    for name, content in made.items():
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, (1_000_000_000, 1_000_000_000))
    return tmp_path / "in", list(made)


def test_into_class_folders_where_nothing_is_overwritten_and_the_same_again_adds_nothing(tmp_path, source):
    root, ids = source
    found = predictions(ids, ["cat", "dog"], [0, 0, 0, 1], unknown=[False, False, False, True])
    out = tmp_path / "out"
    lines = copies.copy_to(out, found, lambda id: str(root / id))
    wanted = {"cat/a (2).jpg": b"two", "cat/a.jpg": b"one", "none of these/b.png": b"three"}
    assert files(out) == wanted
    assert lines == [
        f"3 images were copied to {out}, and 1 is there already: cat 3, none of these 1.",
        "For 1 of them the name was taken, and a number was added, as in cat/a (2).jpg.",
    ]
    assert (out / "cat" / "a.jpg").stat().st_mtime == 1_000_000_000
    again = copies.copy_to(out, found, lambda id: str(root / id))
    assert files(out) == wanted
    assert again == [f"0 images were copied to {out}, and 4 are there already: cat 3, none of these 1."]
    assert files(root) == {name: (root / name).read_bytes() for name in ids}  # copied, not moved


def test_a_file_that_was_there_is_kept(tmp_path, source):
    root, ids = source
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.jpg").write_bytes(b"mine")
    (tmp_path / "cat" / "a (2).jpg").mkdir()
    copies.copy_to(tmp_path, predictions(ids[:1], ["cat", "dog"], [0]), lambda id: str(root / id))
    assert files(tmp_path / "cat") == {"a (3).jpg": b"one", "a.jpg": b"mine"}


def test_a_thousand_files_of_one_name_are_each_read_once(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(copies, "sha256", lambda path: read.append(path) or path.read_bytes().hex())
    ids = [f"{i}/a.png" for i in range(300)]
    found = predictions(ids, ["cat", "dog"], [0] * 300)
    content = {id: id.encode() for id in ids}
    monkeypatch.setattr(copies.hashlib, "sha256", lambda data: type("D", (), {"hexdigest": lambda _: data.hex()})())
    copies.copy_to(tmp_path, found, content.get)
    assert len(files(tmp_path)) == 300
    assert len(read) == 1  # a.png, when the second came
    copies.copy_to(tmp_path, found, content.get)
    assert len(files(tmp_path)) == 300
    assert len(read) == 301


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("cat", "cat"),
        ("041.coffee mug, blue", "041.coffee mug, blue"),
        ("Bäume 樹", "Bäume 樹"),
        ("a/b\\c", "a_b_c"),
        ("..", "_"),
        (".", "_"),
        ("", "_"),
        ("../../etc", "_._.._etc"),
        ("/etc", "_etc"),
        (".hidden", "_hidden"),
        ("CON", "_CON"),
        ("nul.txt", "_nul.txt"),
        ("com1", "_com1"),
        ("common", "common"),
        ("what? <b>", "what_ _b_"),
        ("end. ", "end"),
        ("a\x00b\x1b\u202e", "a_b__"),
        ("e\u0301", "é"),
        ("\udcff", "_"),
        ("ä" * 200, "ä" * 60),
    ],
)
def test_a_class_is_one_safe_folder_name(name, folder, tmp_path):
    (_, made) = copies.folders(["none of these", name])
    assert made == folder
    (tmp_path / made).mkdir()
    assert (tmp_path / made).parent == tmp_path


def test_no_two_classes_share_a_folder_even_where_case_is_ignored():
    made = copies.folders(["none of these", "None of These", "cat", "Cat", "cat (2)", "a/b", "a:b", "é", "e\u0301"])
    assert made == [
        *("none of these", "None of These (2)", "cat", "Cat (2)", "cat (2) (2)", "a_b", "a_b (2)", "é", "é (2)"),
    ]


def test_images_of_shards_and_in_memory_have_safe_names_and_endings(tmp_path):
    stored = {
        "000": png(0),
        "dir/001.jpg": b"\xff\xd8\xffjpeg",
        "../../up": png(2),
        "con": b"no image",
        "digits/0001": Image.new("RGB", (2, 2)),
        "b\x1b.PNG": Image.new("RGB", (3, 2)),
    }
    found = predictions(stored, ["cat", "dog"], [0] * 6)
    copies.copy_to(tmp_path / "out", found, stored.get)
    there = files(tmp_path / "out")
    assert sorted(there) == [
        *("cat/000.png", "cat/0001.png", "cat/001.jpg", "cat/_con.img", "cat/b_.PNG", "cat/up.png"),
    ]
    assert there["cat/000.png"] == png(0)
    assert Image.open(tmp_path / "out" / "cat" / "b_.PNG").size == (3, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_a_real_shard_comes_out_as_its_bytes(tmp_path):
    shard(tmp_path / "wds" / "0.tar", ("a/000.png", png(0)), ("a/001.png", png(1)))
    listed = unlabelled.images([f"wds:{tmp_path / 'wds'}"], exif="ignore", data_root=tmp_path)
    found = predictions(listed.ids, ["cat", "dog"], [1, 1])
    place = {id: i for i, id in enumerate(listed.ids)}
    copies.copy_to(tmp_path / "out", found, lambda id: listed.encoded(place[id]))
    assert list(files(tmp_path / "out").values()) == [png(0), png(1)]
    assert all(name.endswith(".png") for name in files(tmp_path / "out"))


def test_links_below_the_folder_are_not_followed(tmp_path, source):
    root, ids = source
    found = predictions(ids[:1], ["cat", "dog"], [0])
    elsewhere, out = tmp_path / "elsewhere", tmp_path / "out"
    elsewhere.mkdir()
    out.mkdir()
    (out / "cat").symlink_to(elsewhere)
    with pytest.raises(UserError, match=r"out/cat is a link, which is not followed. Remove it, or name another"):
        copies.copy_to(out, found, lambda id: str(root / id))
    (out / "cat").unlink()
    (out / "cat").mkdir()
    (out / "cat" / "a.jpg").symlink_to(elsewhere / "new.jpg")  # leads nowhere: to write it would make new.jpg
    (out / "cat" / copies.PART.format(os.getpid())).symlink_to(elsewhere / "part.jpg")
    copies.copy_to(out, found, lambda id: str(root / id))
    assert not list(elsewhere.iterdir())
    assert (out / "cat" / "a (2).jpg").read_bytes() == b"one"
    copies.copy_to(tmp_path / "to", found, lambda id: str(root / id))
    (tmp_path / "here").symlink_to(tmp_path / "to")  # the folder itself may be a link, since the user named it
    copies.copy_to(tmp_path / "here", found, lambda id: str(root / id))


def test_longest_names_get_numbers_too(tmp_path):
    name = "ä" * 125 + ".jpg"  # 254 bytes
    stored = {f"{k}/{name}": tmp_path / str(k) / name for k in (1, 2)}
    for k, path in enumerate(stored.values()):
        path.parent.mkdir()
        path.write_bytes(bytes([k]))
    copies.copy_to(tmp_path / "out", predictions(stored, ["c", "d"], [0, 0]), lambda id: str(stored[id]))
    assert sorted(files(tmp_path / "out").values()) == [b"\0", b"\1"]
    assert any(path.name.endswith(" (2).jpg") for path in (tmp_path / "out" / "c").iterdir())


def test_on_a_file_system_without_hard_links(tmp_path, source, monkeypatch):
    def no_links(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(copies.os, "link", no_links)
    root, ids = source
    copies.copy_to(tmp_path / "out", predictions(ids, ["cat", "dog"], [0, 0, 0, 1]), lambda id: str(root / id))
    assert files(tmp_path / "out") == {"cat/a (2).jpg": b"two", "cat/a.jpg": b"one", "dog/b.png": b"three"}


def test_what_stands_in_the_way_is_named_with_what_is_done(tmp_path, source):
    root, ids = source
    found = predictions(ids, ["cat", "dog"], [0, 0, 0, 1])
    (root / "y" / "a.jpg").unlink()
    with pytest.raises(UserError) as error:
        copies.copy_to(tmp_path / "out", found, lambda id: str(root / id))
    assert str(error.value) == (
        f"{root}/y/a.jpg: No such file or directory. 1 of 4 images are copied. The same command goes on."
    )
    assert files(tmp_path / "out") == {"cat/a.jpg": b"one"}
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file.*: Not a directory"):
        copies.copy_to(tmp_path / "file", found, lambda id: str(root / id))


SLOW = """
import sys, time, numpy as np
from pathlib import Path
from backbench.predict import copies
from backbench.predict.predictions import Predictions
top = np.zeros((400, 1), int)
found = Predictions([f"{i}.png" for i in range(400)], ["cat", "dog"], top, np.ones(top.shape))
def source(id):
    time.sleep(0.01)
    return id.encode() * 100_000
copies.copy_to(Path(sys.argv[1]), found, source)
"""


def test_ctrl_c_leaves_whole_files_and_the_same_again_goes_on(tmp_path):
    run = subprocess.Popen([sys.executable, "-c", SLOW, str(tmp_path)], cwd=ROOT, stderr=subprocess.DEVNULL)
    while len(list(tmp_path.glob("cat/*.png"))) < 20:
        assert run.poll() is None
        time.sleep(0.01)
    run.send_signal(signal.SIGINT)
    assert run.wait(60) != 0
    there = files(tmp_path)
    assert 20 <= len(there) < 400
    for name, content in there.items():
        assert content == Path(name).name.encode() * 100_000
    subprocess.run([sys.executable, "-c", SLOW.replace("time.sleep(0.01)", ""), str(tmp_path)], check=True)
    assert sorted(files(tmp_path)) == sorted(f"cat/{i}.png" for i in range(400))


def test_no_control_character_of_a_class_is_printed(tmp_path):
    found = predictions(["a"], ["x\x1b[31m", "y"], [0])
    lines = copies.copy_to(tmp_path / "b\x07", found, lambda id: png())
    assert re.search(r"^1 image was copied to .*/b\\x07: x_\[31m 1\.$", lines[0])
