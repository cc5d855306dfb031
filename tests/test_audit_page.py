"""The page of an audit in a real browser: keys decide, the CSV that is saved is the one that Python writes."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from backbench import UserError, findings
from backbench.audit import page
from backbench.data.thumbnails import thumbnail
from backbench.findings import Finding

LINES = [
    Finding("train/copy.png", "exact duplicate", "test/one.png", "in train and test; a leak; the same class"),
    Finding("b.png", "near duplicate", "a.png", "both in train; of two classes; cosine 0.90"),
    Finding('q",\n.p\rng', "near duplicate", "caf\u00e9 \U0001f408.png", "both in train; the same class", "same"),
    Finding("l.png", "label", "</script><b>cat", "wrong with probability 0.97; labelled dog"),
    Finding("bad\udce9.png", "outlier", "", "cosine distance 0.61 from its class"),
]
ABOUT = {name: ("dog", "train") for line in LINES for name in (line.id, line.partner)}
ABOUT |= {"test/one.png": ("dog", "test"), "a.png": ("cat", "train")}


def image_of(id):
    if id == "a.png":
        raise UserError("gone")
    side = 32 if id == "b.png" else 200
    return Image.fromarray(np.random.default_rng(len(id)).integers(0, 256, (side, side, 3), dtype=np.uint8))


def write(tmp_path, lines=LINES, images=image_of):
    page.write(tmp_path / "audit.html", lines, ABOUT, images, title="<i>pets", csv_name="audit.csv")
    return (tmp_path / "audit.html").read_text(encoding="utf-8")


def test_findings_are_grouped_and_names_are_escaped(tmp_path):
    html = write(tmp_path)
    titles = [part.split("<")[0] for part in html.split('<h2 id="t-')[1:]]
    assert [title.split('">')[1] for title in titles] == [
        "Copies between test and train or val", "Copies in two classes", "Other copies", "Labels", "Outliers",
    ]  # fmt: skip
    assert "<b>cat" not in html
    assert "<i>pets" not in html
    assert html.count('class="tiny"') == 1
    assert html.count("no image") == 1


@pytest.mark.parametrize("name", ["a leak", "of two classes", "near duplicate"])
def test_a_class_name_does_not_choose_the_group(tmp_path, name):
    html = write(tmp_path, [replace(LINES[3], evidence=f"wrong with probability 0.97; labelled {name}")], None)
    assert html.count("<section") == 1
    assert '<section id="labels"' in html


def test_a_page_is_bounded_and_small_groups_are_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "MOST", 20)
    many = [Finding(f"{i}.png", "label", "cat", "") for i in range(50)]
    html = write(tmp_path, [*LINES, *many], None)
    assert html.count("data-i=") == 20
    assert "16 of 51 are shown. The CSV holds all." in html
    monkeypatch.setattr(page, "BYTES", 10_000)
    assert len(write(tmp_path, [replace(line, evidence="") for line in LINES])) < 60_000


def test_the_groups_share_the_room_for_thumbnails(tmp_path, monkeypatch):
    one = len(thumbnail(image_of("l.png"), page.SIDE))
    monkeypatch.setattr(page, "BYTES", 4 * one)
    copies = [Finding(f"{i}.png", "near duplicate", f"{i}b.png", "") for i in range(9)]
    html = write(tmp_path, [*copies, LINES[3]])
    assert "<img" in html.split('id="labels"')[1]
    assert "<img" in html.split('id="labels"')[0]


def test_cards_without_images_have_no_room_for_them(tmp_path):
    html = write(tmp_path, LINES, None)
    assert "no image" not in html
    assert "exact duplicate; in train and test; a leak" in html


def test_an_unwritable_place_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="--page"):
        page.write(tmp_path / "file" / "a.html", [], {}, None, title="t", csv_name="a.csv")


def test_nothing_found_is_said(tmp_path):
    assert "Nothing was found." in write(tmp_path, [])


@pytest.fixture
def opened(browser, tmp_path):
    """The page, which may ask for nothing and report no fault, in a browser with storage of its own."""
    write(tmp_path)
    context = browser.new_context(accept_downloads=True)
    tab, asked, faults = context.new_page(), [], []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    tab.goto((tmp_path / "audit.html").as_uri())
    yield tab
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    assert faults == []
    context.close()


def saved(tab, tmp_path):
    with tab.expect_download() as download:
        tab.click("#save")
    assert download.value.suggested_filename == "audit.csv"
    download.value.save_as(tmp_path / "saved.csv")
    return findings.read(tmp_path / "saved.csv")


def test_the_csv_that_is_saved_is_the_one_that_python_writes(opened, tmp_path):
    assert saved(opened, tmp_path) == LINES
    findings.write(tmp_path / "audit.csv", LINES)
    assert (tmp_path / "saved.csv").read_bytes() == (tmp_path / "audit.csv").read_bytes()


def test_keys_decide_and_move_on(opened, tmp_path):
    assert opened.text_content("#count") == "1 of 5 decided"
    for key in ("j", "s", "w", "r", "w", "s", "w"):  # a label can't be "same": that key does nothing there
        opened.keyboard.press(key)
    assert [line.decision for line in saved(opened, tmp_path)] == ["same", "wrong", "right", "wrong", "wrong"]
    opened.keyboard.press("ArrowUp")
    opened.keyboard.press("R")  # with caps lock on
    assert saved(opened, tmp_path)[3].decision == "right"


def test_a_link_to_a_group_moves_to_its_first_card(opened, tmp_path):
    opened.get_by_role("link", name="Labels").click()
    opened.wait_for_function("document.activeElement.dataset.i === '3'")
    opened.keyboard.press("w")
    assert [line.decision for line in saved(opened, tmp_path)] == ["", "", "same", "wrong", ""]


def test_undo_takes_the_last_decisions_back_one_by_one(opened, tmp_path):
    assert opened.locator("#undo").is_disabled()
    for key in ("j", "s", "j", "r", "u"):  # of the third, whose decision of before comes back
        opened.keyboard.press(key)
    assert opened.evaluate("document.activeElement.dataset.i") == "2"
    assert [line.decision for line in saved(opened, tmp_path)] == ["same", "", "same", "", ""]
    opened.click("#undo")
    assert [line.decision for line in saved(opened, tmp_path)] == ["", "", "same", "", ""]
    opened.keyboard.press("u")
    assert opened.text_content("#count") == "1 of 5 decided"


def test_a_key_that_is_held_down_decides_once(opened):
    opened.keyboard.press("j")
    for _ in range(3):  # the second and third are told as repeats
        opened.keyboard.down("w")
    opened.keyboard.up("w")
    assert opened.text_content("#count") == "2 of 5 decided"


def test_buttons_do_the_same_and_decisions_outlive_the_page(opened, tmp_path):
    first = opened.locator("[data-i='0']")
    first.get_by_role("button", name="the same, the first may go").click()
    assert first.locator("[aria-pressed=true]").count() == 1
    opened.reload()
    assert opened.locator("[data-i='0'] [aria-pressed=true]").text_content().strip().startswith("s")
    opened.locator("[data-i='0'] [aria-pressed=true]").click()
    assert saved(opened, tmp_path)[0].decision == ""


def test_another_audit_does_not_take_over_its_decisions(opened, tmp_path):
    opened.keyboard.press("j")
    opened.keyboard.press("w")
    write(tmp_path, LINES[1:])
    opened.reload()
    assert opened.text_content("#count") == "1 of 4 decided"


def test_what_the_csv_says_by_now_is_newer_than_what_the_browser_keeps(opened, tmp_path):
    for key in ("j", "w", "w"):
        opened.keyboard.press(key)
    write(tmp_path, [replace(LINES[0], decision="right"), *LINES[1:]])  # edited by hand, and audited again
    opened.reload()
    assert [line.decision for line in saved(opened, tmp_path)] == ["right", "wrong", "same", "", ""]


@pytest.mark.parametrize(
    "junk", ["{", "null", "7", '{"0": "wrong", "1": [7, ""], "2": ["x", "same"], "9": ["wrong", ""]}']
)
def test_a_damaged_storage_is_passed_over(opened, tmp_path, junk):
    opened.evaluate("junk => localStorage.setItem(place, junk)", junk)
    opened.reload()
    assert saved(opened, tmp_path) == LINES
    opened.keyboard.press("j")
    opened.keyboard.press("w")
    assert saved(opened, tmp_path)[0].decision == "wrong"


def test_the_buttons_stay_in_view(opened):
    opened.set_viewport_size({"width": 420, "height": 500})
    for _ in LINES:
        opened.keyboard.press("j")
    assert opened.evaluate("scrollY") > 500
    assert 0 <= opened.locator("#save").bounding_box()["y"] < 100
    assert opened.evaluate(
        "document.querySelector('.bar').getBoundingClientRect().bottom"
        " <= document.activeElement.getBoundingClientRect().top"
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(browser, tmp_path, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    write(tmp_path)
    tab = browser.new_page(color_scheme=scheme, viewport={"width": 420, "height": 800})
    tab.goto((tmp_path / "audit.html").as_uri())
    assert [one["id"] for one in axe.run(tab).response["violations"]] == []
    tab.close()
