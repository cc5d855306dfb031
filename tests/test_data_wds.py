"""Tar shards: where their pictures lie, what their classes are, and everything a stranger's tar can hold."""

import io
import json
import os
import pickle
import subprocess
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from backbench import UserError
from backbench.data import wds
from backbench.data.decode import UnreadableImage
from tests.packed import png, samples, shard, shards
from tests.test_data_sources import counts, load

pytestmark = pytest.mark.usefixtures("cache_home")


def test_numbers_as_classes(tmp_path):
    shard(tmp_path / "s.tar", *samples(24, classes=("2", "10", "0\n")))
    assert load(f"wds:{tmp_path}", "unused").class_names == ["0", "2", "10"]
    (tmp_path / "classnames.txt").write_text("\n".join(["zebra", *(f"c{n}" for n in range(1, 10)), "ant"]))
    images = load(f"wds:{tmp_path}", "unused")
    assert images.class_names == ["ant", "c2", "zebra"]
    assert images.labels[:3].tolist() == [1, 0, 2]
    (tmp_path / "classes.txt").write_text("zebra\nbear\nbear")
    with pytest.raises(UserError, match="labels 10, where only 3 class names"):
        load(f"wds:{tmp_path}", "unused")


def test_two_classes_of_one_name_are_told_apart_by_number(tmp_path):
    """As ImageNet's two cranes, a bird and a machine."""
    shard(tmp_path / "s.tar", *samples(24, classes=("0", "1", "2")))
    (tmp_path / "classes.txt").write_text("crane\nbear\ncrane")
    images = load(f"wds:{tmp_path}", "unused")
    assert images.class_names == ["bear", "crane (0)", "crane (2)"]
    assert images.labels[:3].tolist() == [1, 0, 2]


def test_classes_from_json(tmp_path):
    def made(**fields):
        return [m for i in range(8) for m in ((f"{i}.png", png(i)), (f"{i}.json", json.dumps(fields | {"n": i % 2})))]

    shard(tmp_path / "s.tar", *made(label="x"))
    assert load(f"wds:{tmp_path}?label=n", "unused").labels.tolist() == [0, 1] * 4
    with pytest.raises(UserError, match="found one class, 'x'"):
        load(f"wds:{tmp_path}", "unused")
    with pytest.raises(UserError, match=r"8 samples \(0: png, json; 1: png.*\) have no .kind or field kind of .json"):
        load(f"wds:{tmp_path}?label=kind", "unused")


def test_which_picture_and_which_member(tmp_path):
    members = [
        member
        for i in range(8)
        for member in (
            (f"{i}.JPG", png(i)),
            (f"{i}.seg.png", png(99)),
            (f"{i}.kind.txt", "ab"[i % 2]),
            (f"{i}.npy", ""),
        )
    ]
    shard(tmp_path / "s.tar", *members)
    with pytest.raises(UserError, match=r"have several images \(jpg, seg.png\): choose by wds:PATH\?image=jpg"):
        load(f"wds:{tmp_path}?label=kind.txt", "unused")
    images = load(f"wds:{tmp_path}?label=kind.txt&image=jpg", "unused")
    assert images.class_names == ["a", "b"]
    assert images.ids[0] == "0.jpg"
    with pytest.raises(UserError, match=r"takes image, label, group, test, not 'lable'. Did you mean label"):
        load(f"wds:{tmp_path}?lable=x", "unused")


def special(name, kind, link="") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize(
    ("members", "fault"),
    [
        ([], "holds no images: samples like 1.jpg, 1.cls are expected"),
        ([("a.png", png())], r"1 samples \(a: png\) have no .cls"),
        ([("a.cls", "cat")], r"\(a\) have a class but no image next to it"),
        ([("a.png", png()), ("a.cls", b"\xff")], "have a cls that isn't the number or name"),
        ([("a.png", png()), ("a.cls", " ")], "have a cls that isn't"),
        ([("a.png", png()), ("a.cls", "x" * 1001)], "have a cls that isn't"),
        ([("a.png", png()), ("a.json", "[" * 100_000)], "isn't an object in JSON"),
        ([("a.png", png()), ("a.json", "[1]")], "isn't an object in JSON"),
        ([("a.png", png()), ("a.json", '{"label": [1]}')], "field label|have a label that isn't"),
        ([("a.png", png()), ("a.cls", "-1")], "1 of 25 images have no label: a.png"),
        ([*samples(1), ("x.txt", ""), *samples(1)], "are there twice"),
        ([special("a.png", tarfile.SYMTYPE, "/etc/passwd"), ("a.cls", "0")], "hold a link"),
        ([special("a.png", tarfile.LNKTYPE, "000.png"), ("a.cls", "0")], "hold a link"),
        ([special("a.png", tarfile.CHRTYPE), ("a.cls", "0")], "hold a link, a device"),
    ],
)
def test_what_is_wrong_with_samples(tmp_path, members, fault):
    numbered = [(name, str(["cat", "dog"].index(c)) if name.endswith("cls") else c) for name, c in samples(24)]
    shard(tmp_path / "s.tar", *(numbered if members else []), *members)
    with pytest.raises(UserError, match=fault):
        load(f"wds:{tmp_path}", "unused")


