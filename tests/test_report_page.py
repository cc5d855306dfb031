"""The page in a real browser. Where there is no Chromium these tests are skipped: apt-get install chromium."""

import json
import re

import pytest

from backbench import rows
from backbench.report import charts, head_panels, page
from backbench.report.study import load
from tests.study import CLASSES, HOSTILE


@pytest.fixture(scope="module")
def html(study, tmp_path_factory):
    root = study["pictures"]
    read = load(study["results"])
    close = head_panels.gather(read, cache_dir=study["cache"], data_root=root, datasets=[f"folder:{root}"])
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page.build(read, close), encoding="utf-8")
    return path


PLACE = """() => {
  const map = document.querySelector("#head-view .map");
  const { left, top } = map.getBoundingClientRect();
  const { xaxis, yaxis } = map._fullLayout;
  const { x, y } = map.data[0];
  return [left + xaxis._offset + xaxis.d2p(x[5]), top + yaxis._offset + yaxis.d2p(y[5])];
}"""
"""Where the sixth point of the map lies in the window."""


class Opened:
    """A page with all that it asked for and complained of."""

    def __init__(self, browser, path, **settings):
        self.context = browser.new_context(viewport={"width": 1200, "height": 900}, **settings)
        self.page = self.context.new_page()
        self.complaints, self.requests = [], []
        self.page.on("console", lambda m: self.complaints.append(m.text) if m.type == "error" else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())

    def everything(self):
        """Scroll to the bottom, so that every chart is drawn."""
        for part in (
            "#table",
            "#charts",
            "#chart-path",
            "#chart-elsewhere",
            "#chart-corruption",
            "#elsewhere",
            "#one",
            "footer",
        ):
            self.page.locator(part).scroll_into_view_if_needed()
        self.page.wait_for_selector("#head-view .map .plot-container")
        for box in self.page.query_selector_all(".chart .plot"):
            box.scroll_into_view_if_needed()
            box.wait_for_selector(".main-svg")


@pytest.fixture(scope="module")
def opened(browser, html):
    opened = Opened(browser, html)
    opened.everything()
    yield opened
    opened.context.close()


def column(page, at, most=99):
    cells = page.locator(f"#study tbody tr:not([data-off]) > :nth-child({at})").all_inner_texts()
    return [text.strip() for text in cells[:most]]


def test_it_opens_without_an_error_or_a_request(opened, html):
    outside = [url for url in opened.requests if not url.startswith(("data:", "blob:"))]
    assert outside == [html.as_uri()]
    assert opened.complaints == []
    assert opened.page.locator(".chart .plot .plot-container").count() == len(charts.KINDS) - 2
    assert opened.page.locator(".card").count() == 4
    assert opened.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_hostile_names_are_text_even_without_the_policy(browser, html, opened):
    assert HOSTILE in opened.page.locator("#study").inner_text()
    free = Opened(browser, html, bypass_csp=True)
    free.everything()
    free.page.select_option("#head-set", label=free.page.locator("#head-set option").nth(1).inner_text())
    for value in free.page.locator("#head option").evaluate_all("all => all.map((one) => one.value)"):
        free.page.select_option("#head", value)
        assert all(name in free.page.locator("#head-view").inner_text() for name in CLASSES)
    free.page.wait_for_timeout(200)
    assert free.page.evaluate("typeof hacked") == "undefined"
    assert free.page.locator("img[onerror], [src='x']").count() == 0
    legend = free.page.evaluate("[...document.querySelectorAll('.legendtext, .ytick')].map((e) => e.textContent)")
    assert f"poor {HOSTILE}" in legend
    assert free.complaints == []
    free.context.close()


def test_the_policy_lets_no_other_script_run(opened):
    script = (
        "const s = document.createElement('script'); s.textContent = 'window.injected = 1'; document.body.append(s);"
    )
    opened.page.evaluate(f"() => {{ {script} }}")
    assert opened.page.evaluate("typeof injected") == "undefined"
    assert any("Content Security Policy" in text for text in opened.complaints)
    opened.complaints.clear()


def test_it_sorts_by_any_column_with_empty_cells_last(opened):
    tops = opened.page.locator("thead .sort", has_text="top-1 %").first
    tops.click()
    found = column(opened.page, 3)
    values = [float(text.split()[0]) for text in found if text]
    assert values == sorted(values, reverse=True)
    assert found[len(values) :] == [""] * (len(found) - len(values))
    assert opened.page.locator("[aria-sort]").get_attribute("aria-sort") == "descending"
    tops.click()
    assert [float(text.split()[0]) for text in column(opened.page, 3) if text] == sorted(values)
    opened.page.locator("thead .sort", has_text="Backbone").press("Enter")  # by keyboard
    names = column(opened.page, 1)
    assert names == sorted(names)


def test_it_filters_by_words_and_data_set(opened):
    page = opened.page
    page.fill("#filter", "centroid GOOD")
    assert column(page, 1) == ["good"]
    assert page.locator("#count").inner_text().startswith("1 of ")
    page.fill("#filter", "")
    page.select_option("#shown", index=1)
    assert page.locator("#study thead th[scope=colgroup]:visible").count() == 1
    page.select_option("#shown", index=0)
    assert page.locator("#study thead th[scope=colgroup]:visible").count() == 2


