"""The Open Images subset, from a local server with files of the official shape that behaves as badly as real ones."""

import csv
import hashlib
import json
import signal
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner
from PIL import Image

from backbench import UserError
from backbench.data import cli, fetch, openimages, registry
from tests.bucket import BAT, FLAG, MUG, Server, boxed, line, name, official, picture, verified

GOOD = range(1, 7)
"""Bats to be taken; 20 and 21 are mugs. All others have something against them."""


@pytest.fixture
def server(start_server):
    server = Server()
    for i in (*GOOD, *range(8, 30)):
        server.files[f"/images/validation/{name(i)}.jpg"] = picture(i)
    server.files |= official(
        "validation",
        labels=[*map(verified, GOOD), *map(verified, range(8, 14)), verified(8, confidence=0), verified(9, MUG),
                verified(20, MUG), verified(21, MUG), verified(22, BAT, 0), verified(23, FLAG)],
        boxes=[*map(boxed, GOOD), boxed(1, box=(0, 0.1, 0, 0.1)), boxed(1, FLAG), boxed(9), boxed(9, MUG),
               boxed(10, box=(0, 0.2, 0, 0.2)), boxed(11, depiction=1), boxed(12, inside=1), boxed(13), boxed(13, MUG),
               boxed(20, MUG), boxed(21, MUG, box=(0, 1, 0, 1)), boxed(22), boxed(23, FLAG), boxed(24)],
        about=[*map(line, GOOD[:-1]), line(6, "nan"), *map(line, range(9, 30))],
    )  # fmt: skip
    return start_server(server)


def words(server, tmp_path, *more):
    where = ["--base-url", server.url, "--image-url", f"{server.url}/images", "--data-root", tmp_path / "raw"]
    return ["openimages", *where, *more]


def build(server, tmp_path, *more, code=0):
    more = more if "--list" in more else ["--for", "caltech256", "--split", "validation", *more]
    done = CliRunner().invoke(cli.main, list(map(str, words(server, tmp_path, *more))))
    assert done.exit_code == code, done.output
    return done


