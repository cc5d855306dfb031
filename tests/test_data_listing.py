"""Which files of a folder are listed, under which names, and what the digest of a listing holds on to."""

import errno
import os
import shutil
import sys

import pytest

from backbench import UserError
from backbench.data import listing
from tests.test_data_sources import classes, lay, load


def test_endings_in_any_case(tmp_path):
    names = ["a.jpg", "b.JPEG", "c.PnG", "d.bmp", "e.gif", "f.tif", "g.TIFF", "h.webp", "i.ppm", "j.pgm", "jpg"]
    lay(tmp_path, *(f"x/{name}" for name in [*names, "k.txt", ".jpg", "l.jpg.bak"]))
    (tmp_path / "x/notes").write_text("without an ending, and no image")
    assert listing.class_folders(tmp_path).ids == [f"x/{name}" for name in names]


def test_links(tmp_path):
    home = lay(tmp_path / "set", *classes("", cat=4, dog=4))
    elsewhere = lay(tmp_path / "elsewhere", "e/1.png", "e/2.png", "e/3.png", "e/4.png")
    (home / "cat/link.png").symlink_to(elsewhere / "e/1.png")
    (home / "cat/round").symlink_to(home)  # a folder above: not followed
    (home / "emu").symlink_to(elsewhere / "e")  # a class as a link: followed
    images = load(f"folder:{home}", "unused")
    assert images.class_names == ["cat", "dog", "emu"]
    assert len(images) == 4 + 1 + 4 + 4
    (home / "dog/dead.png").symlink_to("nowhere.png")
    with pytest.raises(UserError, match=r"dog/dead.png is a link that leads nowhere"):
        load(f"folder:{home}", "unused")


def test_names_beyond_ascii(tmp_path):
    composed, decomposed = "\u00e9t\u00e9", "e\u0301te\u0301"
    a, b = (load(f"folder:{lay(tmp_path / 'ab'[i] / 'x', *classes('', **{name: 4, 'dog': 4}))}", "unused")
            for i, name in enumerate((composed, decomposed)))  # fmt: skip
    assert a.ids == b.ids
    assert a.listings == b.listings
    assert b.read(b.class_names.index("dog")).size == (5, 4)
    assert all(image.read(i).size == (5, 4) for image in (a, b) for i in range(8))
    lay(tmp_path / "a" / "x", *classes("", **{decomposed: 1}))
    with pytest.raises(UserError, match="two files are named"):
        load(f"folder:{tmp_path}/a/x", "unused")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse names that aren't UTF-8")
def test_names_that_are_not_utf8(tmp_path):
    lay(tmp_path, *classes("", cat=4, dog=3))
    try:
        shutil.copy(tmp_path / "dog/000.jpg", os.fsencode(tmp_path) + b"/dog/caf\xe9.jpg")
    except OSError as error:
        assert error.errno == errno.EILSEQ  # noqa: PT017
        pytest.skip("this file system refuses names that aren't UTF-8")
    images = load(f"folder:{tmp_path}", "unused")
    assert images.ids[-1] == "dog/caf\\xe9.jpg"
    images.ids[-1].encode()
    assert images.read(len(images) - 1).size == (5, 4)


def test_digest_holds_on_another_path_and_notices_a_change(tmp_path):
    files = classes("", cat=7, dog=7)
    first = load(f"folder:{lay(tmp_path / 'here', *files)}", "unused")
    moved = load(f"folder:{lay(tmp_path / 'far' / 'there', *reversed(files))}", "unused")
    assert first.digest == moved.digest
    assert first.ids == moved.ids
    with (tmp_path / "here/cat/000.jpg").open("ab") as file:
        file.write(b"!")
    assert load(f"folder:{tmp_path}/here", "unused").digest != first.digest


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_may_not_be_read(tmp_path):
    lay(tmp_path, *classes("", cat=4, dog=4))
    (tmp_path / "cat").chmod(0)
    with pytest.raises(UserError, match=r"can't read the folder .*cat: Permission denied"):
        load(f"folder:{tmp_path}", "unused")
    (tmp_path / "cat").chmod(0o700)
