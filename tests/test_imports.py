"""The import rules of the design: who may know of whom."""

import ast

import pytest

from tests.conftest import ROOT

MAY = {
    "backbench": set(),
    "data": set(),
    "cache": set(),
    "report": set(),
    "probe": {"cache", "report.rows", "report.details", "report.identity"},
    "extract": {"data", "cache", "report.rows", "report.identity"},
    "finetune": {"data", "cache", "extract", "probe", "report.rows", "report.details", "report.identity"},
    "cnn": {"data", "extract", "finetune", "probe", "report.rows", "report.details", "report.identity"},
}
"""What each room may import besides itself and backbench. A stage writes its rows and, beside them, their details."""

MODULES_MAY = {"report/pictures.py": {"cache", "data"}, "finetune/kinds.py": {"cnn"}}
"""What single modules may import beyond their room: the page shows pictures and features where these are at hand; a
checkpoint of cnn is evaluated as any other."""

HEAVY_FORBIDDEN = {"probe": {"timm", "torchvision"}, "cache": {"torch", "timm"}, "report": {"torch", "timm"}}

MODULES = [path for room in MAY for path in sorted((ROOT / room).glob("*.py"))]


def imported(path) -> set[str]:
    """Every module a file imports, as written: ``from report import rows`` is report.rows."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{name.name}" for name in node.names}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_room_imports_only_what_the_design_allows(path):
    room = path.parent.name
    may = MAY[room] | MODULES_MAY.get(f"{room}/{path.name}", set())
    for name in imported(path):
        top = name.split(".")[0]
        if top in MAY and top not in (room, "backbench"):
            assert any(name == one or name.startswith(f"{one}.") for one in may), f"{path} imports {name}"
        assert top not in HEAVY_FORBIDDEN.get(room, ()), f"{path} imports {name}"
        if path.name not in ("cli.py", "__main__.py", "options.py"):
            assert top != "click", f"{path} knows of click"
        if path.name != "__main__.py":
            assert "cli" not in name.split("."), f"{path} imports a cli"


def test_no_room_is_missing_from_the_rules():
    rooms = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "benchmarks"}
    assert rooms == set(MAY)


def test_packages_are_listed_by_name_and_all_of_them():
    import configparser

    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    assert set(config["options"]["packages"].split()) == set(MAY)


@pytest.mark.parametrize(
    "path",
    sorted({*MODULES, *(path for end in ("py", "js", "css", "html") for path in ROOT.glob(f"*/*.{end}"))}),
    ids=lambda path: path.name,
)
def test_files_stay_short(path):
    assert len(path.read_text().splitlines()) <= 300