def listed(folder):
    with (folder / "images.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_an_ordinary_image_set_with_its_list_of_authors(server, tmp_path):
    done = build(server, tmp_path, "--json")
    told = json.loads(done.stdout)
    out = tmp_path / "raw" / "openimages"
    assert (told["n"], told["out"]) == (8, str(out))
    assert {row["class"]: row["n"] for row in told["classes"] if row["n"]} == {"Bat": 6, "Mug": 2}
    lines = {line["image_id"]: line for line in listed(out)}
    assert sorted(lines) == [*map(name, GOOD), name(20), name(21)]
    first = lines[name(1)]
    assert (first["class_name"], first["mid"], first["author"]) == ("Bat", BAT, "Ünal, 1")
    assert [float(first[side]) for side in ("xmin", "xmax", "ymin", "ymax")] == [0.25, 0.75, 0, 0.5]  # the larger box
    assert first["license"] == "https://creativecommons.org/licenses/by/2.0/"
    assert [lines[name(i)]["rotation"] for i in (5, 6)] == ["0", ""]
    content = server.files[f"/images/validation/{name(1)}.jpg"]
    assert (out / "Bat" / f"{name(1)}.jpg").read_bytes() == content
    assert first["md5"] == hashlib.md5(content).hexdigest()
    found = registry.load("openimages", data_root=tmp_path / "raw")
    assert (found.class_names, len(found), set(found.split.tolist())) == (["Bat", "Mug"], 8, {2})


def test_turned_pictures_are_not_taken(server, tmp_path):
    path = f"/{openimages.FILES['validation']['images']}"
    text = server.files[path].decode().replace("1_t.jpg,0.0", "1_t.jpg,90.0", 1)
    server.files[path] = text.encode()
    assert json.loads(build(server, tmp_path, "--json").stdout)["n"] < 8


def test_per_class_is_a_seeded_draw_that_grows(server, tmp_path):
    draws = {}
    for n, seed in ((2, 1), (4, 1), (4, 2)):
        out = tmp_path / f"{n}-{seed}"
        build(server, tmp_path, "--per-class", n, "--seed", seed, "--out", out)
        draws[n, seed] = {line["image_id"] for line in listed(out) if line["class_name"] == "Bat"}
        assert len(draws[n, seed]) == n
    assert draws[2, 1] < draws[4, 1] != draws[4, 2]


def test_crop_keeps_the_box_and_the_list_the_file(server, tmp_path):
    build(server, tmp_path, "--crop")
    out = tmp_path / "raw" / "openimages"
    with Image.open(out / "Bat" / f"{name(1)}.jpg") as image:
        assert image.size == (32, 24)  # half of 64 x 48 each way
    assert (
        next(line for line in listed(out) if line["image_id"] == name(1))["md5"] == hashlib.md5(picture(1)).hexdigest()
    )
    assert registry.load("openimages", data_root=tmp_path / "raw").class_names == ["Bat", "Mug"]


def test_a_second_run_asks_for_nothing(server, tmp_path):
    build(server, tmp_path)
    server.asked.clear()
    build(server, tmp_path)
    assert server.asked == []


def test_what_the_bucket_lacks_is_replaced_by_the_next_of_its_class(server, tmp_path):
    build(server, tmp_path, "--per-class", 3, "--out", tmp_path / "a")
    gone = next(line["image_id"] for line in listed(tmp_path / "a") if line["class_name"] == "Bat")
    server.faults[f"/images/validation/{gone}.jpg"] = 404
    build(server, tmp_path, "--per-class", 3, "--out", tmp_path / "b")
    a, b = ({line["image_id"] for line in listed(tmp_path / one) if line["class_name"] == "Bat"} for one in "ab")
    assert len(b) == 3
    assert a - b == {gone}


@pytest.mark.parametrize("fault", ["cut", 503, "slow"])
def test_what_breaks_off_or_takes_too_long_is_tried_again(server, tmp_path, monkeypatch, fault):
    if fault == "slow":
        monkeypatch.setattr(fetch, "TIMEOUT", 0.5)
    path = f"/images/validation/{name(2)}.jpg"
    server.faults[path] = [fault, fault]
    build(server, tmp_path)
    assert server.asked.count(path) >= 3
    assert (tmp_path / "raw" / "openimages" / "Bat" / f"{name(2)}.jpg").read_bytes() == server.files[path]


@pytest.mark.parametrize(("fault", "said"), [("wrong", "came with md5"), ("html", "not an image"), (403, "403"),
                                             ("html with etag", "not an image"), (503, "503")])  # fmt: skip
def test_what_is_wrong_is_said_and_the_same_command_goes_on(server, tmp_path, fault, said):
    path = f"/images/validation/{name(2)}.jpg"
    server.faults[path] = fault
    done = build(server, tmp_path, code=1)
    out = tmp_path / "raw" / "openimages"
    assert said in done.stderr
    assert "7 of 8 are in place" in done.stderr
    assert not (out / "images.csv").exists()
    assert not (out / "Bat" / f"{name(2)}.jpg").exists()
    server.faults.clear()
    server.asked.clear()
    build(server, tmp_path)
    assert server.asked == [path]
    assert len(listed(out)) == 8


def test_an_etag_that_is_no_md5_says_nothing(server, tmp_path):
    server.faults[f"/images/validation/{name(2)}.jpg"] = "parts"
    build(server, tmp_path)


def test_a_bucket_that_refuses_all_is_not_asked_for_all(server, tmp_path):
    for path in list(server.files):
        if path.startswith("/images/"):
            server.faults[path] = 403
    many = range(100, 200)
    server.files |= official(
        "validation", labels=map(verified, many), boxes=map(boxed, many), about=map(line, many)
    )  # fmt: skip
    for i in many:
        server.faults[f"/images/validation/{name(i)}.jpg"] = 403
    done = build(server, tmp_path, "--per-class", 100, "--jobs", 2, code=1)
    assert "were not tried any more" in done.stderr
    assert len(server.asked) < 20


@pytest.mark.parametrize("kind", ["labels", "boxes", "images"])
def test_an_official_file_that_is_none(server, tmp_path, kind):
    path = f"/{openimages.FILES['validation'][kind]}"
    good = server.files[path]
    server.files[path] = b"<html>sign in</html>"
    assert "is not Open Images' file: it lacks" in build(server, tmp_path, code=1).stderr
    at = tmp_path / "raw" / "openimages-files" / path.rpartition("/")[2]
    at.write_bytes(good[: good.index(b",", good.rindex(b"\n", 0, -2)) + 3])  # the last line ends in its second cell
    assert "is cut short or damaged" in build(server, tmp_path, code=1).stderr
    at.unlink()
    server.files[path] = good
    build(server, tmp_path)


def test_a_frozen_list_gives_the_same_pictures_anywhere(server, tmp_path, monkeypatch):
    build(server, tmp_path, "--per-class", 2)
    out = tmp_path / "raw" / "openimages"
    for path in openimages.FILES["validation"].values():
        server.files.pop(f"/{path}")
    build(server, tmp_path, "--list", out / "images.csv", "--out", tmp_path / "again")
    assert (tmp_path / "again" / "images.csv").read_bytes() == (out / "images.csv").read_bytes()
    server.faults[f"/images/validation/{listed(out)[0]['image_id']}.jpg"] = 404
    build(server, tmp_path, "--list", out / "images.csv", "--out", tmp_path / "third", code=1)  # none is replaced
    server.faults.clear()
    server.files[f"/images/validation/{listed(out)[0]['image_id']}.jpg"] = picture(99)
    done = build(server, tmp_path, "--list", out / "images.csv", "--out", tmp_path / "third", code=1)
    assert "came with md5" in done.stderr


def test_a_list_that_is_shipped_is_taken_by_itself(server, tmp_path, monkeypatch):
    build(server, tmp_path, "--per-class", 2)
    frozen = tmp_path / "openimages-caltech256.csv"
    frozen.write_bytes((tmp_path / "raw" / "openimages" / "images.csv").read_bytes())
    monkeypatch.setattr(openimages, "frozen", lambda _: frozen)
    args = words(server, tmp_path, "--for", "caltech256", "--out", tmp_path / "again")
    done = CliRunner().invoke(cli.main, list(map(str, args)))
    assert done.exit_code == 0, done.output
    assert (tmp_path / "again" / "images.csv").read_bytes() == frozen.read_bytes()


def test_nothing_in_a_list_is_believed(tmp_path):
    path = tmp_path / "list.csv"
    good = openimages.ImageRecord(name(1), "test", "Bat", BAT, 0.0, 1.0, 0.0, 1.0)
    openimages.write_list(path, [good])
    assert openimages.read_list(path) == [good]
    head, sound = path.read_text().splitlines()
    broken = [
        sound.replace(name(1), "../../../etc/x"), sound.replace("test", "tset"), sound.replace("Bat", "../Bat"),
        sound.replace("0.0,1.0,0.0", "0.0,nan,0.0"), "a,b", sound + "zz",
    ]  # fmt: skip
    path.write_text("\n".join([head, sound, *broken]))
    with pytest.raises(UserError) as raised:
        openimages.read_list(path)
    assert [f"list.csv:{number}:" in fault for number, fault in enumerate(raised.value.faults, 3)] == [True] * 6
    path.write_text("image_id\n")
    with pytest.raises(UserError, match="a list with the columns"):
        openimages.read_list(path)


def test_a_folder_built_otherwise_or_not_here_is_refused(server, tmp_path):
    build(server, tmp_path, "--per-class", 2)
    done = build(server, tmp_path, "--per-class", 3, code=1)
    assert "per_class: it was 2 and is now 3" in done.stderr
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo.jpg").touch()
    assert "holds something else" in build(server, tmp_path, "--out", tmp_path / "mine", code=1).stderr


def test_what_is_asked_for_must_fit(server, tmp_path):
    assert "no class map from digits" in build(server, tmp_path, "--for", "digits", code=1).stderr
    done = CliRunner().invoke(cli.main, ["openimages", "--for", "caltech256", "--list", "x.csv"])
    assert done.exit_code == 2
    path = tmp_path / "map.csv"
    path.write_text("source_class,target_class\na,Batt\n")
    with pytest.raises(UserError, match="no boxable class 'Batt'"):
        openimages.wanted([], path)


def test_killed_half_way_the_same_command_goes_on(server, tmp_path):
    server.delay = 0.1
    command = [
        sys.executable,
        "-m",
        "backbench.data",
        *words(server, tmp_path, "--for", "caltech256", "--split", "validation"),
    ]
    command += ["--jobs", "1"]
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True)
    while sum(path.startswith("/images/") for path in server.asked) < 4:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert "the same command goes on" in process.communicate(timeout=60)[1]
    assert process.returncode == 143
    server.delay, before = 0.0, set(server.asked)
    had = {f"/images/validation/{path.name}" for path in (tmp_path / "raw" / "openimages").rglob("[0-9]*.jpg")}
    assert had < before
    server.asked.clear()
    build(server, tmp_path, "--jobs", 1)
    assert not had & {*server.asked}
    assert len(listed(tmp_path / "raw" / "openimages")) == 8
