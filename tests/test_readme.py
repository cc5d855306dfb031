"""What README and --help tell people to paste must be understood by the commands."""

import re
import shlex
import subprocess
import sys

import click
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import backbench.cache.cli
import backbench.cli
import backbench.cnn.cli
import backbench.data.cli
import backbench.extract.cli
import backbench.finetune.cli
import backbench.probe.cli
import backbench.report.cli
from backbench.extract import names, pypi_weights
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()
COMMANDS = {
    "extract": backbench.extract.cli.main,
    "probe": backbench.probe.cli.main,
    "report": backbench.report.cli.main,
    "finetune": backbench.finetune.cli.main,
    "cnn": backbench.cnn.cli.main,
    "backbench": backbench.cli.main,
    "backbench data": backbench.data.cli.main,
    "backbench cache": backbench.cache.cli.main,
}


def pasteable(text: str) -> list[str]:
    """Lines that begin with one of our commands, without their comments and redirections."""
    lines = (re.split(r"\s+#|\s>\s", line.strip())[0] for line in text.splitlines())
    return [line for line in lines if any(re.match(rf"{name}($| \S)", line) for name in COMMANDS)]


def helps(command: click.Command) -> list[str]:
    """The --help of a command and of all its subcommands."""
    inner = ()
    if isinstance(command, click.Group):
        inner = [command.get_command(None, name) for name in command.list_commands(None)]
    return [CliRunner().invoke(command, ["--help"]).output, *(text for each in inner for text in helps(each))]


def understand(command: click.Command, args: list[str]) -> None:
    """Parse as click does before anything runs."""
    if {"--help", "--list-models", "--list-datasets"} & set(args):
        assert CliRunner().invoke(command, args).exit_code == 0
        return
    context = command.make_context(command.name, args)
    if isinstance(command, click.Group) and context._protected_args:
        name, inner, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        assert inner is not None, name
        understand(inner, rest)


BLOCKS = "\n".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL))


@pytest.mark.parametrize(
    "line", [*pasteable(BLOCKS), *re.findall(r"`((?:extract|probe|finetune|cnn|python -m \w+) [^`.…]+)`", README)]
)
def test_readmes_commands_are_understood(line):
    if not pasteable(line) or "..." in line or "NAME" in line:
        return
    name = next(name for name in COMMANDS if line == name or line.startswith(f"{name} "))
    understand(COMMANDS[name], shlex.split(line.removeprefix(name)))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_has_an_example_that_is_understood(name):
    for text in helps(COMMANDS[name]):
        examples = pasteable(text)
        assert examples, text
        for line in examples:
            inner = next(n for n in COMMANDS if line == n or line.startswith(f"{n} "))
            understand(COMMANDS[inner], shlex.split(line.removeprefix(inner)))


def test_readme_names_the_two_commands_and_make_knows_them():
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"demo", "test", "check"} <= set(targets)
    assert "make demo" in BLOCKS
    assert "make test" in BLOCKS


@pytest.mark.skipif(not pypi_weights.installed(names.PACKAGED["tf_efficientnet_lite0"]), reason="needs [offline]")
def test_readmes_python_runs_word_for_word(tmp_path):
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    rng = np.random.default_rng(0)
    for k, name in enumerate(("ant", "bee")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(12):
            coarse = rng.integers(0, 200, (5, 5, 3), dtype=np.uint8)
            coarse[..., k] += 55
            Image.fromarray(coarse).resize((90, 70)).save(tmp_path / "photos" / name / f"{i}.png")
    done = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert "chosen on val" in done.stdout
    assert (tmp_path / "heads" / "photos" / "head.json").is_file()
    assert (tmp_path / "cache" / "folder-photos" / "tf_efficientnet_lite0.h5").is_file()


def test_every_folder_of_the_map_is_there():
    rooms = re.findall(r"^\| `(\w+)/`", README.split("## Map")[1], re.M)
    assert all((ROOT / room).is_dir() for room in rooms)
    assert {path.parent.name for path in ROOT.glob("*/__init__.py")} <= set(rooms)


def test_options_mean_the_same_everywhere():
    """One word, one default and one help, in every command that has it."""
    shared = ("--data-root", "--cache-dir", "--results-dir", "--device", "--seed", "--json", "--overwrite")
    seen: dict[str, set] = {}

    def walk(command):
        for parameter in command.params:
            for word in set(parameter.opts) & set(shared):
                seen.setdefault(word, set()).add((str(parameter.default), parameter.help, str(parameter.type)))
        for inner in command.commands.values() if isinstance(command, click.Group) else ():
            walk(inner)

    for command in COMMANDS.values():
        walk(command)
    assert set(seen) == set(shared)
    assert all(len(meanings) == 1 for meanings in seen.values()), seen
