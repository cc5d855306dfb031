"""``backbench data`` as users run it."""

import json

import pytest
from PIL import Image


@pytest.fixture
def pets(tmp_path):
    """Two classes of 10 pictures of 300 x 250 pixels; one is grey and small, one is no picture."""
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(10):
            Image.new("RGB", (300, 250)).save(tmp_path / "pets" / name / f"{i}.png")
    Image.new("L", (400, 100)).save(tmp_path / "pets/cat/0.png")
    (tmp_path / "pets/dog/9.png").write_text("no picture")
    Image.new("RGB", (8, 8)).save(tmp_path / "pets/cat/10.png")
    return tmp_path / "pets"


def test_ls(run, tmp_path):
    done = run("data", "ls")
    assert done.returncode == 0, done.stderr
    lines = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()}
    assert lines["dataset"] == ["state", "classes", "train", "val", "test"]
    assert lines["digits"] == ["present", "10", "1,252", "181", "364"]
    assert lines["caltech256"] == ["missing", "-", "-", "-", "-"]


def test_ls_json_and_a_set_that_cannot_be_used(run, tmp_path):
    (tmp_path / "root/caltech256/256_ObjectCategories/001.ak47").mkdir(parents=True)
    done = run("data", "ls", "--data-root", "root", "--json", "--seed", 3)
    told = json.loads(done.stdout)
    assert told["seed"] == 3
    rows = {row["name"]: row for row in told["sets"]}
    assert rows["digits"]["n_train"] == 1252
    assert rows["caltech256"]["state"] == "unusable"
    assert "found no class where at least two are expected" in rows["caltech256"]["fault"]
    assert "backbench data download cifar10 --data-root root" in rows["cifar10"]["fault"]
    assert "found no class" in run("data", "ls", "--data-root", "root").stderr


def test_show_folder(run, pets):
    done = run("data", "show", f"folder:{pets}", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["classes"] == [
        {"name": "cat", "train": 7, "val": 1, "test": 3},  # 11: int(7.7), int(8.8) - 7
        {"name": "dog", "train": 7, "val": 1, "test": 2},  # 10, in integers
    ]
    assert (told["n_train"], told["n_val"], told["n_test"], told["n_images"]) == (14, 2, 5, 21)
    assert told["notes"] == ["2 classes, 14 / 2 / 5 images in train / val / test, drawn with seed 42."]
    assert told["width"] == {"min": 8, "median": 300.0, "max": 400}
    assert told["height"] == {"min": 8, "median": 250.0, "max": 250}
    assert told["share_small"] == 2 / 20
    assert told["modes"] == {"L": 1 / 20, "RGB": 19 / 20}
    assert [image["id"] for image in told["unreadable"]] == ["dog/9.png"]
    assert told["missing"] is None


def test_show_as_text(run, pets):
    done = run("data", "show", f"folder:{pets}")
    assert done.stdout.splitlines()[:4] == [
        "class  train  val  test  all",
        "cat        7    1     3   11",
        "dog        7    1     2   10",
        "all       14    2     5   21",
    ]
    assert "10.0% of the images have a shorter side under 224 pixels" in done.stdout
    assert "RGB 95.00%, L 5.00%" in done.stdout
    assert "unreadable    dog/9.png: it is not an image in a known format" in done.stdout


def test_show_tells_what_is_missing(run, pets):
    home = pets.parent / "data/raw/caltech256/256_ObjectCategories"
    home.parent.mkdir(parents=True)
    pets.rename(home)
    done = run("data", "show", "caltech256")
    assert "missing       254 classes, 29,759 images of the full data set" in done.stdout


def test_show_digits(run):
    done = run("data", "show", "digits")
    assert done.stdout.splitlines()[11].split() == ["all", "1,252", "181", "364", "1,797"]
    assert "missing       nothing" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["show", "cifr10"], 2, "no data set is named 'cifr10'. Did you mean cifar10"),
        (["download", "cifr10"], 2, "Did you mean cifar10"),
        (["show", "cifar10"], 1, "backbench data download cifar10 --data-root data/raw"),
        (["show", "folder:gone"], 1, "folder:gone does not exist"),
        (["download", "office_shift"], 1, "has no public download"),
        (["download", "digits"], 1, "needs no download"),
        (["show"], 2, "Missing argument 'NAME'"),
    ],
)
def test_mistakes(run, arguments, code, words):
    done = run("data", *arguments)
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_download_of_what_is_there_says_where(run, tmp_path):
    home = tmp_path / "data/raw/caltech256/256_ObjectCategories"
    home.mkdir(parents=True)
    done = run("data", "download", "caltech256")
    assert done.stdout == "data/raw/caltech256/256_ObjectCategories\n"
    assert done.returncode == 0


@pytest.mark.parametrize("arguments", [[], ["ls"], ["show"], ["download"]])
def test_help(run, arguments):
    done = run("data", *arguments, "--help")
    assert done.returncode == 0
    assert "Example" in done.stdout
