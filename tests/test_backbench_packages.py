"""What is not installed is said in one sentence, and what the light way installs is in step with setup.cfg."""

import configparser
import importlib
import re

import click
import pytest
from click.testing import CliRunner

from backbench import options, packages
from tests.conftest import ROOT

HEAVY = {"torch", "torchvision", "timm", "huggingface_hub", "accelerate"}
"""What the light way leaves out."""


@pytest.fixture
def without(monkeypatch):
    """``without("torch", ...)``: as if these were not installed."""

    def without(*names: str) -> None:
        lacking = {packages._normal(name) for name in names}
        find_spec, distribution = packages.util.find_spec, packages.metadata.distribution

        def installed(name):
            if packages._normal(name) in lacking:
                raise packages.metadata.PackageNotFoundError(name)
            return distribution(name)

        monkeypatch.setattr(
            packages.util, "find_spec", lambda name: None if packages._normal(name) in lacking else find_spec(name)
        )
        monkeypatch.setattr(packages.metadata, "distribution", installed)

    return without


def lacks(module: str) -> ModuleNotFoundError:
    return ModuleNotFoundError(f"No module named {module!r}", name=module)


def test_a_missing_package_of_the_base_is_named_with_all_that_are_missing(without):
    without("torch", "timm")
    said = str(packages.missing(lacks("torch.nn")))
    assert said.startswith("this needs torch, which is not installed here. Install it with: pip install 'torch")
    assert re.findall(r"'([a-z_]+)", said) == ["torch", "timm"]


@pytest.mark.parametrize(("module", "package"), [("umap", "umap-learn"), ("yaml", "pyyaml"), ("onnx", "onnx")])
def test_a_missing_package_of_an_extra_is_named_alone(module, package, without):
    without("torch", module)
    said = str(packages.missing(lacks(module)))
    assert said.startswith(f"this needs {package}, ")
    assert re.findall(r"'([a-z-]+)", said) == [package]


@pytest.mark.parametrize(
    "error", [lacks("numpy.no_such_module"), lacks("no_such_package"), ImportError("cannot import name 'x'")]
)
def test_other_faults_of_imports_are_no_missing_packages(error):
    assert packages.missing(error) is None


def test_a_command_says_so_in_one_line(without):
    without("torch")

    @click.command(cls=options.Command)
    @click.argument("name")
    def command(name):
        importlib.import_module("json")
        raise lacks(name)

    done = CliRunner().invoke(command, ["torch"])
    assert done.exit_code == 1
    assert done.stderr.startswith("Error: this needs torch, ")
    assert done.stderr.count("\n") == 1
    assert isinstance(CliRunner().invoke(command, ["no_such_package"]).exception, ModuleNotFoundError)


def test_a_method_without_its_package_stops_no_other(without, monkeypatch, tmp_path):
    from backbench.probe import parallel

    without("torch")

    def open_file(*_, **__):
        raise lacks("torch")

    monkeypatch.setattr(parallel.features, "open_file", open_file)
    task = type("Task", (), {"state": None, "path": tmp_path})
    assert isinstance(parallel.one(task, None), packages.MissingPackageError)


def test_the_light_way_is_the_base_less_what_is_heavy():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    base = {re.match(r"[\w-]+", line)[0]: line for line in config["options"]["install_requires"].split()}
    lines = (ROOT / "requirements" / "probe.txt").read_text().splitlines()
    light = {re.match(r"[\w-]+", line)[0]: line for line in lines if not line.startswith("#")}
    assert light == {name: line for name, line in base.items() if name not in HEAVY}


def test_large_problems_are_solved_without_torch(without, monkeypatch, rng):
    import numpy as np

    from backbench.probe.softmax import torch_objective
    from backbench.probe.softmax.objective import Objective, Rows
    from backbench.probe.subsets import Subset

    without("torch")
    monkeypatch.setattr(torch_objective, "WORTH_TORCH", 0)
    monkeypatch.setattr(torch_objective, "has_bfloat16", lambda: True)
    part = Subset(rng.normal(size=(8, 3)).astype(np.float32), np.arange(8) % 2)
    rows = Rows(part, np.zeros(3), np.ones(3), limit=1 << 20)
    for device in ("auto", "cpu"):
        assert type(torch_objective.objective(rows, 2, device=device)) is Objective
