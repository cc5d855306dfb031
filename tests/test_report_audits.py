"""Rows of audits among others: what report says of them, and that they change nothing else."""

import json
import shutil

import pytest
from click.testing import CliRunner

import backbench as bb
from backbench import rows
from backbench.report import audits, charts, cli, compare, diff, generalization, head_panels, page, summary
from backbench.report.study import load
from tests.study import HOSTILE
from tests.test_report_page import Opened
from tests.test_report_table import row

FOUND = {
    "n_images": 9604, "n_exact": 3, "n_near": 21, "n_leaks": 10, "n_redundant": 12, "n_contradictions": 2,
    "n_label_suspects": 31, "n_label_suspects_test": 7, "expected_wrong": 44.4, "n_outliers": 5, "n_heads": 12,
    "rank_holds": True, "winner_changes": False,
}  # fmt: skip


def audited(dataset, features, *, model="a + b", created=None, **more):
    made = rows.make(
        "audit", dataset=dataset, model=model, method="audit", seed=42, figures=FOUND | more,
        protocol={"csv": f"{HOSTILE}.csv"}, settings={"folds": 5}, features=features, device="cpu", seconds=9.0,
    )  # fmt: skip
    return made | ({"created": created} if created else {})


DIGEST = {"dataset_digest": "d" * 64, "images_digest": "e" * 64, "model": "a", "weights_sha256": "f" * 64}
HEADS = [row("a", "flowers", 0.9, n_test=961, features=DIGEST), row("b", "digits", 0.8, features={})]


def said(*audit, heads=HEADS):
    return audits.sentences(audits.newest([*heads, *audit]))


def test_the_newest_audit_of_the_same_digest_is_told():
    assert said() == []
    assert said(audited("flowers", DIGEST | {"dataset_digest": "x"}), audited("digits", None)) == []
    old, new = audited("flowers", DIGEST, created="2026-01-01", n_leaks=999), audited("flowers", DIGEST)
    assert said(new, old) == [
        "On flowers, 10 of 961 test images have a copy in train or val, and 31 labels are suspected to be wrong, 7 of "
        "them in test. Without these test images the ranking of 12 heads holds."
    ]


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        ({"rank_holds": False}, "Without these test images the ranking of 12 heads changes, but the first head stays "),
        ({"rank_holds": False, "winner_changes": True}, "Without these test images another head is the first of 12 "),
        ({"rank_holds": None, "winner_changes": None}, "7 of them in test."),
        ({"n_leaks": 1, "n_label_suspects": 1, "n_label_suspects_test": 0},
         "1 of 961 test images has a copy in train or val, and 1 label is suspected to be wrong, 0 of them in test."),
        ({"n_leaks": 0, "n_label_suspects": 4, "n_label_suspects_test": 0},
         "no test image has a copy in train or val, and 4 labels are suspected to be wrong, 0 of them in test."),
        ({"n_label_suspects": 0, "n_label_suspects_test": 0}, "and no label is suspected to be wrong. Without"),
        ({"n_label_suspects": 0, "n_label_suspects_test": 0, "expected_wrong": None}, "and no label was judged."),
        ({"n_leaks": 5000}, "On flowers, 5,000 test images have a copy"),
    ],
)  # fmt: skip
def test_each_way_it_can_end(figures, words):
    (sentence,) = said(audited("flowers", DIGEST, **figures))
    assert words in sentence
    assert ("Without" in sentence) == (figures.get("n_leaks", 10) > 0 and figures.get("rank_holds", True) is not None)


@pytest.mark.parametrize("odd", ["7", -1, 1.5, True, [], {"a": 1}, None, 10**30])
def test_figures_of_another_type_are_left_out(odd):
    told = said(audited("flowers", DIGEST, **dict.fromkeys(FOUND, odd)))
    assert told == []
    (line,) = audits.newest([*HEADS, audited("flowers", DIGEST, **dict.fromkeys(FOUND, odd))]).values()
    cells = audits.cells("flowers", line)
    assert len(cells) == len(audits.HEAD)
    assert set(cells[2:]) <= {"", "holds", "2"}  # a true rank_holds, and 1.5 expected


def test_hostile_rows_stop_nothing():
    odd = [audited("flowers", part) for part in ([1], "x", 5, {"dataset_digest": [1]}, {})]
    assert said(*odd) == []
    (sentence,) = said(audited("flowers", DIGEST), heads=[row("a", "\x1b[31m<b>", 0.9, features=DIGEST)])
    assert sentence.startswith("On \\x1b[31m<b>, 10 of 100 test images have")


def test_predictions_in_folds_have_no_audit():
    folded = row("a", "flowers", 0.9, features=DIGEST, settings={"folds": 5}, n_test=9604)
    assert said(audited("flowers", DIGEST), heads=[folded]) == []


