"""Maps between class lists: those shipped, one's own with all that can be wrong in it, and proposals by name."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from backbench import UserError
from backbench.data import maps, registry
from tests.conftest import ROOT

CALTECH = [
    "{}.{}".format(*line.split("\t")[:2])
    for line in (ROOT / "tests" / "caltech256_counts.tsv").read_text().splitlines()[1:]
    if "clutter" not in line
]

CIFAR = (Path(__file__).parent / "cifar100_classes.txt").read_text().split()

OFFICE = ["backpack", "bike", "calculator", "headphones", "keyboard", "laptop", "monitor", "mouse", "mug", "projector"]

LISTS = {"caltech256": CALTECH, "cifar100": CIFAR, "openimages": list(maps.openimages()), "office_shift": OFFICE}


def write(tmp_path, *lines, header="source_class,target_class"):
    path = tmp_path / "map.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def test_the_lists_are_whole():
    assert (len(CALTECH), len(CIFAR), len(LISTS["openimages"]), len(OFFICE)) == (256, 100, 601, 10)
    assert maps.openimages()["Computer mouse"] == "/m/020lf"
    assert maps.openimages()["Mouse"] == "/m/04rmv"


@pytest.mark.parametrize("path", sorted(maps.FOLDER.glob("*.csv")), ids=lambda path: path.stem)
def test_shipped_maps_name_classes_that_there_are(path):
    source, target = path.stem.split("-")
    found = maps.groups(maps.read(path), LISTS[source], LISTS[target], path=path)
    for of, n in ((found.of_source, len(LISTS[source])), (found.of_target, len(LISTS[target]))):
        assert of.shape == (n,)
        assert set(of.tolist()) - {-1} == set(range(len(found.names)))
    assert maps.shipped(f"{source}/part", f"{target}/part") == path


def test_shipped_maps_know_an_animal_from_a_device():
    caltech, cifar = (dict(maps.read(maps.shipped(name, "openimages"))) for name in ("caltech256", "cifar100"))
    assert caltech["047.computer-mouse"] == "Computer mouse"
    assert cifar["mouse"] == "Mouse"
    assert cifar["keyboard"] == "Computer keyboard"
    # In part only, or by name only: left out.
    for name in ("002.american-flag", "063.electric-guitar-101", "106.horseshoe-crab", "178.school-bus"):
        assert name not in caltech
    assert caltech["007.bat"] == "Bat"


def test_the_real_sets_correspond_to_the_last_image(shared_data):
    caltech, office = (registry.load(name, data_root=shared_data) for name in ("caltech256", "office_shift"))
    found = maps.between("caltech256", caltech.class_names, "office_shift", office.class_names)
    assert found.names == sorted(OFFICE)
    assert (found.of_source[caltech.labels] >= 0).all()
    assert (found.of_target[office.labels] >= 0).all()
    assert caltech.class_names[found.of_source.tolist().index(found.names.index("mug"))] == "041.coffee-mug"


def test_groups_by_hand(tmp_path):
    """a and b are both X; c is Y and Z. Of the classes here d has no pair, and W none."""
    path = write(tmp_path, "a,X", "b,X", "c,Y", "c,Z")
    found = maps.groups(maps.read(path), ["a", "b", "c", "d"], ["W", "X", "Y", "Z"])
    assert found.names == ["X", "Y / Z"]
    assert found.of_source.tolist() == [0, 0, 1, -1]
    assert found.of_target.tolist() == [-1, 0, 1, 1]
    part = maps.groups(maps.read(path), ["b", "d"], ["X", "Y"])
    assert (part.names, part.of_source.tolist(), part.of_target.tolist()) == (["X"], [0, -1], [0, -1])


def test_every_fault_at_once(tmp_path):
    path = write(tmp_path, "a,X", "a", "a,X", ",Y", "b,X,Z", "c,X", "c,Z")
    with pytest.raises(UserError) as raised:
        maps.read(path)
    said = str(raised.value)
    assert [f"map.csv:{line}" in said for line in (2, 3, 4, 5, 6)] == [False, True, True, True, True]
    assert "a, c share the target X" in said
    good = write(tmp_path, "a,X", "hat,Y")
    with pytest.raises(UserError) as raised:
        maps.groups(maps.read(good), ["a", "hut"], ["Z"], path=good)
    assert len(raised.value.faults) == 3
    assert "'hat'. Did you mean hut?" in str(raised.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "nothing where the header"),
        ("a,b\n", "a,b where the header"),
        ("source_class,target_class\n", "no pair"),
        ("\xff", "can't be read"),
    ],
)
def test_files_that_are_no_map(tmp_path, text, said):
    path = tmp_path / "map.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=said):
        maps.read(path)


def test_which_map_is_taken(tmp_path):
    assert maps.between("caltech256", CALTECH, "office_shift/dslr", OFFICE).names == sorted(OFFICE)
    assert maps.between("here", ["a", "b", "c"], "there", ["c", "a"]).of_target.tolist() == [1, 0]
    own = write(tmp_path, "003.backpack,mug")
    assert maps.between("caltech256", CALTECH, "office_shift", OFFICE, file=own).names == ["mug"]
    with pytest.raises(UserError, match=r"backbench data map here there > map.csv"):
        maps.between("here", ["a"], "there", ["b"])
    with pytest.raises(UserError, match=r"none of the classes of .* corresponds"):
        maps.between("caltech256", ["257.clutter", "x"], "office_shift", OFFICE)


def test_proposals_by_name():
    pairs = maps.propose(
        ["101.head-phones", "sunflower-101", "coffee-mug", "mouse", "tulip", "grapes"],
        ["Headphones", "Sunflower", "Mug", "Mouse", "Grape"],
    )
    assert pairs == [
        ("101.head-phones", "Headphones"), ("sunflower-101", "Sunflower"), ("coffee-mug", "Mug"), ("mouse", "Mouse"),
        ("grapes", "Grape"),
    ]  # fmt: skip


@settings(max_examples=40)
@given(st.lists(st.text(max_size=8), max_size=6), st.lists(st.text(max_size=8), max_size=6))
def test_proposals_are_pairs_of_the_lists(a, b):
    for source, target in maps.propose(a, b):
        assert source in a
        assert target in b


def test_the_command_proposes_csv_to_correct(run, tmp_path):
    for name in ("coffee-mug", "tulip"):
        (tmp_path / "mine" / name).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (8, 8)).save(tmp_path / "mine" / name / f"{i}.png")
    done = run("data", "map", "folder:mine", "openimages")
    assert done.stdout == "source_class,target_class\ncoffee-mug,Mug\n"
    assert "1 classes of folder:mine have none: tulip" in done.stderr
    failed = run("data", "map", "digitz", "folder:nowhere")
    assert failed.returncode == 2
    assert "digitz" in failed.stderr
    assert "nowhere" in failed.stderr


def test_pictures_of_no_class_are_a_set_of_their_own(tmp_path):
    home = tmp_path / "caltech256" / "256_ObjectCategories"
    for name in ("001.ak47", "257.clutter"):
        (home / name).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (8, 8)).save(home / name / f"{i}.png")
    found = registry.load("caltech256/clutter", data_root=tmp_path)
    assert found.ids == [f"257.clutter/{i}.png" for i in range(4)]
    assert np.unique(found.split).tolist() == [2]
    with pytest.raises(UserError, match="backbench data openimages --for caltech256"):
        registry.load("openimages", data_root=tmp_path)
