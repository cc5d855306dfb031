"""Parts of a set, and a set whose folder goes away."""

import errno
import shutil

import numpy as np
import pytest
from PIL import Image

from backbench import UserError
from backbench.data import registry
from backbench.data.decode import UnreadableImage
from tests.packed import shards


@pytest.fixture
def on_disk(tmp_path):
    for name in ("ant", "bee"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in range(12):
            Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / "set" / name / f"{i:02d}.png")
    return registry.load(f"folder:{tmp_path / 'set'}", data_root=tmp_path)


def test_a_part_is_rows_of_the_whole(on_disk, tmp_path):
    tars = shards(tmp_path / "tars", train=16, test=4)
    for whole in (on_disk, *(registry.load(name, data_root=tmp_path) for name in ("digits", tars))):
        part = whole.part(8, 15)
        assert (len(part), part.span) == (7, (8, 15, len(whole)))
        assert (part.name, part.listings, part.class_names) == (whole.name, whole.listings, whole.class_names)
        assert part.ids == whole.ids[8:15]
        assert part.labels.tolist() == whole.labels[8:15].tolist()
        assert part.split.tolist() == whole.split[8:15].tolist()
        assert np.array_equal(np.asarray(part.read(2)), np.asarray(whole.read(10)))
        assert part.contents[2] == whole.contents[10] != b""


def unreadable(imageset, i):
    with pytest.raises(UnreadableImage) as caught:
        imageset.read(i)
    return caught.value


def test_a_folder_that_is_gone_is_told_from_images_that_are(on_disk, tmp_path):
    (tmp_path / "set" / "ant" / "03.png").write_bytes(b"damaged")
    (tmp_path / "set" / "ant" / "04.png").unlink()
    on_disk.check_reachable([unreadable(on_disk, 3), unreadable(on_disk, 4)])  # these two, not the set
    shutil.rmtree(tmp_path / "set")
    with pytest.raises(UserError, match=r"can't be reached any more .*No such file.*same command again"):
        on_disk.check_reachable([unreadable(on_disk, 5)])


def test_shards_that_are_gone_are_told_from_images_that_are(tmp_path):
    tars = registry.load(shards(tmp_path / "tars", train=16, test=4), data_root=tmp_path)
    shutil.rmtree(tmp_path / "tars")
    with pytest.raises(UserError, match="can't be reached any more"):
        tars.check_reachable([unreadable(tars, 5)])


def test_a_network_that_is_down_is_no_damaged_image(on_disk):
    """A stale file handle can't be had here, so the error is made as ``decode.read`` makes it."""
    stale = UnreadableImage("ant/3.png", "Stale file handle")
    stale.__cause__ = OSError(errno.ESTALE, "Stale file handle")
    with pytest.raises(UserError, match="Stale file handle"):
        on_disk.check_reachable([stale])
