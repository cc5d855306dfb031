import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backbench import UserError, rows, version


def make(**changed):
    settings = {
        "dataset": "digits",
        "model": "net",
        "method": "knn",
        "seed": 42,
        "figures": {"top1": 0.5},
        "protocol": {},
        "features": None,
        "device": "cpu",
        "seconds": 1.5,
    }
    return rows.make("probe", **settings | changed)


def test_what_is_appended_is_what_is_read_in_order_and_the_folder_is_made(tmp_path):
    folder = tmp_path / "a" / "b"
    written = [make(seed=seed) for seed in range(3)]
    for row in written:
        assert rows.append(folder, row) == folder / "rows.jsonl"
    assert rows.read(folder) == [rows.identified(row) for row in written]


def test_no_file_yet_means_no_rows(tmp_path):
    assert rows.read(tmp_path / "missing") == []


def test_a_row_says_how_it_was_made(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/home/me/probe/__main__.py", "--features", "a b.h5"])
    row = make()
    assert row["command"] == "probe --features 'a b.h5'"
    monkeypatch.setattr(sys, "argv", ["/venv/bin/probe", "--json"])
    assert make()["command"] == "probe --json"
    assert row["versions"]["backbench"] == version()
    assert row["versions"]["numpy"] == np.__version__
    assert row["created"].endswith("+00:00")
    assert row.keys() == {*rows.REQUIRED, "top1"}


def test_asking_for_versions_imports_nothing():
    code = (
        "import sys; from backbench import rows\n"
        "print(rows.make('probe', dataset='d', model='m', method='k', seed=0, figures={}, protocol={}, features=None,"
        " device=None, seconds=0)['versions'].keys(), {'numpy', 'torch', 'click', 'pandas'} & sys.modules.keys())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "dict_keys(['backbench', 'python']) set()\n"


def test_not_a_number_becomes_null_and_numpy_and_paths_become_plain(tmp_path):
    figures = {
        "top1": float("nan"),
        "top5": np.float32("inf"),
        "n": np.int64(3),
        "ok": np.bool_(True),
        "c": (1, -np.inf),
    }
    rows.append(tmp_path, make(figures=figures, features={"path": Path("cache/x.h5"), "std": np.array([1.0, np.nan])}))
    text = (tmp_path / "rows.jsonl").read_text()
    row = json.loads(text, parse_constant=pytest.fail)
    assert (row["top1"], row["top5"], row["n"], row["ok"], row["c"]) == (None, None, 3, True, [1, None])
    assert row["features"] == {"path": "cache/x.h5", "std": [1.0, None]}


def test_a_row_must_be_whole(tmp_path):
    with pytest.raises(ValueError, match="a row needs seed"):
        rows.append(tmp_path, {key: value for key, value in make().items() if key != "seed"})
    with pytest.raises(ValueError, match="own keys: seconds"):
        make(figures={"seconds": 3})
    assert not list(tmp_path.iterdir())


@given(text=st.text(), number=st.floats(allow_nan=False, allow_infinity=False))
def test_any_text_and_number_come_back_as_they_were(tmp_path_factory, text, number):
    folder = tmp_path_factory.mktemp("rows")
    rows.append(folder, make(model=text, figures={"top1": number}))
    [row] = rows.read(folder)
    assert (row["model"], row["top1"]) == (text, number)


def test_a_file_name_that_is_no_utf8_comes_back(tmp_path):
    rows.append(tmp_path, make(model=os.fsdecode(b"caf\xe9")))
    assert os.fsencode(rows.read(tmp_path)[0]["model"]) == b"caf\xe9"


def test_concurrent_writers_lose_and_tear_nothing(tmp_path):
    code = (
        "import sys; from backbench import rows\n"
        "for i in range(200):\n"
        "  rows.append(sys.argv[1], rows.make('probe', dataset='d', model=sys.argv[2], method='k', seed=i, protocol={},"
        " figures={'pad': 'x' * (37 * i % 5000)}, features=None, device=None, seconds=0))"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, tmp_path, f"m{i}"]) for i in range(8)]
    assert [writer.wait() for writer in writers] == [0] * 8
    found = rows.read(tmp_path)
    assert sorted((row["model"], row["seed"]) for row in found) == sorted(
        (f"m{i}", j) for i in range(8) for j in range(200)
    )
    assert all(len(row["pad"]) == 37 * row["seed"] % 5000 for row in found)


def test_half_a_row_at_the_end_is_passed_over_and_swallows_no_later_row(tmp_path, capsys):
    path = rows.append(tmp_path, make(seed=1))
    with path.open("a") as file:
        file.write('{"schema": 1, "mod')
    assert [row["seed"] for row in rows.read(tmp_path)] == [1]
    assert f"{path}:2: passed over half a row" in capsys.readouterr().err
    rows.append(tmp_path, make(seed=2))
    rows.append(tmp_path, make(seed=3))
    assert [row["seed"] for row in rows.read(tmp_path)] == [1, 2, 3]
    assert f"{path}:2: passed over half a row" in capsys.readouterr().err


def test_a_whole_row_without_its_newline_stays(tmp_path, capsys):
    path = rows.append(tmp_path, make(seed=1))
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert [row["seed"] for row in rows.read(tmp_path)] == [1]
    rows.append(tmp_path, make(seed=2))
    assert [row["seed"] for row in rows.read(tmp_path)] == [1, 2]
    assert capsys.readouterr().err == ""


def test_every_broken_line_is_named(tmp_path):
    path = rows.append(tmp_path, make())
    whole = path.read_text()
    later = json.dumps(make() | {"schema": 2})
    bad = ["{broken", "[1]", '{"schema": 1}', whole.strip().replace("0.5", "NaN"), "\xff", later]
    path.write_text(whole + "\n".join(bad) + "\n\n" + whole, encoding="latin-1")
    with pytest.raises(UserError) as error:
        rows.read(tmp_path)
    assert [fault.split(": ")[0] for fault in error.value.faults] == [f"{path}:{line}" for line in range(2, 8)]
    reasons = ("expected a JSON object", "without created", "NaN is not", "codec", "of schema 2")
    assert all(reason in fault for reason, fault in zip(reasons, error.value.faults[1:], strict=True))


def test_a_results_folder_that_is_a_file_is_an_error_with_a_way_out(tmp_path):
    file = tmp_path / "results"
    file.write_text("mine")
    with pytest.raises(UserError, match=r"not written: .*--results-dir"):
        rows.append(file, make())
    with pytest.raises(UserError, match="can't be read"):
        rows.read(file)
    assert file.read_text() == "mine"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission_is_an_error(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="Permission denied"):
        rows.append(tmp_path, make())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_disk_is_an_error(tmp_path):
    (tmp_path / "rows.jsonl").symlink_to("/dev/full")
    with pytest.raises(UserError, match="No space left on device"):
        rows.append(tmp_path, make())


def test_a_disk_that_fills_up_half_way_down_a_row_is_an_error_and_the_next_row_whole(tmp_path, monkeypatch, capsys):
    write = os.write
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", lambda file, line: write(file, line[:10]))
        with pytest.raises(UserError, match="only 10 of"):
            rows.append(tmp_path, make(seed=1))
    rows.append(tmp_path, make(seed=2))
    assert [row["seed"] for row in rows.read(tmp_path)] == [2]
    assert "passed over" in capsys.readouterr().err
