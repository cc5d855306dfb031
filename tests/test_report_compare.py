import csv
import io
import json
import re

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from backbench import UsageError, UserError, details, rows, statistics
from backbench.report import cli, compare
from tests.test_backbench_details import content, row, save

LABELS = [0] * 20 + [1] * 20


def said(*wrong):
    """Predictions that are wrong on those images."""
    return [1 - label if i in wrong else label for i, label in enumerate(LABELS)]


HEADS = {
    "good": said(0),
    "near": said(1, 2, 3),
    "poor|net": said(*range(1, 20)),
}
"""40 images: good has 39 right, near 37, poor 21."""


def head(model, predicted, **more):
    return content(predicted, LABELS, model=model, ids=[f"{i}.png" for i in range(40)], k=2, **more)


@pytest.fixture
def results(tmp_path):
    for model, predicted in HEADS.items():
        save(tmp_path, head(model, predicted))
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(cli.main, [*map(str, arguments)])


# By hand. near: alone right on image 0, good alone on 1, 2, 3: p = 2 (1 + 4) / 2^4 = 0.625. poor: alone right on 0,
# good alone on 1 to 19: p = 2 (1 + 20) / 2^20 = 0.00004. near and poor: near alone on 4 to 19: p = 2 / 2^16 = 0.00003.
# Holm over three: 3 * 0.00003 = 0.00009; 2 * 0.00004 = 0.00008, at least 0.00009; 0.625.
TERMINAL = """\
d, 40 test images

backbone  method    val %  top-1 %             group  difference, points    p
good      logistic  97.5   97.5 [87.0, 99.7]   a                                    chosen on val
near      logistic  92.5   92.5 [79.8, 97.9]   a      -5.0 [-17.9, +7.0]    0.625   not distinguishable from the chosen
poor|net  logistic  52.5   52.5† [36.8, 67.8]  b      -45.0 [-61.2, -25.2]  <0.001  worse than the chosen

Heads are in the order of top-1 on val, never on test. Of equals logistic comes first, then the name decides. Heads without val, then few-shot heads, come last. The first head of a frozen backbone, except the published study's head, is the chosen one.
Differences are top-1 less that of the chosen head on the same images. Each has its own 95 % interval for paired proportions (Newcombe 1998).
p is from McNemar's exact test, Holm-corrected over all pairs of heads on the data set. From 0.05 on the head is not distinguishable from the chosen one.
Two heads share a letter of a group if and only if they are not distinguishable.
† The solver stopped before it had converged, so this is not the head's final accuracy.
"""  # noqa: E501


@pytest.fixture
def marked(results):
    save(results, head("poor|net", HEADS["poor|net"]), converged=False)
    return results


def test_the_terminal_table_worked_by_hand(marked):
    done = run("compare", "--results-dir", marked)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout == TERMINAL


def test_markdown_csv_and_json_say_the_same(marked):
    shown = run("compare", "--results-dir", marked, "--format", "md").stdout.splitlines()
    assert shown[0] == "**d, 40 test images**"
    assert shown[6].startswith(
        r"| poor\|net | logistic | 52.5 | 52.5† \[36.8, 67.8\] | b | -45.0 \[-61.2, -25.2\] | &lt;0.001 | "
    )
    assert shown[9].startswith("- Differences are top-1")
    out = marked / "new" / "compare.csv"
    assert run("compare", "--results-dir", marked, "--out", out).stderr == f"Wrote {out}\n"
    tidied = list(csv.DictReader(io.StringIO(out.read_text())))
    found = json.loads(run("compare", "--results-dir", marked, "--json").stdout)
    assert [list(one) for one in (*tidied, *found)] == [list(compare.FIELDS)] * 6
    assert [float(one["top1"]) for one in tidied] == [one["top1"] for one in found] == [0.975, 0.925, 0.525]
    best, near, poor = found
    assert best["difference"] is best["p"] is best["p_holm"] is None
    assert (near["only_this_right"], near["only_chosen_right"], near["p"]) == (1, 3, pytest.approx(0.625))
    assert poor["p"] == pytest.approx(42 / 2**20)
    assert poor["p_holm"] == pytest.approx(6 / 2**16)
    assert [one["verdict"] for one in found] == [compare.CHOSEN, compare.NOT_TOLD, compare.WORSE]


def test_the_newest_row_counts_and_few_shot_rows_do_not(results):
    save(results, head("near", said(0, 1, 2, 3, 4), seed=7))
    save(results, head("near", said(0), method="knn"))
    few = head("near", said(), shots=5)
    save(results, few)
    found = compare.compare(rows.read(results), results)
    assert [(one["model"], one["method"], one["seed"], one["top1"]) for one in found] == [
        ("good", "logistic", 42, 0.975),
        ("near", "knn", 42, 0.975),
        ("near", "logistic", 7, 0.875),
        ("poor|net", "logistic", 42, 0.525),
    ]
    assert (found[1]["difference"], found[1]["p"], found[1]["verdict"]) == (0, 1, compare.NOT_TOLD)


