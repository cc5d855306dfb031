"""The contact sheet, as a file and in a real browser."""

import re

import numpy as np
import pytest
from PIL import Image

from backbench import UserError
from backbench.data.decode import UnreadableImage
from backbench.predict import contact_sheet
from backbench.predict.predictions import Predictions
from tests.study import HOSTILE
from tests.test_report_page import Opened

CLASSES = ["ant", HOSTILE, "cat\x1b[31m"]

PROBABILITIES = np.array(
    [[0.9, 0.08, 0.02], [0.5, 0.3, 0.2], [0.4, 0.35, 0.25], [0.05, 0.9, 0.05], [0.7, 0.2, 0.1], [0.34, 0.33, 0.33]]
)
IDS = ["a/sure.png", "a/half.png", f"b/{HOSTILE}.png", "b/bee.png", "c/seven.png", "odd\u202e.png"]


def predictions(**more) -> Predictions:
    top = np.argsort(-PROBABILITIES, axis=1, kind="stable")
    return Predictions(IDS, CLASSES, top, np.take_along_axis(PROBABILITIES, top, axis=1), **more)


def everything() -> Predictions:
    return predictions(
        sets=[[0], [0, 1], [0, 1, 2], [1], [0], [0, 1, 2]],
        p_known=np.array([0.9, 0.5, 0.03, 0.8, 0.7, 0.01]),
        unknown=np.array([False, False, True, False, False, True]),
        truth=np.array([0, 1, -1, 1, 0, 2]),
        unreadable={f"{HOSTILE}.jpg": "the file is empty", "x\x07.jpg": "truncated"},
        votes=np.array([2, 1, 1, 2, 2, 1]),
    )


def image_of(id: str) -> Image.Image:
    rng = np.random.default_rng(len(id))
    return Image.fromarray(rng.integers(0, 256, (30, 300 if id == "b/bee.png" else 20, 3), np.uint8))


def write(tmp_path, found, **settings):
    path = tmp_path / "new" / "sheet.html"
    settings = {"title": f"Photos {HOSTILE}", "heads": ["heads/a", "heads/b\x1b"]} | settings
    contact_sheet.write(path, found, settings.pop("image_of", image_of), **settings)
    return path


def tiles(html: str) -> list[str]:
    return re.findall(r'<p class="name" title="([^"]*)"', html)


def headings(html: str) -> list[str]:
    return re.findall(r"<h2[^>]*>(.*?)</h2>", html)


ESCAPED = "&lt;img src=x onerror=hacked=1&gt;"


def test_by_class_with_the_least_certain_first_and_no_unknown_ones(tmp_path):
    html = write(tmp_path, predictions()).read_text()
    assert headings(html) == ["ant", ESCAPED]
    assert tiles(html) == ["odd\\u202e.png", f"b/{ESCAPED}.png", "a/half.png", "c/seven.png", "a/sure.png", "b/bee.png"]
    assert "5 images, mean confidence 56.8 %" in html  # (0.9 + 0.5 + 0.4 + 0.7 + 0.34) / 5
    assert "1 image, mean confidence 90.0 %" in html
    for absent in ("none of these", "folder", "Set of", "agree", "be read", "not shown"):
        assert absent not in html


def test_unknown_images_come_first_and_unreadable_ones_last(tmp_path):
    html = write(tmp_path, everything()).read_text()
    assert headings(html) == ["none of these", "ant", ESCAPED, "2 images can't be read"]
    # of the unknown ones that which is most like a known image is the least certain
    assert tiles(html)[:3] == [f"b/{ESCAPED}.png", "odd\\u202e.png", "a/half.png"]
    assert "p 0.030" in html
    assert "p 0.010" in html
    assert html.count("✗ folder says") == 2  # half.png is no ant, and the odd one lies in a known class's folder
    assert f"✗ folder says {ESCAPED}" in html
    assert "✗ folder says cat\\x1b[31m" in html
    assert "5 of them lie in folders named as a class: 60.0 [" in html
    assert "Set of 3, also with cat\\x1b[31m" in html
    assert "1 of 2 heads agree" in html
    assert f"<li>{ESCAPED}.jpg: the file is empty</li><li>x\\x07.jpg: truncated</li>" in html


