"""``backbench export``: what was trained as files for other programs."""

import json
from pathlib import Path

import click

from backbench import columns, options
from backbench.progress import loading


@click.command(cls=options.Command)
@click.argument("path", metavar="HEAD_OR_RUN", type=options.PATH)
@click.option("--out", type=options.PATH, required=True, help="The folder that is written.")
@click.option("--push", metavar="OWNER/NAME", help="Upload the files to this repository on the Hugging Face hub.")
@click.option("--private", is_flag=True, help="With --push, a repository that is new is private.")
@click.option(
    "--dataset", help="The images that the files are checked on.  [default: the data set it was trained on, if found]"
)
@options.trust
@click.option(
    "--weights", type=options.PATH, help="The file or run whose weights a head stands on, where it is your own."
)
@options.data_root
@options.results_dir
@options.overwrite
@options.as_json
def main(path: Path, out: Path, as_json: bool, **settings) -> None:
    """Write a head with its backbone, or a checkpoint, as files that work without backbench.

    model.safetensors and config.json are for timm, and model.onnx with classify.py for onnxruntime. README.md is a
    model card. Their probabilities are compared with backbench's own on real images before they are kept. They compute
    in float32, so that close calls may turn out otherwise than with features in bfloat16.

    \b
    Examples:
      backbench export heads/digits/mobilenetv2_100-logistic --out digits
      backbench export runs/digits/cnn_small-42 --out digits --push me/digits
    """
    with loading("torch", "timm"):
        from backbench.export import run

    found = run.run(path, out, **settings)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    lines = [["file", "MB", "largest difference of a probability"]]
    for name, size in found["files"].items():
        off = found["difference"].get(name)
        lines.append([name, f"{size / 1e6:,.1f}", "" if off is None else f"{off:.1e}"])
    click.echo(columns(lines, left=1))
    click.echo(f"in {out}, checked on {found['checked_on']}, where {found['tolerance']:g} is allowed.")
    for name, reason in found["left_out"].items():
        click.echo(f"There is no {name}: {reason}.")
    if found["pushed"]:
        click.echo(f"pushed to {found['pushed']}")