def test_heads_on_other_images_are_named_and_left_out(results, capsys):
    save(results, head("other", said()) | {"ids_digest": "x"})
    save(results, head("changed", said()) | {"dataset_digest": "x"})
    save(results, content([0, 1], [0, 1], dataset="alone", k=2))
    rows.append(results, row(head("old", said())))
    torn = save(results, head("torn", said()))
    (results / torn["details"]).write_text("{")
    rows.append(results, row(head("liar", said()), details="../../etc/passwd"))
    found = compare.compare(rows.read(results), results)
    assert [one["model"] for one in found] == list(HEADS)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[0] + ": " + line.split(": ")[1] for line in lines[:3]] == [
        "Left out: d, old, logistic",
        "Left out: d, torn, logistic",
        "Left out: d, liar, logistic",
    ]
    assert lines[3:] == [
        "alone has only one head, so there is nothing to compare it with.",
        "Left out: d, changed, logistic: it was measured on other test images than most heads. Extract and probe it again.",  # noqa: E501
        "Left out: d, other, logistic: it was measured on other test images than most heads. Extract and probe it again.",  # noqa: E501
    ]


def test_data_sets_are_corrected_each_for_itself_and_can_be_named(results):
    for model, predicted in HEADS.items():
        save(results, head(model, predicted, dataset="e"))
    both = compare.compare(rows.read(results), results)
    assert [one["dataset"] for one in both] == ["d"] * 3 + ["e"] * 3
    only = json.loads(run("compare", "--results-dir", results, "--dataset", "e", "--json").stdout)
    assert only == both[3:]
    with pytest.raises(UsageError, match="'digit' has no rows"):
        compare.compare(rows.read(results), results, datasets=["d", "digit"])


def test_wrongly_scaled_input_is_a_head_of_its_own(results):
    told = head("good", said(5, 6))
    scaled = row(told, details=details.write(results, told)) | {"features": {"input_scale": 255.0}}
    rows.append(results, scaled)
    assert "good (input x255)  logistic" in run("compare", "--results-dir", results).stdout
    assert len(compare.compare(rows.read(results), results)) == 4


def test_with_nothing_to_compare_it_says_so(tmp_path):
    empty = run("compare", "--results-dir", tmp_path)
    assert (empty.exit_code, empty.stdout) == (1, "")
    assert "probe --features cache" in empty.stderr
    save(tmp_path, head("good", said()))
    with pytest.raises(UserError, match="no two heads"):
        compare.compare(rows.read(tmp_path), tmp_path)
    assert run("compare", "--results-dir", tmp_path, "--json", "--format", "md").exit_code == 2


def test_groups_of_neighbours_by_hand():
    # Of four heads the first two are alike, the middle two, and the last stands alone.
    alike = np.eye(4, dtype=bool)
    alike[[0, 1, 1, 2], [1, 0, 2, 1]] = True
    assert compare.groups(alike) == ["a", "ab", "b", "c"]
    assert compare.groups(np.ones((3, 3), bool)) == ["a"] * 3
    letters = compare.groups(np.eye(30, dtype=bool))
    assert (letters[25], letters[26], len(set(letters))) == ("z", "a1", 30)


def test_heads_that_are_no_neighbours_share_a_letter_too():
    """The first is like the third, not like the second: runs of neighbours would give a, b and c."""
    alike = np.eye(4, dtype=bool)
    alike[[0, 2, 1, 3], [2, 0, 3, 1]] = True
    assert compare.groups(alike) == ["a", "b", "a", "b"]


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 30), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_two_heads_share_a_letter_if_and_only_if_they_cannot_be_told_apart(n, share, seed):
    drawn = np.triu(np.random.default_rng(seed).random((n, n)) < share, 1)
    alike = drawn | drawn.T | np.eye(n, dtype=bool)
    letters = [set(re.findall(r"[a-z][0-9]*", one)) for one in compare.groups(alike)]
    assert all(bool(letters[i] & letters[j]) == alike[i, j] for i in range(n) for j in range(n))


def test_all_pairs_at_once_give_mcnemars_p(rng):
    right = rng.random((6, 50)) < rng.uniform(0.3, 0.9, 6)[:, None]
    pairs = [(i, j) for i in range(6) for j in range(i + 1, 6)]
    alone = statistics.holm([statistics.mcnemar(right[i], right[j]).p for i, j in pairs])
    found = compare._all_pairs(right)
    assert [found[pair] for pair in pairs] == pytest.approx(alone.tolist())
    assert (found == found.T).all()


def test_a_pair_of_folders_is_compared_on_the_same_images_only(results, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    old = next(row for row in rows.read(results) if row["model"] == "near")
    new = save(other, head("near", said(1)))
    test = compare.paired((other, new), (results, old))
    assert (test.n10, test.n01) == (2, 0)  # near misses 1, 2, 3; now 1
    assert compare.paired((other, save(other, content([0], [0], k=2))), (results, old)) is None
    assert compare.paired((other, row(head("near", said(1)))), (results, old)) is None