def test_no_control_character_and_no_markup_of_a_name_is_in_the_file(tmp_path):
    text = write(tmp_path, everything()).read_text()
    assert HOSTILE not in text
    assert {c for c in text if not c.isprintable()} == {"\n"}
    assert "<script" not in text


def test_a_sheet_is_bounded_and_says_what_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(contact_sheet, "MOST", 4)
    html = write(tmp_path, predictions()).read_text()
    assert tiles(html) == ["odd\\u202e.png", f"b/{ESCAPED}.png", "a/half.png", "b/bee.png"]
    assert "2 more are not shown, at 50.0 % or more each." in html
    monkeypatch.setattr(contact_sheet, "BYTES", 1)
    html = write(tmp_path, predictions()).read_text()
    assert html.count("no thumbnail") == 4
    assert "data:image" not in html


@pytest.mark.parametrize(
    ("counts", "most", "each"),
    [
        ([10, 10], 20, 10),  # all fit
        ([100, 100], 20, 10),
        ([1, 100], 20, 19),  # the small one leaves its room to the other
        ([1, 3, 100, 100], 20, 8),  # 1 + 3 + 8 + 8
        ([5] * 30, 20, 1),  # at least one each
        ([], 20, 1),
    ],
)
def test_classes_share_the_room_so_that_small_ones_are_whole(counts, most, each):
    assert contact_sheet.shared(counts, most) == each


def test_an_image_that_is_gone_by_now_costs_its_thumbnail_alone(tmp_path):
    def gone(id):
        if id == "b/bee.png":
            raise UnreadableImage(id, "No such file")
        return image_of(id)

    html = write(tmp_path, predictions(), image_of=gone).read_text()
    assert html.count("no thumbnail") == 1
    assert html.count("data:image/webp") == 5


def test_without_images_it_says_so_and_an_unwritable_place_is_named(tmp_path):
    none = Predictions([], CLASSES, np.zeros((0, 3), int), np.zeros((0, 3)), unreadable={"a": "b"})
    assert "There are no images on this sheet." in write(tmp_path, none).read_text()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"sheet\.html can't be written: .* Name another file"):
        contact_sheet.write(tmp_path / "file" / "sheet.html", none, image_of, title="", heads=[])


def test_one_class_to_choose_from_has_no_next_one(tmp_path):
    top = np.zeros((6, 1), int)
    html = write(tmp_path, Predictions(IDS, CLASSES, top, np.full((6, 1), 0.5))).read_text()
    assert "<i>next" not in html


def test_in_a_browser_it_asks_for_nothing_and_runs_nothing(browser, tmp_path):
    path = write(tmp_path, everything())
    opened = Opened(browser, path)
    assert [url for url in opened.requests if not url.startswith("data:")] == [path.as_uri()]
    assert opened.complaints == []
    assert opened.page.evaluate("getComputedStyle(document.querySelector('.tiles')).display") == "grid"  # allowed
    assert opened.page.evaluate("typeof hacked") == "undefined"
    assert opened.page.locator("img[onerror], [src='x']").count() == 0
    assert HOSTILE in opened.page.locator("main").inner_text()
    widths = opened.page.evaluate("[...document.querySelectorAll('.box img')].map((one) => one.naturalWidth)")
    assert sorted(widths) == [20, 20, 20, 20, 20, contact_sheet.SIDE]
    opened.page.keyboard.press("Tab")
    assert opened.page.evaluate("document.activeElement.className") == "skip"
    opened.page.keyboard.press("Tab")
    opened.page.keyboard.press("Enter")  # the first group
    assert opened.page.url.endswith("#g1")
    opened.context.close()


def test_axe_finds_nothing_in_either_theme_or_on_a_phone(browser, tmp_path):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    path = write(tmp_path, everything())
    for scheme, width in (("light", 1200), ("dark", 390)):
        opened = Opened(browser, path, color_scheme=scheme, bypass_csp=True)
        opened.page.set_viewport_size({"width": width, "height": 900})
        assert opened.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        found = axe.run(opened.page).response["violations"]
        assert [(one["id"], one["impact"], one["nodes"][0]["html"][:200]) for one in found] == []
        opened.context.close()
