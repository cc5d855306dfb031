"""A head's panels in a real browser."""

from backbench import details, rows
from tests.test_report_page import html, opened  # noqa: F401 - fixtures


def test_a_head_shows_how_often_its_prediction_sets_cover_and_how_large_they_are(opened, study):  # noqa: F811
    page = opened.page
    page.select_option("#head-set", label=page.locator("#head-set option").nth(1).inner_text())
    probed = [r for r in rows.read(study["results"]) if r["stage"] == "probe" and r["dataset"].startswith("folder-")]
    kept = {row["id"]: details.of(study["results"], row) for row in probed}
    by_class = {id: one["prediction_sets"]["lac_95"]["coverage"] for id, one in kept.items()}
    found = min(probed, key=lambda row: min(by_class[row["id"]]))
    covered, names = by_class[found["id"]], kept[found["id"]]["class_names"]
    page.select_option("#head", label=f"{found['model']}, {found['method']}")
    panel = page.locator("#head-view .panel", has=page.locator("h3", has_text="Prediction sets"))
    lines = [line.locator("th, td").all_inner_texts() for line in panel.locator("tbody tr").all()]
    assert [name for name, *_ in lines] == ["LAC 90 %", "LAC 95 %", "RAPS 90 %", "RAPS 95 %"]
    for name, share, size in lines:
        kind, level = name.lower().split()[:2]
        assert share.startswith(f"{100 * found[f'coverage_{kind}_{level}']:.1f} [")
        assert size == f"{found[f'set_size_{kind}_{level}']:.2f}"
    assert min(covered) < 0.95
    least = panel.locator(".notes").inner_text().split("Least covered by LAC 95 %: ")[1]
    assert least.split(",")[0].rstrip(".") in [
        f"{name} ({100 * share:.1f} %)" for name, share in zip(names, covered, strict=True) if share == min(covered)
    ]
    page.select_option("#head", label="good, full")  # of rows written before
    assert panel.count() == 0
