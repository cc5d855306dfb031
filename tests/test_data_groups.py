"""Groups of images: by a pattern, drawn whole, and what names that look like groups are told."""

import numpy as np
import pytest

from backbench import UsageError, UserError
from backbench.data import groups, registry
from tests.test_data_sources import classes, lay, load


def test_a_pattern_finds_the_group_in_each_path():
    ids = ["cat/patient1_02.jpg", "dog/patient1_03.jpg", "dog/patient12_1.jpg"]
    assert groups.by_pattern(ids, r"(patient\d+)_").tolist() == ["patient1", "patient1", "patient12"]
    assert groups.by_pattern(ids, groups.PATTERNS[0]).tolist() == ["patient1", "patient1", "patient12"]
    with pytest.raises(UserError, match=r"finds no group in 2 of 3 paths: dog/patient1_03\.jpg, dog/patient12_1\.jpg"):
        groups.by_pattern(ids, "cat/([^_]+)")
    with pytest.raises(UserError, match="finds no group in 3 of 3"):
        groups.by_pattern(ids, "(x)?cat|dog")


@pytest.mark.parametrize(
    ("pattern", "fault"),
    [("(a", "unterminated"), ("a+", "it has no bracket"), ("(a)" * 200, "it has 600 characters, 500 at most"),
     ("(a{99999999999})", "the repetition number is too large|overflow")],
)  # fmt: skip
def test_what_is_no_pattern(pattern, fault):
    with pytest.raises(UsageError, match=fault) as caught:
        groups.by_pattern(["a"], pattern)
    assert "a regular expression whose first bracket finds the group" in str(caught.value)


SUSPECT = {
    "patients": [f"x/patient{p}_{i:02d}.jpg" for p in range(9) for i in range(4)],
    "frames": [f"x/video{p}_frame{137 * i:04d}.png" for p in range(9) for i in range(4)],
    "folders": [f"x/patient{p}/{i}.jpg" for p in range(9) for i in range(4)],
    "numbers": [f"{p:08d}_{i:03d}.png" for p in range(9) for i in range(4)],
    "tiles": [f"x/slide-{p}A tile {i}.tif" for p in range(9) for i in range(4)],
}
HARMLESS = {
    "caltech256": [f"001.ak47/001_{i:04d}.jpg" for i in range(50)],
    "imagenet": [f"n01440764/n01440764_{97 * i}.JPEG" for i in range(50)],
    "cifar100": [f"train/bear/{kind}_bear_s_{i:06d}.webp" for kind in ("brown", "ice", "bruin") for i in range(9)],
    "office": [f"{source}/bike/frame_{i:04d}.jpg" for source in ("amazon", "dslr", "webcam") for i in range(9)],
    "breeds": [f"dog/{breed}_{i}.jpg" for breed in ("poodle", "husky", "pug", "boxer") for i in range(9)],
    "cub": [f"x/Albatross_{i:04d}_{796111 + 13 * i}.jpg" for i in range(50)],
    "camera": [f"x/IMG_202301{10 + i // 5}_{(i * 7919) % 240000:06d}.jpg" for i in range(50)],
    "copies": [f"x/photo {i} (1).jpg" for i in range(50)],
    "plain": [f"x/{i:05d}.jpg" for i in range(50)],
}


@pytest.mark.parametrize("kind", [*SUSPECT, *HARMLESS])
def test_names_that_look_like_groups(kind):
    ids = (SUSPECT | HARMLESS)[kind]
    found = groups.suggested(ids, np.zeros(len(ids), np.int64))
    if kind in HARMLESS:
        assert found is None
        return
    pattern, example, n = found
    assert (example, n) == (ids[0], 9)
    assert [sum(groups.by_pattern(ids, pattern) == one) for one in {*groups.by_pattern(ids, pattern)}] == [4] * 9


def test_class_numbers_in_names_are_no_groups():
    ids = [f"{c}/{c}_{i:03d}.jpg" for c in range(5) for i in range(20)]
    assert groups.suggested(ids, np.repeat(np.arange(5), 20)) is None


def test_real_sets_give_no_alarm(shared_data):
    there = [name for name in registry.names() if registry.there(name, shared_data)]
    assert {"caltech256", "digits"} <= {*there}
    for name in there:
        images = load(name, shared_data)
        assert groups.suggested(images.ids, images.labels) is None, name


def test_a_folder_of_such_names_is_told_of(tmp_path):
    lay(tmp_path, *(f"{c}/patient{p}_{i}.png" for c in ("ill", "well") for p in range(12) for i in range(3)))
    (said,) = [note for note in load(f"folder:{tmp_path}", "").notes if note.startswith("Warning")]
    assert said.startswith(
        "Warning: names such as ill/patient0_0.png look like groups (12 of them) whose images may be in"
    )
    assert said.endswith(f"--dataset 'folder:{tmp_path}?group={groups.PATTERNS[0]}'")
    lay(tmp_path / "plain", *classes("", ill=20, well=20))
    assert not any(note.startswith("Warning") for note in load(f"folder:{tmp_path}/plain", "").notes)


def test_groups_of_a_folder_by_a_pattern(tmp_path):
    lay(tmp_path, *(f"{c}/patient{p}_{i}.png" for c in ("ill", "well") for p in range(20) for i in range(3)))
    name = f"folder:{tmp_path}?group={groups.PATTERNS[0]}"
    images = load(name, "")
    assert images.name == f"folder-{tmp_path.name}"
    assert {*images.groups} == {f"patient{p}" for p in range(20)}  # of both classes
    assert all(len({*images.split[images.groups == group]}) == 1 for group in {*images.groups})
    assert np.bincount(images.split).tolist() == [84, 12, 24]
    assert "20 groups of 6 to 6 images, each in one split." in images.notes
    assert {*load(rf"folder:{tmp_path}?group=(patient\d+)(?=_)", "").groups} == {*images.groups}  # with ? and =
    with pytest.raises(UsageError, match="it has no bracket"):
        load(f"folder:{tmp_path}?group=x", "")
    with pytest.raises(UsageError, match=r"folder:PATH\?key=value takes .*group.*, not 'grop'. Did you mean group"):
        load(f"folder:{tmp_path}?grop=(x)", "")


def test_groups_of_folders_of_splits(tmp_path):
    lay(tmp_path, *(f"train/{c}/p{p}_{i}.png" for c in "ab" for p in range(16) for i in range(4)))
    lay(tmp_path, *(f"test/{c}/p{p}_{i}.png" for c in "ab" for p in (15, 16, 17) for i in range(4)))
    images = load(f"folder:{tmp_path}?group=(p[^_]+)_", "")
    assert np.bincount(images.split).tolist() == [112, 16, 24]
    crossing = "Warning: 1 group has images in more than one split: p15 in "
    assert any(note.startswith(crossing) and note.endswith("and test.") for note in images.notes)
