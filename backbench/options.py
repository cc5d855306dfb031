"""The command line's words, defined once, so that they mean the same in every command."""

import signal
import sys
from pathlib import Path

import click

from backbench import UserError

PATH = click.Path(path_type=Path)


def _option(*names: str, **settings):
    return click.option(*names, show_default=True, **settings)


data_root = _option("--data-root", type=PATH, default=Path("data/raw"), help="Where image sets lie.")
cache_dir = _option("--cache-dir", type=PATH, default=Path("cache"), help="Where feature files lie.")
results_dir = _option("--results-dir", type=PATH, default=Path("results"), help="Where result rows lie.")
device = _option(
    "--device",
    default="auto",
    help="auto, cpu, cuda, cuda:N or mps. auto takes a GPU where there is one.",
)
seed = _option("--seed", type=click.IntRange(0, 2**32 - 1), default=42, help="Seed of every random choice.")
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout instead of a table.")
overwrite = click.option("--overwrite", is_flag=True, help="Make it again, replacing what is there.")


def out(what: str):
    """``--out`` with the command's own words for what is written there."""
    return click.option("--out", type=PATH, help=what)


class _Terminated(KeyboardInterrupt):
    """SIGTERM, raised in the main thread so that it takes the same clean way out as Ctrl-C."""


def _raise_terminated(signum, frame):
    raise _Terminated


class _Clean:
    """UserErrors become one message and an exit code; Ctrl-C and SIGTERM stop cleanly."""

    def invoke(self, ctx):
        before = signal.signal(signal.SIGTERM, _raise_terminated)
        try:
            return super().invoke(ctx)
        except UserError as error:
            click.echo(f"Error: {error}", err=True)
            sys.exit(error.exit_code)
        except KeyboardInterrupt as stop:
            terminated = isinstance(stop, _Terminated)
            click.echo("Stopped. What was computed is kept: the same command goes on.", err=True)
            sys.exit(143 if terminated else 130)
        finally:
            signal.signal(signal.SIGTERM, before)


class Command(_Clean, click.Command):
    """A command that ends so."""


class Group(_Clean, click.Group):
    """A group of such commands."""

    command_class = Command
