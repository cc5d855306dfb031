"""The import rules of the design: who may know of whom."""

import ast
import graphlib

import pytest

from tests.conftest import ROOT

MAY = {
    "backbench": set(),
    "data": set(),
    "cache": set(),
    "extract": {"data", "cache"},
    "probe": {"cache"},
    "audit": {"data", "cache", "probe"},
    "training": {"data", "cache", "extract"},
    "finetune": {"data", "cache", "extract", "probe", "training"},
    "cnn": {"data", "cache", "extract", "probe", "training"},
    "predict": {"data", "cache", "extract", "probe", "training"},
    "export": {"data", "cache", "extract", "probe", "training", "predict"},
    "generalize": {"data", "cache", "extract", "probe", "training", "finetune", "cnn", "predict"},
    "report": {
        "data",
        "cache",
        "extract",
        "probe",
        "audit",
        "training",
        "finetune",
        "cnn",
        "predict",
        "export",
        "generalize",
    },
}
"""What each room may import besides itself and backbench: only rooms above it in this table."""

COMMANDS = {"backbench/cli.py", "backbench/api.py"}
"""Modules that only hand on to the rooms what is asked, on the command line or from Python, by name."""

HEAVY_FORBIDDEN = {"probe": {"timm", "torchvision"}, "cache": {"torch", "timm"}, "report": {"torch", "timm"}}

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for room in MAY
    for path in sorted((ROOT / room).glob("**/*.py"))
}
"""By name below the package: probe.softmax.solver."""


def imported(path) -> set[str]:
    """Every module of ours that a file imports, wherever in it, by name below the package; of others, their top."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{name.name}" for name in node.names]
        for name in names:
            top, *below = name.split(".")
            if top != "backbench":
                found.add(top)
            elif below and below[0] in MAY:
                found.add(_module(below))
            else:
                found.add(_module(["backbench", *below]))
    return found


def _module(parts: list[str]) -> str:
    """The longest beginning that is a module, else the package."""
    for end in range(len(parts), 1, -1):
        if ".".join(parts[:end]) in MODULES:
            return ".".join(parts[:end])
    return f"{parts[0]}.__init__"


@pytest.mark.parametrize("name", MODULES)
def test_a_room_imports_only_what_the_design_allows(name):
    path, room = MODULES[name], name.split(".")[0]
    for one in imported(path):
        top = one.split(".")[0]
        if top in MAY and top not in (room, "backbench"):
            assert top in MAY[room] or f"{room}/{path.name}" in COMMANDS, f"{path} imports {one}"
        assert top not in HEAVY_FORBIDDEN.get(room, ()), f"{path} imports {one}"
        if path.name not in ("cli.py", "__main__.py", "options.py"):
            assert top != "click", f"{path} knows of click"
        if path.name not in ("__main__.py", "cli.py"):
            assert one.split(".")[-1] != "cli", f"{path} imports a cli"


def test_the_python_api_imports_no_room_before_it_is_used():
    tree = ast.parse((ROOT / "backbench" / "api.py").read_text())
    names = {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
    assert {name for name in names if name.startswith("backbench")} == {"backbench", "backbench.progress"}


def test_the_rooms_are_in_order():
    """None imports one that stands below it in the table, so there is no circle of rooms."""
    rooms = list(MAY)
    for i, room in enumerate(rooms):
        assert MAY[room] <= set(rooms[:i])


def test_no_modules_import_each_other_in_a_circle():
    order = graphlib.TopologicalSorter({name: imported(path) & set(MODULES) - {name} for name, path in MODULES.items()})
    order.prepare()


def test_no_room_is_missing_from_the_rules():
    rooms = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "benchmarks"}
    assert rooms == set(MAY)


def test_packages_are_listed_by_name_and_all_of_them():
    import configparser

    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    folders = {path.parent.relative_to(ROOT) for room in MAY for path in (ROOT / room).glob("**/__init__.py")}
    names = {
        ".".join(["backbench", *folder.parts]) if folder.parts != ("backbench",) else "backbench": folder
        for folder in folders
    }
    assert set(config["options"]["packages"].split()) == set(names)
    mapped = dict(line.split(" = ") for line in config["options"]["package_dir"].strip().splitlines())
    assert mapped == {name: str(folder) for name, folder in names.items()}


@pytest.mark.parametrize(
    "path",
    sorted({*MODULES.values(), *(path for end in ("py", "js", "css", "html") for path in ROOT.glob(f"*/*.{end}"))}),
    ids=lambda path: path.name,
)
def test_files_stay_short(path):
    assert len(path.read_text().splitlines()) <= 300
