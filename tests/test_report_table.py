import csv
import fcntl
import io
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

from backbench import coverage, rows
from backbench.report import formats, table


def row(
    model, dataset, top1, *, method="logistic", seed=42, n_test=100, converged=True, features=None, seconds=0.8, **more
):
    """A probe row whose intervals reach 0.02 down and 0.01 up, and whose balanced accuracy is 0.1 lower."""
    figures = {
        "n_train": 700,
        "n_val": 100,
        "n_test": n_test,
        "val_top1": 0.5,
        "train_top1": 1.0,
        "converged": converged,
    }
    for name, value in (("top1", top1), ("top5", 0.9), ("balanced", top1 - 0.1)):
        figures |= {name: value, f"{name}_low": value - 0.02, f"{name}_high": value + 0.01}
    return rows.make(
        "probe",
        dataset=dataset,
        model=model,
        method=method,
        seed=seed,
        figures=figures | more,
        protocol={},
        features={"input_scale": 1.0, "seconds": 12.34} if features is None else features,
        device="cpu",
        seconds=seconds,
    )


STUDY = [
    row("resnet50", "caltech256", 0.75, val_top1=0.7),
    row("resnet50", "cifar100", 0.5),
    row("mynet", "caltech256", 0.8, val_top1=0.8, converged=False, seconds=1234.5),
    row("mynet", "caltech256", 0.25, method="knn", converged=None),
    row("a|b<i>\n", "digits", 0.9, seed=1),
    row("a|b<i>\n", "digits", 0.7, seed=2),
]

STUDY_MD = r"""
| Backbone | Method | caltech256 (n 100) top-1 % | balanced % | val % | extract + probe s | published val % | published s | cifar100 (n 100) top-1 % | balanced % | val % | extract + probe s | published val % | published s | digits (n 100) top-1 % | balanced % | val % | extract + probe s |
| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| mynet | logistic | 80.0† [78.0, 81.0] | 70.0† [68.0, 71.0] | 80.0 | 12.3 + 1,234 |  |  |  |  |  |  |  |  |  |  |  |  |
| resnet50 | logistic | 75.0 [73.0, 76.0] | 65.0 [63.0, 66.0] | 70.0 | 12.3 + 0.8 | 82.09 | 236 | 50.0 [48.0, 51.0] | 40.0 [38.0, 41.0] | 50.0 | 12.3 + 0.8 | 51.89 | 475 |  |  |  |  |
| mynet | knn | 25.0 [23.0, 26.0] | 15.0 [13.0, 16.0] | 50.0 | 12.3 + 0.8 |  |  |  |  |  |  |  |  |  |  |  |  |
| a\|b&lt;i&gt;\\n | logistic |  |  |  |  |  |  |  |  |  |  |  |  | 80.0 [78.0, 81.0] (2 seeds) | 70.0 [68.0, 71.0] | 50.0 | 12.3 + 0.8 |

- Accuracies are measured on test and have 95 % intervals. Lines are in the order of the first data set.
- Heads are in the order of top-1 on val, never on test. Of equals logistic comes first, then the name decides. Heads without val, then few-shot heads, come last. The first head of a frozen backbone, except the published study's head, is the chosen one.
- † The solver stopped before it had converged, so this is not the head's final accuracy.
- With several seeds, figures and the ends of intervals are means over the seeds.
- Published figures are accuracy on val among all 256 or 100 classes, without an interval, and the seconds of five epochs on one cloud GPU. The backbones of that study got input from 0 to 255.
""".lstrip()  # noqa: E501


def text(found, form, **settings):
    file = io.StringIO()
    formats.write(table.tidy(found, **settings), form, file)
    return file.getvalue()


def test_markdown_is_the_table_worked_by_hand():
    assert text(STUDY, "md") == STUDY_MD


