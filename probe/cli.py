"""``probe``: fit heads on stored features, in seconds, as often as you like."""

import json
import re
import sys
from pathlib import Path

import click

from backbench import UserError, columns, options, rows
from backbench.probe import METHODS

UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


class _Numbers(click.ParamType):
    """Numbers with commas between them, each within a range."""

    name = "numbers"

    def __init__(self, kind, least, most):
        self.kind, self.least, self.most = kind, least, most

    def convert(self, value, param, ctx):
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(self.kind(number) for number in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers like 1,2,5", param, ctx)
        if not all(self.least <= number <= self.most for number in numbers):
            self.fail(f"{value!r}: each must lie within {self.least} and {self.most}", param, ctx)
        return numbers


class _Bytes(click.ParamType):
    """A size such as 500M or 4G."""

    name = "size"

    def convert(self, value, param, ctx):
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?", value.strip().lower())
        if not found or float(found[1]) == 0:
            self.fail(f"{value!r} is not a size like 500M or 4G", param, ctx)
        return int(float(found[1]) * UNITS[found[2]])


def _probe_options(command):
    for option in reversed(
        (
            click.option(
                "--features",
                multiple=True,
                help="Feature file, folder or glob, or an .npz file of your own features: arrays x, labels and, if you "
                "like, split, ids, class_names. Repeat.  [default: --cache-dir]",
            ),
            click.option(
                "--method",
                "methods",
                type=options.Choice(METHODS, renamed=rows.RENAMED_METHODS),
                multiple=True,
                default=["logistic"],
                show_default=True,
                help="The kind of head. Repeat for several. published is the head of the published study.",
            ),
            click.option(
                "--shots",
                type=_Numbers(int, 1, 10**6),
                help="Few-shot probing: the number of train images of each class, such as 1,2,5,10.",
            ),
            click.option(
                "--seeds",
                type=click.IntRange(1),
                default=1,
                help="The number of draws for each of --shots, with seeds from --seed on.",
            ),
            click.option(
                "--curve",
                type=_Numbers(float, 0.001, 1),
                help="Adds a learning curve at these shares of train, such as 0.1,0.3,1.",
            ),
            click.option(
                "--folds",
                type=click.IntRange(2),
                help="Cross-validation in this many folds, for sets too small for a val: each image is predicted by a "
                "head fitted on the other folds. The file's split is not used; --seed draws the folds.",
            ),
            click.option(
                "--class-weight",
                type=click.Choice(["none", "balanced"]),
                default="none",
                show_default=True,
                help="How classes count in the loss of logistic: balanced gives every class the same weight.",
            ),
            click.option(
                "--intervals",
                type=click.Choice(["beta", "wilson", "bootstrap"]),
                default="beta",
                show_default=True,
                help="The kind of the accuracies' 95 % intervals. bootstrap is the Bayesian one, the same as beta.",
            ),
            click.option("--save", type=options.PATH, help="Keeps heads in this folder, for predict and export."),
            click.option(
                "--jobs",
                type=click.IntRange(1),
                help="The number of probes that run at a time.  [default: one for each core, 1 for little work]",
            ),
            click.option(
                "--scheduler", metavar="ADDRESS", help="Runs the probes on this Dask cluster, such as tcp://host:8786."
            ),
            click.option(
                "--memory-limit",
                type=_Bytes(),
                default="4G",
                show_default=True,
                help="The memory for features. Larger ones are streamed from the file.",
            ),
            options.exclude,
            options.relabel,
            options.cache_dir,
            options.results_dir,
            options.out("Writes the table, or with --json the JSON, to this file."),
            options.device,
            options.seed,
            options.as_json,
        )
    ):
        command = option(command)
    return command


@click.group(cls=options.Group, invoke_without_command=True)
@_probe_options
@click.pass_context
def main(ctx, **given):
    """Fit heads on the features of frozen backbones: chosen on val, refitted on train+val, tested once.

    The command needs no GPU, no timm and no images: you can copy the .h5 file to any machine. It prints test accuracies
    with their 95 % intervals and adds a row for each to the results.

    \b
    Examples:
      probe --features cache/caltech256/resnet50.h5
      probe --features cache --method logistic --method knn
      probe --features cache/caltech256 --shots 1,2,5,10 --seeds 5
      probe --features 'cache/*/resnet*.h5' --json > resnets.json
      probe --features embeddings.npz
      probe --features cache/small --folds 5
      probe --features cache/digits --exclude audit.csv --relabel audit.csv
      probe --features cache/digits --save heads
      probe predict --head heads/digits/resnet50-logistic --features other.h5
    """
    if ctx.invoked_subcommand is None:
        _probe(**given)
    elif any(ctx.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE for name in given):
        raise click.UsageError(f"Put the options after {ctx.invoked_subcommand!r}.")


def _probe(features, methods, cache_dir, results_dir, out, as_json, seed, device, class_weight, curve, **how):
    from backbench.probe import run, study

    settings = run.Settings(
        seed=seed,
        options={"logistic": {"device": device, "class_weight": class_weight}},
        curve=curve or (),
        intervals=how.pop("intervals"),
        memory_limit=how.pop("memory_limit"),
    )
    how["shots"] = how["shots"] or ()
    found, faults = study.probe_all(features or [cache_dir], methods, results_dir=results_dir, settings=settings, **how)
    if found or as_json:
        with faults.collect():
            _show(json.dumps(found, indent=2) if as_json else table(found), out)
    faults.stop()


@main.command()
@click.option("--head", type=options.PATH, required=True, help="The folder that probe --save made.")
@click.option("--features", type=options.PATH, required=True, help="The feature file of the images.")
@options.out("Writes the CSV, or with --json the JSON, to this file.")
@options.as_json
def predict(head, features, out, as_json):
    """Apply a stored head to a feature file: the class of every image, as CSV, and how often it is right.

    \b
    Example:
      probe predict --head heads/digits/resnet50-logistic --features cache/other/resnet50.h5 --out predictions.csv
    """
    from backbench.probe.predict import predict as apply

    found = apply(head, features)
    counts = {"n_scored": found.n_scored, "n_unknown": found.n_unknown, "n_seen": found.n_seen}
    images = zip(found.ids, found.classes, found.probability.tolist(), strict=True)
    if as_json:
        lines = [{"id": name, "class": said, "probability": p} for name, said, p in images]
        text = json.dumps({**found.figures, **counts, "predictions": lines}, indent=2)
    else:
        text = _csv([("id", "class", "probability"), *((name, said, f"{p:.6f}") for name, said, p in images)])
    _show(text, out)
    if found.figures:
        parts = (f"{name} {_accuracy(found.figures, name)} %" for name in ("top1", "top5", "balanced"))
        click.echo(f"{found.n_scored:,} images scored: {', '.join(parts)}", err=True)
    for n, why in (
        (found.n_unknown, "the head doesn't know their classes"),
        (found.n_seen, "the head was fitted or chosen on them"),
    ):
        if n:
            click.echo(f"{n:,} images are left out of the accuracies: {why}.", err=True)


def _show(text: str, out: Path | None) -> None:
    if not out:
        click.echo(text)
        return
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{out} can't be written: {error.strerror}. Name another file with --out.") from error
    print(f"Wrote {out}", file=sys.stderr)


def _csv(lines) -> str:
    import csv
    import io

    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue().rstrip("\n")


def table(rows: list[dict]) -> str:
    """The rows for people, in percent; a head that has not converged is marked."""
    from backbench.decisions import named

    shots = ["shots", "seed"] if any(row["shots"] for row in rows) else []
    folded = any(row.get("n_folds") for row in rows)
    head = ["dataset", "model", "method", *shots, "top-1 %", "top-5 %", "balanced %", "val %", "train %", "chosen", "s"]
    lines = [head]
    for row in rows:
        lines.append(
            [
                named(row) + (f" ({row['n_folds']} folds)" if folded else ""),
                row["model"],
                row["method"] + ("" if row["converged"] else " (not converged)"),
                *(str(row[name] or "all") for name in shots),
                *(_accuracy(row, name) for name in ("top1", "top5", "balanced")),
                f"{100 * row['val_top1']:.1f}",
                f"{100 * row['train_top1']:.1f}",
                row["chosen"],
                f"{row['seconds']:.1f}",
            ]
        )
    return columns(lines)


def _accuracy(figures: dict, name: str) -> str:
    return f"{100 * figures[name]:.1f} [{100 * figures[f'{name}_low']:.1f}, {100 * figures[f'{name}_high']:.1f}]"
