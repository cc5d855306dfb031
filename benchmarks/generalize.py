"""What a head costs on images from elsewhere once they were extracted, beside seeing the images again.

    python benchmarks/generalize.py [--quick] [--json] [--model NAME]

Direct: every image decoded, through the backbone (in the precision its features were made in) and the head. Cached:
the same scores from the feature file, opened anew. Row: from there to all figures of the row. In turns, one process;
medians. ``equal``: the share of images of which both ways say the same class.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

ASKED = {"direct_over_cached": ">= 100", "row_ms": "<= 100", "equal": ">= 0.99"}
"""Bounds set here: what was asked for is milliseconds a head, and equal predictions."""


def images(folder: Path, n: int) -> Path:
    """Noise of 300 x 400 pixels under the class names of digits."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for i in range(n):
        path = folder / str(i % 10) / f"{i:04}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = rng.integers(0, 256, (15, 20, 3), np.uint8)
        Image.fromarray(noise).resize((400, 300)).save(path)
    return folder


def measure(model: str, n: int, rounds: int) -> dict:
    """The figures, of a probe's head on digits and ``n`` images from elsewhere."""
    import torch

    from backbench.data import maps, registry
    from backbench.devices import pick_device
    from backbench.extract import pipeline
    from backbench.generalize import figures as elsewhere
    from backbench.predict import find
    from backbench.probe import run, study
    from backbench.training import evaluate

    home = Path(tempfile.mkdtemp())
    place, results = home / "cache", home / "results"
    how = {"data_root": home, "device": "auto", "seed": 42, "download": False, "exif": "ignore", "on_error": "fail"}
    how |= {"cache_dir": place, "results_dir": results}
    how |= {"weights": "random"}
    _, faults = pipeline.extract_all([model], ["digits"], if_busy="refuse", **how)
    faults.stop()
    study.probe_all([place], ["ridge"], results_dir=results, settings=run.Settings(), save=home / "heads")[1].stop()
    (head,), device = find.below(home / "heads", home / "runs")[0], pick_device("auto")
    source = head.scores_on(registry.load("digits", data_root=home), cache_dir=place, device=device, test_only=True)
    there = registry.load(f"folder:{images(home / 'there', n)}", data_root=home)
    head.scores_on(there, cache_dir=place, device=device)
    backbone, settings = head.backbone(device)
    backbone.model.to(device, memory_format=torch.channels_last)

    def direct():
        reduced = settings.precision != "float32"
        with torch.inference_mode(), torch.autocast(device.type, getattr(torch, settings.precision), enabled=reduced):
            batches = evaluate.image_batches(there, backbone, np.arange(n), device)
            features = [backbone.model(batch).float().cpu().numpy() for _, batch in batches]
        return head.saved.head.scores(np.concatenate(features))

    def cached():
        return head.scores_on(there, cache_dir=place, device=device)

    groups = maps.between("digits", head.classes, there.name, there.class_names)
    seconds, found = {"direct": [], "cached": [], "row": []}, {}
    for turn in range(rounds + 1):
        for name, way in (
            ("direct", direct),
            ("cached", cached),
            ("row", lambda: elsewhere.assess(source, found["cached"], groups, head.classes, t=1.0)),
        ):
            started = time.perf_counter()
            found[name] = way()
            if turn:
                seconds[name].append(time.perf_counter() - started)
    same = found["direct"].argmax(axis=1) == found["cached"].scores.argmax(axis=1)
    return {
        "direct_over_cached": median(a / b for a, b in zip(seconds["direct"], seconds["cached"], strict=True)),
        "direct_images_per_second": n / median(seconds["direct"]),
        "cached_ms": 1000 * median(seconds["cached"]),
        "row_ms": 1000 * median(seconds["row"]),
        "equal": float(same.mean()),
    }


@click.command()
@click.option("--quick", is_flag=True, help="Fewer images and rounds.")
@click.option("--json", "as_json", is_flag=True, help="One object of named figures on stdout.")
@click.option("--model", default="mobilenetv2_100", show_default=True, help="A timm model; weights are random.")
def main(quick, as_json, model):
    """Measure heads on images from elsewhere, by stored features and directly."""
    figures = measure(model, *((128, 3) if quick else (1000, 7)))
    if as_json:
        print(json.dumps(figures, indent=2))
        return
    for name, value in figures.items():
        print(f"{name:28} {value:10.4g}" + (f"   asked: {ASKED[name]}" if name in ASKED else ""))


if __name__ == "__main__":
    main()
