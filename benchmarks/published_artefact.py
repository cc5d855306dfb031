"""Why the published table ranks as it does: the same backbones and images, one condition changed at a time.

    python benchmarks/published_artefact.py [--quick] [--json] [--data-root DIR] [--out DIR] [--figure FILE.svg]

Input: right, 255 times too large (as published), and 255 times too large with the running statistics of BatchNorm
adapted to it: a backbone in train mode does that, and the published one was in train mode while its head was trained.
Head: converged (``logistic``), or five epochs of Adam (``published``) in about as many steps as the published 405.
Rows go to DIR/results, feature files beside them; what is there is not made again. Five minutes on 2 cores.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from backbench import rows
from backbench.report import formatting

MODELS = ("tf_efficientnet_lite0", "mobilenetv2_100", "vit_small_patch14_imgfocus")
"""BatchNorm after the stem, twice, and a vision transformer without any norm before its position embeddings."""

SCALE = 255
"""Images entered as 0..255 where the weights' mean and std are meant for 0..1."""

STEPS, EPOCHS = 405, 5
"""Of the published head on Caltech-256: five epochs of 20,729 images in batches of 256."""

ADAPTED = ", BatchNorm adapted"

PASSES = 4
"""Over train with BatchNorm in train mode: of momentum 0.1 and 25 batches, so that nothing is left of the old."""


def extract(model: str, scale: float, dataset: str, data_root: str, out: Path) -> Path:
    """The feature file, by the command as users run it."""
    path = out / "features" / f"{model}-x{scale:g}.h5"
    command = [
        sys.executable,
        "-m",
        "backbench.extract",
        "--model",
        model,
        "--dataset",
        dataset,
        "--data-root",
        data_root,
    ]
    command += ["--out", str(path), "--results-dir", str(out / "results"), "--input-scale", str(scale)]
    command += ["--no-input-guard"] if scale != 1 else []
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)})
    if done.returncode:
        raise SystemExit(done.returncode)
    return path


def adapted(model: str, dataset: str, data_root: str, out: Path) -> Path | None:
    """Features of input x255 after train mode has adapted BatchNorm to it; None for a model without BatchNorm.

    The weights stay as they are: only running means and variances move, as they did in the published study.
    """
    import torch

    from backbench.cache.features import open_file
    from backbench.cache.writer import write
    from backbench.data import registry
    from backbench.extract import backbones
    from backbench.training.evaluate import image_batches

    path = out / "features" / f"{model}-adapted.h5"
    if path.exists():
        return path
    imageset, backbone = registry.load(dataset, data_root=data_root), backbones.create(model)
    norms = [m for m in backbone.model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return None
    enlarged = replace(backbone, scale=SCALE)
    train = np.random.default_rng(0).permutation(np.flatnonzero(imageset.split == 0))
    with torch.inference_mode():

        def forward(which):
            batches = image_batches(imageset, enlarged, which, torch.device("cpu"))
            return np.concatenate([backbone.model(batch).numpy() for _, batch in batches])

        for norm in norms:
            norm.train()
        for _ in range(PASSES):
            for start in range(0, len(train) - 31, 32):
                forward(train[start : start + 32])
        for norm in norms:
            norm.eval()
        groups = np.array_split(np.arange(len(imageset)), range(32, len(imageset), 32))
        features = np.concatenate([forward(group) for group in groups])
    with open_file(out / "features" / f"{model}-x{SCALE}.h5") as file:
        identity = file.identity | {"model": model + ADAPTED, "precision": "float32", "compiled": False}
    names = {"labels": imageset.labels, "split": imageset.split, "ids": imageset.ids}
    return write(path, features=features, class_names=imageset.class_names, identity=identity, **names)


def probe(paths: list[Path], out: Path) -> None:
    """A row for each file and head that has none yet."""
    from backbench.cache.features import open_file
    from backbench.probe.run import Settings
    from backbench.probe.study import probe_all

    there = {key(row) for row in rows.read(out / "results") if "top1" in row}
    for path in paths:
        with open_file(path) as file:
            which = formatting.backbone(file.identity["model"], file.identity["input_scale"])
            batch = max(1, round(EPOCHS * int((file.split == 0).sum()) / STEPS))
        if missing := [method for method in ("logistic", "published") if (which, method) not in there]:
            settings = Settings(options={"published": {"batch_size": batch}})
            probe_all([path], missing, results_dir=out / "results", settings=settings)[1].stop()


def key(row: dict) -> tuple[str, str]:
    return formatting.backbone(row["model"], (row["features"] or {}).get("input_scale")), row["method"]


def figures(out: Path) -> dict[str, list[float]]:
    """Top-1 on test with the ends of its interval, by 'backbone, head'."""
    found = {", ".join(key(row)): row for row in rows.read(out / "results") if "top1" in row}
    return {name: [row["top1"], row["top1_low"], row["top1_high"]] for name, row in found.items()}


def draw(found: dict, path: Path) -> None:
    """Bars: for each backbone the three inputs, for each head a panel."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "backbench"
    from matplotlib import pyplot

    kinds = {"input right": "", f"input x{SCALE}": "", f"input x{SCALE}{ADAPTED}": ADAPTED}
    colours = "#0072b2", "#d55e00", "#009e73"
    heads = (("logistic", "converged head"), ("published", "five epochs of Adam"))
    shown = [model for model in MODELS if any(name.startswith(model) for name in found)]
    figure, panels = pyplot.subplots(1, 2, figsize=(9, 3.8), sharey=True, layout="constrained")
    for panel, (method, title) in zip(panels, heads, strict=True):
        for i, ((kind, suffix), colour) in enumerate(zip(kinds.items(), colours, strict=True)):
            for at, model in enumerate(shown):
                name = formatting.backbone(model + suffix, 1 if kind == "input right" else SCALE)
                if values := found.get(f"{name}, {method}"):
                    top, low, high = (100 * value for value in values)
                    panel.bar(at + (i - 1) * 0.27, top, 0.25, color=colour, label=kind if at == 0 else None)
                    panel.errorbar(at + (i - 1) * 0.27, top, [[top - low], [high - top]], color="#222", capsize=2)
        panel.set_xticks(range(len(shown)), [name.replace("_small_patch14", "_s14\n") for name in shown], fontsize=8)
        panel.set(title=title, ylim=(0, 100))
        panel.grid(axis="y", alpha=0.3)
    panels[0].set_ylabel("top-1 on test, %, 95 % interval")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


@click.command()
@click.option("--quick", is_flag=True, help="mobilenetv2_100 on digits only, under two minutes.")
@click.option("--json", "as_json", is_flag=True, help="One object of named figures on stdout.")
@click.option("--data-root", default="~/.cache/backbench-data", show_default=True, help="Where the image sets lie.")
@click.option("--out", default="cache/published_artefact", show_default=True, type=click.Path(path_type=Path))
@click.option("--figure", type=click.Path(path_type=Path), help="Draw it into this file.")
def main(quick, as_json, data_root, out, figure):
    """Repeat the published study's conditions on real weights, one at a time."""
    data_root = str(Path(data_root).expanduser())
    models, dataset = (MODELS[1:2], "digits") if quick else (MODELS, "caltech256")
    paths = [extract(model, scale, dataset, data_root, out) for model in models for scale in (1, SCALE)]
    paths += filter(None, (adapted(model, dataset, data_root, out) for model in models))
    probe(paths, out)
    found = figures(out)
    if figure:
        draw(found, figure)
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        for name, (top, low, high) in found.items():
            print(f"{name:60} {100 * top:5.1f} [{100 * low:.1f}, {100 * high:.1f}]")


if __name__ == "__main__":
    main()
