"""Freed memory is taken again: counted in page faults, by the system itself."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import torch
from backbench.allocator import keep_freed_memory
if "keep" in sys.argv:
    keep_freed_memory()
for repeat in range(40):
    if repeat == 1:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(10 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator meant is glibc's")
def test_a_freed_array_of_40_mb_is_not_cleared_page_by_page_again():
    kept, given_back = (
        int(subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True).stdout)
        for how in ("keep", "give back")
    )
    assert given_back > 39 * 5_000
    assert kept < given_back / 3
