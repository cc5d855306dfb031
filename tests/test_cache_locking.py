"""The lock: one run at a time makes a file, and a dead one keeps nobody waiting."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from backbench import UserError
from backbench.cache import locking
from tests.conftest import ROOT

SLEEP = """
    import sys, time, pathlib
    sys.path.insert(0, {root!r})
    from backbench.cache import locking
    with locking.lock(pathlib.Path({path!r}), wait={wait}, quiet=True):
        print("held", flush=True)
        {work}
"""


def start(path, *, wait=False, work="time.sleep(60)"):
    code = textwrap.dedent(SLEEP).format(root=str(ROOT), path=str(path), wait=wait, work=work)
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def test_who_holds_a_file_is_named_and_its_death_frees_it(tmp_path):
    path = tmp_path / "new" / "a.h5"
    process = start(path)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=f"another run, process {process.pid} on .*--if-busy wait"), locking.lock(path):
        pass
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert locking.lock_of(path).exists()
    with locking.lock(path):
        assert str(os.getpid()) in locking.lock_of(path).read_text()
    assert list(path.parent.iterdir()) == []


def test_of_many_at_the_same_instant_one_at_a_time_works(tmp_path):
    """Eight processes add one each to a number that they read, and write a while later: 8 only if none overlap."""
    number = tmp_path / "number"
    number.write_text("0")
    work = f"p = pathlib.Path({str(number)!r}); n = int(p.read_text()); time.sleep(0.02); p.write_text(str(n + 1))"
    for process in [start(tmp_path / "a.h5", wait=True, work=work) for _ in range(8)]:
        assert process.communicate()[0] == "held\n"
        assert process.returncode == 0
    assert number.read_text() == "8"
