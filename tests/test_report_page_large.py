"""The page of a large study: many rows, many points in a map, many groups of heads."""

import os

from backbench import details, rows
from backbench.cache.features import open_file
from backbench.report import head_panels, page
from backbench.report.study import load
from tests.study import Big, extracted
from tests.test_backbench_details import content, save
from tests.test_report_page import Opened, column
from tests.test_report_table import row


def test_a_thousand_rows_and_sixty_thousand_points(browser, tmp_path, rng):
    extracted(Big(), tmp_path / "cache", "m0", 2.0, dim=8)
    for i in range(500):
        for dataset in ("big", "small"):
            if (i, dataset) != (0, "big"):  # which comes below, with what tells which features those are
                rows.append(tmp_path, row(f"m{i}", dataset, round(0.3 + 0.6 * rng.random(), 4)))
    labels = Big.labels[Big.split == 2]
    told = content(
        labels, labels, k=200, dataset="big", model="m0", ids=Big.ids[55_000:], class_names=list(Big.class_names)
    )
    with open_file(next((tmp_path / "cache").rglob("*.h5"))) as file:
        identity = file.identity
    made = row("m0", "big", 1.0, features=identity) | {"details": details.write(tmp_path, told)}
    rows.append(tmp_path, made)
    read = load(tmp_path)
    close = head_panels.gather(read, cache_dir=tmp_path / "cache", data_root=tmp_path)
    path = tmp_path / "report.html"
    path.write_text(page.build(read, close), encoding="utf-8")
    assert os.stat(path).st_size < 15e6
    opened = Opened(browser, path)
    opened.page.locator("#one").scroll_into_view_if_needed()
    opened.page.wait_for_selector("#head-view .map canvas")
    assert opened.page.evaluate("document.querySelector('#head-view .map').data[0].x.length") == 60_000
    opened.page.locator("thead .sort", has_text="top-1 %").first.click()
    values = [float(text.split()[0]) for text in column(opened.page, 3, most=1000)]
    assert len(values) == 500
    assert values == sorted(values, reverse=True)
    opened.page.fill("#filter", "m49")
    assert opened.page.locator("#count").inner_text() == "11 of 500 lines"
    assert opened.complaints == []
    opened.context.close()


def test_only_heads_like_the_best_are_marked_however_many_groups_there_are(tmp_path):
    """27 heads, any two of which can be told apart: the last one's letter is a1."""
    for i in range(27):
        predicted = [0] * (1080 - 40 * i) + [1] * 40 * i
        told = content(predicted, [0] * 1080, model=f"m{i:02d}", k=2)
        save(tmp_path, told)
    lines = page._table(load(tmp_path))["lines"]
    shown = {cells[1]["text"]: cells[0]["best"] for line in lines for cells in [line["cells"]]}
    assert len(shown) == 27
    assert shown["a1"] is False
    assert [letter for letter, best in shown.items() if best] == ["a"]