def test_all_faults_at_once(tmp_path):
    shard(tmp_path / "a.tar", ("1.png", png()), ("2.png", png()), ("2.jpg", png()), ("2.cls", "x"))
    (tmp_path / "b.tar").write_bytes(b"not a tar" * 200)
    with pytest.raises(UserError) as caught:
        load(f"wds:{tmp_path}", "unused")
    assert len(caught.value.faults) == 3
    assert "b.tar is damaged, or no tar" in caught.value.faults[2]


def test_names_are_never_paths(tmp_path):
    members = [m for i in range(8) for m in ((f"/../../etc/{i}.png", png(i)), (f"/../../etc/{i}.cls", f"k{i % 2}"))]
    shard(tmp_path / "s.tar", *members, ("b\udce9\0.png", png()), ("b\udce9\0.cls", "k0"), format=tarfile.PAX_FORMAT)
    images = load(f"wds:{tmp_path}", "unused")
    assert images.ids[0] == "../../etc/0.png"
    assert np.array_equal(np.asarray(images.read(3)), np.asarray(Image.open(io.BytesIO(png(3)))))
    assert all("\0" not in id and id.encode() for id in [*images.ids, *images.class_names])


def test_a_sparse_member_is_refused(tmp_path):
    # A file with a hole, as GNU tar stores it: its data isn't in one piece.
    content = png()
    with tarfile.open(shard(tmp_path / "s.tar", *samples(8)), "a") as tar:
        info = tarfile.TarInfo("a.png")
        info.size = len(content)
        info.pax_headers = {"GNU.sparse.map": f"0,{len(content)}", "GNU.sparse.size": "900"}
        tar.addfile(info, io.BytesIO(content))
    with pytest.raises(UserError, match="with holes"):
        load(f"wds:{tmp_path}", "unused")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_is_named_or_costs_nothing(tmp_path, data):
    """Cut short or with a byte changed, a shard is refused, or has all its samples; a picture is read or named."""
    path = tmp_path / "d" / "s.tar"
    whole = shard(path, *samples(10)).read_bytes()
    end = 20 * 1024  # ten samples of two members, a block for the header and one for the content each
    if data.draw(st.booleans()):
        at = data.draw(st.integers(1, end - 1))
        path.write_bytes(whole[:at])
    else:
        at = data.draw(st.integers(0, end - 1))
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << data.draw(st.integers(0, 7)))]) + whole[at + 1 :])
    try:
        images = load(f"wds:{tmp_path}/d", "unused")
    except UserError as error:
        assert str(path.parent) in str(error)  # noqa: PT017
        return
    assert len(images) == 10
    for i in range(len(images)):
        try:
            assert images.read(i).size
        except UnreadableImage as error:
            assert error.id == images.ids[i]  # noqa: PT017


def test_the_end_of_a_tar_can_be_added(tmp_path):
    path = shard(tmp_path / "s.tar", *samples(8))
    path.write_bytes(path.read_bytes()[: 8 * 2048])
    with pytest.raises(UserError, match="lacks the end of a tar: get it again, or, if it is whole") as caught:
        load(f"wds:{path}", "unused")
    subprocess.run(str(caught.value).partition("add it with: ")[2], shell=True, check=True)
    assert len(load(f"wds:{path}", "unused")) == 8


def test_a_bomb_and_a_giant_are_unreadable(tmp_path, monkeypatch):
    huge = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(huge, "PNG")
    shard(tmp_path / "s.tar", *samples(8), ("x.png", huge.getvalue()), ("x.cls", "cat"))
    images = load(f"wds:{tmp_path}", "unused")
    with pytest.raises(UnreadableImage, match=r"x.png: 20000 x 20000 pixels, more than"):
        images.read(8)
    monkeypatch.setattr(wds, "IMAGE_BYTES", 10)
    with pytest.raises(UnreadableImage, match=r"000.png: \d+ bytes are too many for an image"):
        images.read(0)


def test_a_shard_that_changes_or_goes_is_named(tmp_path):
    name = shards(tmp_path, a=8)
    images = load(name, "unused")
    os.utime(tmp_path / "a.tar", ns=(1, 1))
    with pytest.raises(UnreadableImage, match=r"000.png: a.tar has changed since the run began"):
        images.read(0)
    (tmp_path / "a.tar").unlink()
    with pytest.raises(UnreadableImage, match=r"000.png: No such file"):
        images.read(0)


