"""The script for whoever is lent a card: it runs here in small, and no part of it takes another's figures along."""

import json
import os
import subprocess
import sys

import pytest

from benchmarks import gpu_extraction, on_gpu
from tests.conftest import ROOT


@pytest.fixture
def dry(tmp_path):
    """``dry(*words)`` runs the script on the CPU; what it wrote, and the finished process."""

    def dry(*words, code=0):
        command = ["benchmarks/on_gpu.sh", "--dry", "--results", str(tmp_path / "results"), *words]
        around = {**os.environ, "PYTHON": sys.executable, "OUT": str(tmp_path / "out")}
        (tmp_path / "out").mkdir(exist_ok=True)
        done = subprocess.run(command, cwd=ROOT, env=around, capture_output=True, text=True)
        assert done.returncode == code, done.stdout + done.stderr
        (path,) = (tmp_path / "results").iterdir()
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()
        return json.loads(path.read_text()), done

    return dry


def test_every_part_runs_in_small_and_gives_its_figures(dry):
    found, done = dry()
    assert {name: part["error"] for name, part in found["parts"].items()} == dict.fromkeys(on_gpu.PARTS)
    figures = found["figures"]
    of_a_card = {"share_resnet50_photos", "share_vit_base_photos"}
    assert set(on_gpu.ASKED) - of_a_card <= set(figures)
    assert figures["tests"] == figures["tests_skipped"] > 5
    assert figures["fit_gap_imagenet"] <= 1e-4
    assert figures["share_lite0_photos"] == pytest.approx(figures["ours_lite0_photos"] / figures["bare_lite0_photos"])
    assert found["machine"]["cores"] == len(os.sched_getaffinity(0))
    for name in figures:
        assert name in done.stdout


def test_a_part_that_fails_or_hangs_takes_nothing_from_the_others(tmp_path, monkeypatch):
    parts = tmp_path / "benchmarks"
    parts.mkdir()
    (parts / "gpu_parts.py").write_text(
        "import json, subprocess, sys, time\n"
        "part, path = sys.argv[1:3]\n"
        "print(json.dumps({part: 1}), file=open(path, 'w'), flush=True)\n"
        "if part == 'fails': raise ValueError('the card fell off')\n"
        "if part == 'hangs': subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).wait()\n"
    )
    monkeypatch.setattr(on_gpu, "ROOT", tmp_path)
    monkeypatch.delenv("OUT", raising=False)
    record = on_gpu.Record(tmp_path, dry=True)
    for part, limit in (("fails", 20), ("hangs", 2), ("works", 20)):
        on_gpu.run(part, limit, record, tmp_path)
    found = json.loads(record.path.read_text())
    assert found["figures"] == {"fails": 1, "hangs": 1, "works": 1}
    said = {name: part["error"] for name, part in found["parts"].items()}
    assert said["works"] is None
    assert said["fails"].endswith("ValueError: the card fell off")
    assert said["hangs"].startswith("it was stopped at its limit of 2 s")
    assert "works: 0 of 20 s" in on_gpu.table(found)


def test_the_photos_are_all_different_and_of_caltech101s_size(tmp_path):
    from PIL import Image

    gpu_extraction.write_photos(tmp_path, 12, 3, threads=1)
    files = sorted(tmp_path.glob("*/*.jpg"))
    assert len({file.read_bytes() for file in files}) == 12
    assert {Image.open(file).size for file in files} == {(300, 200)}
    small = gpu_extraction.in_memory(300)
    assert len({image.tobytes() for image in small.pixels}) == 300


def test_a_line_that_is_cut_short_takes_none_of_the_others(tmp_path):
    (tmp_path / "figures").write_text('{"a": 1}\n{"b": 2}\n{"c": ')
    assert on_gpu.read(tmp_path / "figures") == {"a": 1, "b": 2}


def test_the_limits_leave_time_within_eight_minutes():
    first = sum(seconds for part, seconds in on_gpu.PARTS.items() if part not in ("finetune", "cnn"))
    assert on_gpu.WHOLE <= 8 * 60
    assert first - on_gpu.PARTS["probe"] + on_gpu.KEPT_BACK["probe"] < on_gpu.WHOLE - 60
