"""The audit's benchmark counts by test image, by hand."""

import numpy as np
import pytest

from backbench.audit.duplicates import Duplicates
from backbench.audit.pairs import Pairs
from benchmarks import audit


def test_recall_and_precision_are_by_test_image():
    """Images 0 to 4 are of test, 0 and 1 are listed; found are 0 with train's 5, and 3 with 4: one of two, of three."""
    pairs = Pairs(np.array([0, 3]), np.array([5, 4]), np.ones(2, np.float32))
    tested = np.arange(7) < 5
    figures = {}
    audit._against(figures, Duplicates(pairs, np.zeros(2, bool), np.ones(2)), np.arange(7) < 2, tested, "")
    assert figures == {
        "cifair10_recall": 0.5, "cifair10_precision": pytest.approx(1 / 3), "test_images_found": 3
    }  # fmt: skip


def test_the_published_pairs_are_read(tmp_path):
    (tmp_path / "pairs.tsv").write_text("test_file\tsecond_file\tdistance\tjudgment\nt/1\ta/2\t0.1\t1\n")
    assert audit._listed(tmp_path / "pairs.tsv", ["a/2", "b/1", "t/1"]).tolist() == [[2, 0]]