def test_many_threads_and_processes_read_the_same(tmp_path):
    images = load(shards(tmp_path, train_0=40, train_1=40, test_0=20), "unused")
    one = [images.encoded(i) for i in range(100)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(images.encoded, range(100))) == one
    assert [pickle.loads(pickle.dumps(images)).encoded(i) for i in range(100)] == one  # noqa: S301
    assert one[0] == png(80)


def test_where_pictures_lie_is_kept_until_the_shard_changes(tmp_path, cache_home, monkeypatch, capsys):
    monkeypatch.setattr(wds, "MANY", 10)
    name = shards(tmp_path / "set", a=20, b=4)
    first = load(name, "unused")
    kept = [*(cache_home / "backbench/shards").iterdir()]
    assert len(kept) == 1  # of b it isn't worth it
    assert "2/2 shards" in capsys.readouterr().err
    again = load(name, "unused")
    assert "1/1 shards" in capsys.readouterr().err  # b only
    assert (again.ids, again.digest) == (first.ids, first.digest)
    assert load(f"{name}?image=png", "unused").ids == first.ids  # another question
    shard(tmp_path / "set/a.tar", *samples(18))
    assert len(load(name, "unused")) == 22
    stamp = (tmp_path / "set/a.tar").stat()
    shard(tmp_path / "set/a.tar", *samples(18, classes=("cat", "emu")))  # the same size, a moment later
    os.utime(tmp_path / "set/a.tar", ns=(stamp.st_atime_ns, stamp.st_mtime_ns + 1))
    assert "emu" in load(name, "unused").class_names
    for file in (cache_home / "backbench/shards").iterdir():
        file.write_text('{"stamp": [1')
    assert len(load(name, "unused")) == 22


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, cache_home, monkeypatch):
    monkeypatch.setattr(wds, "MANY", 1)
    cache_home.write_text("a file")
    assert len(load(shards(tmp_path / "set", a=8), "unused")) == 8


def test_show(run, tmp_path):
    name = shards(tmp_path / "pets", train=22)
    done = run("data", "show", name, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["name"], told["n_train"], told["n_val"], told["n_test"]) == ("wds-pets", 14, 2, 6)
    assert told["width"] == {"min": 5, "median": 5.0, "max": 5}
    assert run("data", "show", "wds:gone").stderr.startswith("Error: wds:gone")


def test_groups_of_samples(tmp_path):
    def made(n, **more):
        return [m for i in range(n) for m in ((f"{i}.png", png(i)), (f"{i}.cls", "ab"[i % 2]), *fields(i, **more))]

    def fields(i, every=4):
        return ((f"{i}.json", json.dumps({"patient": i // every})), (f"{i}.site", f"site {i // 8}"))

    shard(tmp_path / "s.tar", *made(80))
    images = load(f"wds:{tmp_path}?group=patient", "unused")
    assert images.groups.tolist() == [str(i // 4) for i in range(80)]
    assert images.class_names == ["a", "b"]
    assert all(len({*images.split[images.groups == group]}) == 1 for group in {*images.groups})
    assert counts(images) == [56, 8, 16]
    assert "20 groups of 4 to 4 images, each in one split." in images.notes
    assert load(f"wds:{tmp_path}?group=site", "unused").groups[79] == "site 9"
    assert load(f"wds:{tmp_path}", "unused").groups is None
    with pytest.raises(UserError, match=r"have no .doctor or .*name the one that holds the group by wds:PATH\?group="):
        load(f"wds:{tmp_path}?group=doctor", "unused")


def test_groups_of_a_large_shard_are_kept_for_the_next_run(tmp_path, monkeypatch):
    monkeypatch.setattr("backbench.data.wds.MANY", 1)
    members = [m for i in range(40) for m in ((f"{i}.png", png(i)), (f"{i}.cls", "ab"[i % 2]), (f"{i}.p", f"{i // 4}"))]
    shard(tmp_path / "s.tar", *members)
    first = load(f"wds:{tmp_path}?group=p", "unused")
    assert load(f"wds:{tmp_path}", "unused").groups is None
    monkeypatch.setattr("backbench.data.wds.index", None)
    assert load(f"wds:{tmp_path}?group=p", "unused").groups.tolist() == first.groups.tolist()


def test_a_split_that_groups_cross_is_said(tmp_path):
    for name, first in (("train", 0), ("val", 24), ("test", 28)):
        n = 24 if name == "train" else 4
        shard(
            tmp_path / f"{name}.tar",
            *(
                m
                for i in range(first, first + n)
                for m in ((f"{i}.png", png(i)), (f"{i}.cls", "ab"[i % 2]), (f"{i}.p", f"{i // 8}"))
            ),
        )
    (said,) = [note for note in load(f"wds:{tmp_path}?group=p", "unused").notes if note.startswith("Warning")]
    assert said == "Warning: 1 group has images in more than one split: 3 in val and test."
