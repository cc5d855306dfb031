import json

import pytest
from click.testing import CliRunner

from backbench import rows
from backbench.report import cli
from tests.test_backbench_details import content, row, save

FIGURES = {"nll": 0.5, "ece": 0.1234, "nll_scaled": 0.25, "ece_scaled": 0.02, "temperature": 1.5}
BINS = {"n": [0, 10], "confidence": [None, 0.9], "accuracy": [None, 0.7]}
CURVE = [
    {"n_train": 1000, "top1": 0.5, "top1_low": 0.4, "top1_high": 0.6},
    {"n_train": 20, "top1": 0.25, "top1_low": 0.1, "top1_high": 0.4},
]

TERMINAL = """\
d, m, logistic: top-1 60.0 [50.0, 70.0] %, 10 test images

Worst classes, 2 of 3
class  accuracy %         images
bee    33.3 [3.3, 85.5]   3
ant    60.0 [18.6, 91.5]  5

Most confused
class  predicted  images
ant    bee        2
bee    cow        1
bee    dog\\n      1

Calibration
          unscaled  temperature 1.5
ECE %     12.3      2
NLL nats  0.5       0.25

Learning curve
training images  top-1 %
1,000            50.0 [40.0, 60.0]
20               25.0 [10.0, 40.0]
"""


def run(*arguments):
    return CliRunner().invoke(cli.main, ["details", *map(str, arguments)])


@pytest.fixture
def results(tmp_path):
    labels, predicted = [0] * 5 + [1] * 3 + [2] * 2, [0, 0, 0, 1, 1, 1, 2, 3, 2, 2]
    names = ["ant", "bee", "cow", "dog\n"]
    more = {"class_names": names, "curve": CURVE, "calibration": {"before": BINS, "after": BINS}}
    save(tmp_path, content(predicted, labels, k=4, method="knn", class_names=names))
    save(tmp_path, content(predicted, labels, k=4, **more), **FIGURES)
    return tmp_path


def test_the_terminal_page_worked_by_hand(results):
    done = run("m", "--results-dir", results)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout == TERMINAL


def test_json_holds_all_that_is_kept_but_the_single_predictions(results):
    found = json.loads(run("m", "--results-dir", results, "--dataset", "d", "--method", "logistic", "--json").stdout)
    assert found["calibration"] == FIGURES | {"bins": {"before": BINS, "after": BINS}}
    assert [one["name"] for one in found["classes"]] == ["bee", "ant", "cow"]
    assert found["classes"][2]["accuracy"] == 1
    assert found["confusions"][0] == {"label": "ant", "predicted": "bee", "n": 2}
    assert found["curve"] == CURVE
    assert "predicted" not in found


SETS = {
    "lac_95": {"coverage": [0.6, 1.0, 0.5, None], "size": [1.25, 1.0, 2.0, None]},
    "raps_95": {"coverage": [1.0, 1.0, 1.0, None], "size": [2.0, 2.0, 3.5, None]},
    "of another version": {"coverage": [None] * 4, "size": [None] * 4},
}
COVERED = {
    f"{name}_{kind}_95{end}": value
    for kind, share, size in (("lac", 0.7, 1.325), ("raps", 1.0, 2.3))
    for name, end, value in (
        ("coverage", "", share), ("coverage", "_low", share - 0.1), ("coverage", "_high", share), ("set_size", "", size)
    )
}  # fmt: skip


def covered(results, method, **more):
    labels, predicted = [0] * 5 + [1] * 3 + [2] * 2, [0, 0, 0, 1, 1, 1, 2, 3, 2, 2]
    save(results, content(predicted, labels, k=4, method=method, prediction_sets=SETS), **more)
    return run("m", "--results-dir", results, "--method", method)


