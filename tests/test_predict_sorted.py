"""``backbench predict --contact-sheet --copy-to``, as a command on images that nobody has sorted."""

import json
import shutil

import pytest

from backbench.predict.cli import main
from tests import trained
from tests.trained import invoke


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = trained.build(tmp_path_factory.mktemp("sorted"), "logistic", checkpoint=False)
    (home / "flat").mkdir()
    for image in (home / "images" / "test").glob("*/*.png"):
        shutil.copy(image, home / "flat" / f"{image.parent.name}-{image.name}")
    (home / "flat" / "broken.png").write_bytes(b"no image")
    return home


def ask(home, *words, code=0):
    folder = home / "heads" / "folder-images" / "test_resnet-logistic"
    return invoke(main, folder, *words, "--json", "--cache-dir", home / "cache", "--device", "cpu", code=code)


def test_a_sheet_and_copies_of_a_flat_folder(home, tmp_path):
    done = ask(home, home / "flat", "--contact-sheet", tmp_path / "sheet.html", "--copy-to", tmp_path / "to")
    said = {one["id"]: one["class"] for one in json.loads(done.stdout)["predictions"]}
    html = (tmp_path / "sheet.html").read_text()
    assert f"<h1>Classes of {home / 'flat'}</h1>" in html
    assert html.count('<p class="name"') == html.count("data:image/webp") == len(said) == 18
    assert "<li>broken.png: " in html
    for id, name in said.items():
        assert (tmp_path / "to" / name / id).read_bytes() == (home / "flat" / id).read_bytes()
    assert sum(path.is_file() for path in (tmp_path / "to").rglob("*")) == 18
    assert f"Wrote {tmp_path / 'sheet.html'}\n" in done.stderr
    assert f"\n18 images were copied to {tmp_path / 'to'}: " in done.stderr


def test_copies_may_not_lie_among_the_images(home):
    (home / "link").symlink_to(home / "flat")
    for inside in (home / "flat", home / "flat" / "sorted", home / "link" / "sorted"):
        done = ask(home, home / "flat", "--copy-to", inside, code=2)
        assert f"--copy-to {inside} lies in {home / 'flat'}: the next time its copies" in done.stderr
    assert not (home / "flat" / "sorted").exists()