def test_a_figure_opens_the_row_it_comes_from(opened, study):
    page = opened.page
    page.fill("#filter", "fair centroid")
    button = page.locator("#study tbody tr:not([data-off]) button.origin").first
    wanted = rows.read(study["results"])[int(button.get_attribute("data-rows"))]
    button.press("Enter")
    shown = page.locator("#origin").inner_text()
    for text in (wanted["command"], wanted["created"], wanted["device"], "weights_sha256", "0" * 64, "python"):
        assert text in shown
    page.keyboard.press("Escape")
    assert not page.locator("#origin").is_visible()
    page.fill("#filter", "")
    page.locator(".card summary", has_text="Evidence").first.click()
    page.locator(".card button.origin").first.click()
    assert "command" in page.locator("#origin").inner_text()
    page.locator("#origin button").first.click()


def test_charts_have_their_figures_as_a_table_and_points_to_click(opened):
    page = opened.page
    box = page.locator("#chart-sets")
    box.locator("summary").click()
    box.locator("tbody tr").first.wait_for()
    assert box.locator("tbody tr").count() == 2
    box.locator("tbody button").first.click()
    assert "2 rows" in page.locator("#origin-title").inner_text()
    page.keyboard.press("Escape")
    box.scroll_into_view_if_needed()
    point = box.locator(".points path").first.bounding_box()
    page.mouse.move(point["x"] + point["width"] / 2, point["y"] + point["height"] / 2)
    assert "good" in box.locator(".hoverlayer").text_content()


def test_the_map_shows_the_picture_under_the_pointer_and_by_keyboard(opened):
    page = opened.page
    page.select_option("#head-set", label=page.locator("#head-set option").nth(1).inner_text())
    box = page.locator("#head-view .map")
    box.scroll_into_view_if_needed()
    box.press("ArrowRight")
    assert page.locator("#tip img").get_attribute("src").startswith("data:image/webp")
    first = page.locator("#tip").inner_text()
    box.press("ArrowRight")
    assert page.locator("#tip").inner_text() != first
    place = page.evaluate(PLACE)
    page.mouse.move(*place, steps=3)
    page.wait_for_timeout(300)
    assert page.locator("#tip img").is_visible()
    assert re.search(r"\((train|val|test)\)", page.locator("#tip").inner_text())
    assert (
        page.locator(".gallery img").count() == page.locator(".gallery li").count()
        or page.locator(".gallery").count() == 0
    )


def test_axe_finds_nothing_in_either_theme_or_on_a_phone(browser, html):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    for scheme, width in (("light", 1200), ("dark", 390)):
        opened = Opened(browser, html, color_scheme=scheme, bypass_csp=True)
        opened.page.set_viewport_size({"width": width, "height": 900})
        opened.everything()
        assert opened.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        opened.page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        found = axe.run(opened.page).response["violations"]
        assert [(one["id"], one["impact"], one["nodes"][0]["html"][:200]) for one in found] == []
        opened.context.close()


def test_the_theme_follows_the_system_until_it_is_chosen(browser, html):
    opened = Opened(browser, html, color_scheme="dark")
    back = "getComputedStyle(document.body).backgroundColor"
    dark = opened.page.evaluate(back)
    opened.page.click("#theme")
    light = opened.page.evaluate(back)
    assert (dark, light) == ("rgb(20, 23, 28)", "rgb(255, 255, 255)")
    opened.page.reload()
    assert opened.page.evaluate(back) == light  # remembered
    opened.context.close()


def test_it_prints_every_line_and_chart(browser, html, tmp_path):
    opened = Opened(browser, html)
    pdf = opened.page.pdf(path=tmp_path / "page.pdf")
    assert pdf.startswith(b"%PDF")
    assert pdf.count(b"/Type /Page\n") >= 4
    assert opened.page.locator(".chart .plot .plot-container").count() == len(charts.KINDS) - 2  # drawn to be printed
    opened.context.close()


def test_a_study_without_rows_says_what_to_run(browser, tmp_path):
    path = tmp_path / "report.html"
    read = load(tmp_path)
    path.write_text(
        page.build(read, head_panels.gather(read, cache_dir=tmp_path, data_root=tmp_path)), encoding="utf-8"
    )
    opened = Opened(browser, path)
    assert opened.page.locator("pre").count() >= 4 + len(charts.KINDS)
    assert "extract --model mobilenetv2_100" in opened.page.locator("#table").inner_text()
    assert opened.complaints == []
    opened.context.close()


def test_the_data_ends_no_element_and_holds_no_long_lists(html):
    text = html.read_text(encoding="utf-8")
    data = text.split('id="data">')[1].split("</script>")[0]
    assert "<" not in data
    assert "C_tried" not in data
    found = json.loads(data)
    assert len(found["features"]) < len(found["rows"])
    assert text.count("</script>") == 1 + len(page.SCRIPTS) + 1