def test_prediction_sets_worked_by_hand(results):
    assert covered(results, "ridge", n_val=19, **COVERED).stdout.split("\n\n", 3)[-1] == (
        "Prediction sets\n"
        "           coverage %           mean size\n"
        "LAC 95 %   70.0 [60.0, 70.0]    1.32\n"
        "RAPS 95 %  100.0 [90.0, 100.0]  2.30\n\n"
        "Classes least covered by LAC 95 %, 2 of 3\n"
        "class  coverage %         mean size  images\n"
        "cow    50.0 [4.7, 95.3]   2.00       2\n"
        "ant    60.0 [18.6, 91.5]  1.25       5\n"
    )
    found = json.loads(run("m", "--results-dir", results, "--method", "ridge", "--json").stdout)
    assert found["prediction_sets"]["coverage_lac_95"] == 0.7
    bee = next(one for one in found["classes"] if one["name"] == "bee")
    assert (bee["coverage_raps_95"], bee["set_size_raps_95"]) == (1.0, 2.0)
    assert not any("another" in key for key in bee)


def test_a_val_that_is_too_small_is_told_of(results):
    none = dict.fromkeys(COVERED)
    shown = covered(results, "ridge", n_val=12, **none, coverage_lac_90=0.5, set_size_lac_90=1.0).stdout
    assert "Val has 12 images, too few for prediction sets: they take 19 for 95 %." in shown
    assert covered(results, "knn", n_val=3, **none).stdout.split("\n\n")[3].startswith("Val has 3 images")


def test_rows_of_before_and_of_strangers_have_no_prediction_sets(results):
    assert json.loads(run("m", "--results-dir", results, "--json").stdout)["prediction_sets"] is None
    save(results, content([0, 1], [0, 1], method="odd"), coverage_lac_90="<b>", set_size_lac_90=[1], n_val=None)
    done = run("m", "--results-dir", results, "--method", "odd")
    assert (done.exit_code, "LAC" in done.stdout) == (0, False)


def test_without_calibration_curve_or_errors_it_is_short(tmp_path):
    save(tmp_path, content([0, 1], [0, 1]))
    assert run("m", "--results-dir", tmp_path).stdout == (
        "d, m, logistic: top-1 100.0 [90.0, 100.0] %, 2 test images\n\nNo class has an error.\n\n"
        "No classes are confused.\n"
    )


def test_a_method_may_be_named_and_else_val_chooses(results):
    save(results, content([0, 1, 1], [0, 1, 0], method="ridge"), val_top1=0.7)
    save(results, content([0, 1, 0], [0, 1, 0], method="centroid"), val_top1=0.6)  # the highest on test
    assert run("m", "--results-dir", results).stdout.startswith("d, m, ridge: top-1 66.7")
    assert run("m", "--results-dir", results, "--method", "knn").stdout.startswith("d, m, knn: ")


def test_what_is_not_there_is_said_with_what_is(results):
    save(results, content([0], [0], model="nothing", dataset="e"))
    save(results, content([0], [0], dataset="e"))
    for arguments, message in (
        (["n"], "There are no details for backbone 'n'. Known: m, nothing."),
        (["nothin"], "Did you mean nothing?"),
        (["m"], "m has details on d, e. Name one with --dataset."),
        (["m", "--dataset", "digits"], "There are no details for data set 'digits'"),
        (["nothing", "--dataset", "d"], "For nothing there are: e, nothing, logistic."),
        (["m", "--dataset", "e", "--method", "knn"], "There are no details for this combination"),
    ):
        done = run(*arguments, "--results-dir", results)
        assert done.exit_code == 2
        assert message in done.stderr


def test_without_rows_or_details_it_says_what_to_run(tmp_path):
    assert "extract --model" in run("m", "--results-dir", tmp_path).stderr
    rows.append(tmp_path, row(content([0], [0])))
    done = run("m", "--results-dir", tmp_path)
    assert done.exit_code == 1
    assert "No row has details" in done.stderr
    (tmp_path / "rows.jsonl").unlink()
    save(tmp_path, content([0], [0]))
    (next((tmp_path / "details").iterdir())).unlink()
    assert "is not there" in run("m", "--results-dir", tmp_path).stderr
