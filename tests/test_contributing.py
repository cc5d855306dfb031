"""CONTRIBUTING's map is that of the import rules, the files that it names are there, and so are those of make quick."""

import re

import pytest

from tests.conftest import ROOT
from tests.test_imports import MAY

TEXT = (ROOT / "CONTRIBUTING.md").read_text()
QUICK = [line for line in (ROOT / "tests" / "quick.txt").read_text().split("\n") if line and line[0] != "#"]


def test_the_map_has_every_room():
    assert set(re.findall(r"`(\w+)/`", TEXT.split("## The map")[1].split("\n## ")[0])) == set(MAY)


NAMED = set(re.findall(r"`(\w[\w.]*/[\w./]+\.\w+)`", TEXT)) - {"results/rows.jsonl"}
"""Files; the last is made by the commands."""


@pytest.mark.parametrize("name", sorted(NAMED))
def test_the_files_it_names_are_there(name):
    assert (ROOT / name).exists()


@pytest.mark.parametrize(
    ("file", "names"),
    [
        ("extract/names.py", ["PACKAGED"]),
        ("extract/pypi_weights.py", ["CONVERT"]),
        ("probe/__init__.py", ["METHODS"]),
        ("data/sources.py", ["SETS"]),
        ("report/charts.py", ["KINDS", "NOTHING"]),
    ],
)
def test_the_tables_to_extend_are_where_it_says(file, names):
    for name in names:
        assert f"`{name}`" in TEXT
        assert re.search(rf"^{name}\b.* = ", (ROOT / file).read_text(), re.M)


def test_its_glossary_has_ten_words():
    assert len(re.findall(r"^\| [\w ]+ \| .+ \|$", TEXT.split("## Ten words")[1].split("\n## ")[0], re.M)) == 11


@pytest.mark.parametrize("file", QUICK)
def test_the_files_of_the_quick_tier_are_there(file):
    assert (ROOT / file).is_file()
