"""The command line's words, defined once, so that they mean the same in every command."""

import importlib
import signal
import sys
from pathlib import Path

import click

from backbench import UserError
from backbench.progress import watched

PATH = click.Path(path_type=Path)


def _option(*names: str, **settings):
    return click.option(*names, show_default=True, **settings)


data_root = _option("--data-root", type=PATH, default=Path("data/raw"), help="The folder of the data sets.")
cache_dir = _option("--cache-dir", type=PATH, default=Path("cache"), help="The folder of the feature files.")
results_dir = _option("--results-dir", type=PATH, default=Path("results"), help="The folder of the result rows.")
device = _option(
    "--device",
    default="auto",
    help="The device: auto, cpu, cuda, cuda:N or mps. auto takes a GPU where there is one.",
)
seed = _option("--seed", type=click.IntRange(0, 2**32 - 1), default=42, help="The seed of every random choice.")
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout instead of a table.")
on_error = _option(
    "--on-error",
    type=click.Choice(["fail", "skip"]),
    default="fail",
    help="What to do with images that can't be read. fail lists all of them and exits with 1. skip leaves them out of "
    "every split, and rows say how many.",
)
trust = click.option(
    "--trust",
    is_flag=True,
    help="Lets weights be downloaded that a head stands on and that are not on this machine. A head may come from a "
    "stranger, so the network is never asked without it.",
)
exclude = click.option(
    "--exclude",
    type=PATH,
    multiple=True,
    help="Leaves out the images that this audit.csv says are copies (same) or have a wrong label (wrong). Repeat for "
    "several.",
)
relabel = click.option(
    "--relabel",
    type=PATH,
    multiple=True,
    help="Gives images whose label this audit.csv says is wrong the class that it suggests. These aren't left out. "
    "Repeat for several.",
)
overwrite = click.option("--overwrite", is_flag=True, help="Makes the result again and replaces what is there.")


def out(what: str):
    """``--out`` with the command's own words for what is written there."""
    return click.option("--out", type=PATH, help=what)


def whole_only(command):
    """Add ``--exclude`` and ``--relabel`` to a command that makes feature files, which says why it takes neither."""

    def refuse(ctx, param, given):
        if given:
            raise click.UsageError(
                f"{param.opts[0]} is no option of this command: features belong to images, and the feature file keeps "
                "those of the whole data set. Leave images out where the file is used, in seconds: "
                f"probe --features FILE {param.opts[0]} {given[0]}"
            )

    for name in ("--relabel", "--exclude"):
        command = click.option(name, multiple=True, hidden=True, expose_value=False, callback=refuse)(command)
    return command


class _Terminated(KeyboardInterrupt):
    """SIGTERM, raised in the main thread so that it takes the same clean way out as Ctrl-C."""


def _raise_terminated(signum, frame):
    raise _Terminated


class _Clean(click.Command):
    """UserErrors and missing packages become one message and an exit code; Ctrl-C and SIGTERM stop cleanly."""

    def invoke(self, ctx):
        before = signal.signal(signal.SIGTERM, _raise_terminated)
        try:
            with watched():
                return super().invoke(ctx)
        except UserError as error:
            click.echo(f"Error: {error}", err=True)
            sys.exit(error.exit_code)
        except ImportError as error:
            from backbench import packages  # here, since it takes a third of the time that --help takes

            if (lacking := packages.missing(error)) is None:
                raise
            click.echo(f"Error: {lacking}", err=True)
            sys.exit(lacking.exit_code)
        except KeyboardInterrupt as stop:
            terminated = isinstance(stop, _Terminated)
            click.echo("Stopped. What was computed is kept: the same command goes on.", err=True)
            sys.exit(143 if terminated else 130)
        finally:
            signal.signal(signal.SIGTERM, before)


class Command(_Clean, click.Command):
    """A command that ends so. ``renamed`` maps old spellings of options, still taken but not shown, to today's."""

    def __init__(self, *args, renamed: dict[str, str] | None = None, **settings):
        super().__init__(*args, **settings)
        self.renamed = renamed or {}

    def parse_args(self, ctx, args):
        split = [word.partition("=") if word.startswith("--") else (word, "", "") for word in args]
        return super().parse_args(ctx, ["".join((self.renamed.get(name, name), *rest)) for name, *rest in split])


class Choice(click.Choice):
    """A choice of words. ``renamed`` maps old words, still taken but not shown, to today's."""

    def __init__(self, words, *, renamed: dict[str, str]):
        super().__init__(list(words))
        self.renamed = renamed

    def convert(self, value, param, ctx):
        return super().convert(self.renamed.get(value, value), param, ctx)


class Group(_Clean, click.Group):
    """A group of such commands.

    ``later`` holds further commands by name: the module whose ``main`` it is, imported only when it is called, and the
    sentence that the group's help has for it. ``renamed`` maps old names, still taken but not shown, to today's.
    """

    command_class = Command

    def __init__(self, *args, later: dict[str, tuple[str, str]] | None = None, renamed=None, **settings):
        super().__init__(*args, **settings)
        self.later, self.renamed = later or {}, renamed or {}

    def list_commands(self, ctx) -> list[str]:
        return [*self.later, *super().list_commands(ctx)]

    def get_command(self, ctx, cmd_name: str):
        name = self.renamed.get(cmd_name, cmd_name)
        if name in self.later:
            return importlib.import_module(self.later[name][0]).main
        return super().get_command(ctx, name)

    def format_commands(self, ctx, formatter) -> None:
        lines = [(name, sentence) for name, (_, sentence) in self.later.items()]
        lines += [(name, command.get_short_help_str(80)) for name, command in sorted(self.commands.items())]
        with formatter.section("Commands"):
            formatter.write_dl(lines)