def test_csv_is_tidy_and_in_full_precision():
    exact = 0.1 + 0.2  # 0.30000000000000004
    sets = {key: exact for key in coverage.KEYS if "_90" in key} | dict.fromkeys(
        key for key in coverage.KEYS if "95" in key
    )
    found = [
        row("resnet50.a1_in1k", "cifar100", exact) | sets,
        row("mynet", "digits", 0.5, converged=None, features={}),
    ]
    head, ours, other = text(found, "csv").splitlines()
    assert head == (
        "model,input_scale,method,dataset,stage,seeds,n_train,n_val,n_test,top1,top1_low,top1_high,"
        "top5,top5_low,top5_high,balanced,balanced_low,balanced_high,val_top1,train_top1,extract_seconds,probe_seconds,"
        f"{','.join(coverage.KEYS)},converged,published_val_top1,published_seconds"
    )
    assert ours == (
        "resnet50.a1_in1k,1.0,logistic,cifar100,probe,1,700,100,100,0.30000000000000004,0.28,0.31000000000000005,"
        "0.9,0.88,0.91,0.20000000000000004,0.18000000000000005,0.21000000000000005,0.5,1.0,12.34,0.8,"
        f"{(f'{exact},' * 4 + ',,,,') * 2}True,0.5189,475.19"
    )
    # No extraction seconds, no prediction sets, no word on convergence, nothing published.
    assert other.endswith(f"0.5,1.0,,0.8,{',' * len(coverage.KEYS)},,")


def test_what_was_trained_end_to_end_has_the_seconds_of_its_run():
    tuned = row("m", "digits", 0.5, features={}) | {"stage": "finetune", "method": "finetune-simple/lp-ft"}
    for again in ({}, {"training_seconds": 0.8, "seconds": 0.1}):  # evaluated once more
        shown = text([tuned | again, row("m", "digits", 0.4)], "md")
        assert "| m | finetune-simple/lp-ft | 50.0 [48.0, 51.0] | 40.0 [38.0, 41.0] | 50.0 | 0.8 |" in shown
        assert "| 12.3 + 0.8 |" in shown
        assert "- For models trained end to end, the seconds are those of the whole run." in shown


def test_the_newest_row_of_a_seed_counts_wherever_it_stands():
    newest, older = row("m", "d", 0.9) | {"created": "2026-02-01"}, row("m", "d", 0.2) | {"created": "2026-01-01"}
    [record] = table.records(table.tidy([newest, older]))
    assert (record["top1"], record["seeds"]) == (0.9, 1)


def test_seeds_are_averaged_and_one_of_them_unconverged_is_enough_for_the_sign():
    # tops 0.6 and 0.8: mean 0.7, interval (0.58 + 0.78) / 2 = 0.68 to (0.61 + 0.81) / 2 = 0.71
    [record] = table.records(table.tidy([row("m", "d", 0.6, seed=1), row("m", "d", 0.8, seed=2, converged=False)]))
    assert record["seeds"] == 2
    assert [record[key] for key in ("top1", "top1_low", "top1_high")] == pytest.approx([0.7, 0.68, 0.71])
    assert record["converged"] is False


def test_seeds_over_other_numbers_of_images_are_not_averaged_in():
    quick, full = row("m", "d", 0.2, seed=1, n_test=10), row("m", "d", 0.8, seed=2)
    [record] = table.records(table.tidy([quick, full]))
    assert (record["top1"], record["n_test"], record["seeds"]) == (0.8, 100, 1)


def test_backbones_measured_on_other_numbers_of_images_say_so():
    shown = text([row("m", "d", 0.8), row("n", "d", 0.7, n_test=50)], "md")
    assert "d (n 50 to 100) top-1 %" in shown
    assert "80.0 [78.0, 81.0] (n 100)" in shown
    assert "70.0 [68.0, 71.0] (n 50)" in shown


def test_features_of_wrongly_scaled_input_never_stand_for_the_backbone():
    found = [row("m", "d", 0.8), row("m", "d", 0.3, features={"input_scale": 255.0, "seconds": 1.0})]
    assert [line.split(" | ")[0] for line in text(found, "md").splitlines()[2:4]] == ["| m", "| m (input x255)"]


