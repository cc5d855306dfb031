"""What it costs to classify new images, beside extracting their features: whole commands, in turns, medians.

    python benchmarks/predict.py [--quick] [--json] [--model NAME] [--images FOLDER]

Each command starts with an empty cache and sees the same photos, noise of 300 x 400 pixels unless ``--images`` names
class folders. ``predict_over_extract`` is images a second of ``backbench predict`` over those of ``extract``;
``again_seconds`` is the same predict command when its features are there.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import click

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.generalize import images as noise

ASKED = {"predict_over_extract": ">= 0.95"}
"""The bound that was set for it."""


def command(*words) -> float:
    """Seconds of a command of this project."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", *map(str, words)], check=True, capture_output=True)
    return time.perf_counter() - started


def measure(model: str, folder: Path, rounds: int, home: Path) -> dict:
    """The figures, of a ridge head on the images in ``folder``, whose features its own command computes first."""
    where = ["--cache-dir", home / "cache", "--results-dir", home / "results"]
    extract = ["backbench.extract", "--model", model, "--dataset", f"folder:{folder}"]
    command(*extract, *where)
    command("backbench.probe", "--features", home / "cache", *where[2:], "--method", "ridge", "--save", home / "heads")
    (head,) = (path.parent for path in (home / "heads").rglob("head.json"))
    seconds: dict[str, list[float]] = {"extract": [], "predict": [], "again": []}
    for _ in range(rounds):
        new = home / "new"
        predict = ["backbench", "predict", head, folder, "--out", home / "x.csv", "--cache-dir", new / "predict"]
        seconds["extract"].append(command(*extract, "--cache-dir", new / "extract", "--results-dir", new))
        seconds["predict"].append(command(*predict))
        seconds["again"].append(command(*predict))
        shutil.rmtree(new)
    n = sum(1 for _ in folder.rglob("*.*"))
    return {
        "predict_over_extract": median(a / b for a, b in zip(seconds["extract"], seconds["predict"], strict=True)),
        **{f"{name}_images_per_second": n / median(seconds[name]) for name in ("extract", "predict")},
        "again_seconds": median(seconds["again"]),
    }


@click.command()
@click.option("--quick", is_flag=True, help="Fewer images and rounds.")
@click.option("--json", "as_json", is_flag=True, help="One object of named figures on stdout.")
@click.option("--model", default="mobilenetv2_100", show_default=True, help="A timm model.")
@click.option("--images", type=click.Path(path_type=Path), help="A folder of class folders with images.")
def main(quick, as_json, model, images):
    """Measure the classifying of new images beside extracting their features."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        images = images or noise(home / "images", 100 if quick else 1000)
        figures = measure(model, images.resolve(), 1 if quick else 3, home)
    if as_json:
        print(json.dumps(figures, indent=2))
        return
    for name, value in figures.items():
        print(f"{name:28} {value:10.4g}" + (f"   asked: {ASKED[name]}" if name in ASKED else ""))


if __name__ == "__main__":
    main()