@pytest.fixture(scope="module")
def beside(study, tmp_path_factory):
    """The study's results as they are, and with audits that are older, of other images and weights, and newest."""
    place = tmp_path_factory.mktemp("audited")
    for name in ("plain", "audited"):
        shutil.copytree(study["results"], place / name)
    written = rows.read(place / "plain")
    beside = []
    for one in written:
        if one["stage"] == "probe":
            of = dict(one["features"])
            model = one["model"]
            beside += [
                audited(one["dataset"], of | {"images_digest": "9" * 64, "dataset_digest": "8" * 64}, created="1999"),
                audited(one["dataset"], of | {"weights_sha256": "7" * 64}, model=model, created="1999"),
                audited(one["dataset"], of | {"transform": {"crop": 1}}, model=model),
            ]
    lines = [*beside[::2], *written, *beside[1::2]]
    text = "".join(json.dumps(rows.identified(one)) + "\n" for one in lines)
    (place / "audited" / rows.FILE).write_text(text)
    return place


def test_audits_change_no_table_comparison_answer_chart_or_difference(beside, capsys):
    plain, other = (load(beside / name) for name in ("plain", "audited"))
    assert other.frame.drop(columns="rows").equals(plain.frame.drop(columns="rows"))
    assert bb.results(beside / "audited").equals(bb.results(beside / "plain"))
    assert [other.rows[i]["stage"] for i in other.frame["rows"].explode()] == [
        plain.rows[i]["stage"] for i in plain.frame["rows"].explode()
    ]
    assert compare.compare(other.rows, other.results_dir) == compare.compare(plain.rows, plain.results_dir)
    assert other.heads.keys() == plain.heads.keys()
    assert other.datasets == plain.datasets

    def without_places(value):
        if isinstance(value, dict):
            return {key: without_places(item) for key, item in value.items() if key not in ("rows", "row")}
        return [without_places(item) for item in value] if isinstance(value, list) else value

    for of in (charts.charts, lambda read: generalization.records(read.rows, read.results_dir)):
        assert without_places(of(other)) == without_places(of(plain))
    answers = [without_places(summary.answers(read)) for read in (plain, other)]
    assert json.dumps(answers[1]).replace(str(beside / "audited"), str(beside / "plain")) == json.dumps(answers[0])
    assert {one["verdict"] for one in diff.diff(beside / "plain", beside / "audited")} == {
        one["verdict"] for one in diff.diff(beside / "plain", beside / "plain")
    }


def run(*words):
    done = CliRunner().invoke(cli.main, [*map(str, words)])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_tables_for_people_say_it_and_the_others_do_not(beside):
    for form in ("terminal", "md", "latex"):
        shown = run("table", "--results-dir", beside / "audited", "--format", form)
        assert "test images have a copy in train or val, and 31 labels are suspected" in shown
        assert "a copy in train" not in run("table", "--results-dir", beside / "plain", "--format", form)
    for form in (("--format", "csv"), ("--json",)):
        shown = [run("table", "--results-dir", beside / name, *form) for name in ("plain", "audited")]
        assert shown[0] == shown[1]


def test_names_in_markdown_are_escaped(tmp_path):
    for one in (row("a", "<b>|x*", 0.9, features=DIGEST), audited("x", DIGEST)):
        rows.append(tmp_path, one)
    assert "- On &lt;b&gt;\\|x\\*, 10 of 100 test images" in run("--results-dir", tmp_path, "--format", "md")


def test_only_an_audit_says_what_to_run(tmp_path):
    rows.append(tmp_path, audited("flowers", DIGEST))
    done = CliRunner().invoke(cli.main, ["--results-dir", str(tmp_path)])
    assert done.exit_code == 1
    assert "holds no accuracies yet" in done.output


def build(results, path):
    read = load(results)
    close = head_panels.gather(read, cache_dir=path.parent, data_root=path.parent, per_set=0)
    path.write_text(page.build(read, close), encoding="utf-8")
    return path


def test_the_page_has_a_table_and_the_sentences(browser, beside, tmp_path):
    assert 'id="audits"' not in build(beside / "plain", tmp_path / "plain.html").read_text()
    opened = Opened(browser, build(beside / "audited", tmp_path / "page.html"), bypass_csp=True)
    section = opened.page.locator("#audits")
    assert "10 of 40 test images have a copy in train or val" in section.inner_text()
    assert section.locator("thead th").all_inner_texts() == list(audits.HEAD)
    cells = section.locator("tbody tr").first.locator("td").all_inner_texts()
    assert cells[1:] == ["9,604", "3", "21", "10", "12", "2", "31", "7", "44", "5", "holds"]
    section.locator("button.origin").first.click()
    assert f"{HOSTILE}.csv" in opened.page.locator("#origin").text_content()
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    opened.page.locator("#origin form button").click()
    assert axe.run(opened.page, "#audits").response["violations"] == []
    assert opened.complaints == []
    opened.context.close()