def test_shots_are_part_of_the_method_and_their_seeds_are_averaged():
    few = [row("m", "d", top1, seed=seed, shots=5) for seed, top1 in enumerate((0.3, 0.5))]
    found = table.records(table.tidy([row("m", "d", 0.8), row("m", "d", 0.2, shots=1), *few, row("m", "d", 0.8)]))
    assert {one["method"]: (one["top1"], one["seeds"]) for one in found} == {
        "logistic": (0.8, 1),
        "logistic, 1 shot": (0.2, 1),
        "logistic, 5 shots": (pytest.approx(0.4), 2),
    }
    assert "| m | logistic, 5 shots | 40.0 [38.0, 41.0] (2 seeds) |" in text(few, "md")


def test_no_figure_without_its_interval():
    shown = text([row("m", "d", 0.8, top1_low=None, balanced=None)], "md")
    assert "80.0" not in shown
    assert "| no interval | not a number |" in shown


def test_rows_without_an_accuracy_are_no_part_of_the_table():
    extracted = {key: value for key, value in row("m", "d", 0.8).items() if key != "top1"}
    assert len(table.tidy([extracted, row("n", "d", 0.8)])) == 1


def test_all_adds_the_published_backbones_that_have_no_rows():
    models = [line.split(" | ")[0].strip("| ") for line in text(STUDY, "md", everything=True).splitlines()[2:16]]
    assert models[:4] == ["mynet", "resnet50", "mynet", r"a\|b&lt;i&gt;\\n"]
    assert len(models[4:]) == 10
    assert "resnet50" not in models[4:]
    alone = text([], "md", everything=True).splitlines()
    assert "| efficientnetv2_m |  |  |  |  |  | 93.00 | 1,043 |  |  |  |  | 64.78 | 2,194 |" in alone


def test_json_is_the_tidy_frame_with_null_for_nothing():
    found = json.loads(text(STUDY, "json", everything=True), parse_constant=pytest.fail)
    assert len(found) == 5 + 20
    assert found[0]["published_val_top1"] == 0.8209
    assert found[-1]["top1"] is None
    tidied = list(csv.DictReader(io.StringIO(text(STUDY, "csv", everything=True))))
    assert [float(a["top1"]) for a in tidied[:5]] == [b["top1"] for b in found[:5]]


def test_a_pipe_gets_every_data_set_in_one_table_with_names_whole():
    long = "swin_base_patch4_window7_224.ms_in22k_ft_in1k" * 3
    shown = text([*STUDY, row(long, "[red]odd[/red]", 0.5)], "terminal")
    assert long in shown
    assert r"a|b<i>\n " in shown
    assert "[red]odd[/red]" in shown
    assert "\x1b" not in shown
    assert shown.count("backbone ") == 1
    line = next(line for line in shown.splitlines() if line.startswith("resnet50"))
    assert line.split() == (
        "resnet50 logistic 75.0 [73.0, 76.0] 12.3 82.09 50.0 [48.0, 51.0] 12.3 51.89".split()  # noqa: SIM905
    )


@pytest.mark.parametrize(("width", "tables"), [(80, 3), (120, 2), (200, 1)])
def test_a_terminal_gets_as_many_data_sets_side_by_side_as_it_holds(tmp_path, width, tables):
    for one in STUDY:
        rows.append(tmp_path, one)
    shown = in_a_terminal([sys.executable, "-m", "backbench.report", "--results-dir", str(tmp_path)], width)
    assert shown.count("backbone ") == tables
    assert all(len(line) <= width for line in shown.splitlines())
    assert "…" not in shown
    for figure in ("80.0† [78.0, 81.0]", "50.0 [48.0, 51.0]", "80.0 [78.0, 81.0]", "(2 seeds)", "82.09", "475"):
        assert figure in shown


def in_a_terminal(command, width):
    """What ``command`` prints on a terminal of that many columns, without colours."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    unset = ("COLUMNS", "LINES", "FORCE_COLOR")
    environment = {k: v for k, v in os.environ.items() if k not in unset} | {"TERM": "xterm"}
    process = subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    printed = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux's way of saying that the other end is closed
            break
        if not part:
            break
        printed += part
    os.close(ours)
    assert process.wait() == 0, printed
    return re.sub(r"\x1b\[[0-9;]*m", "", printed.decode()).replace("\r\n", "\n")
