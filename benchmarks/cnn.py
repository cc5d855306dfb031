"""How much work and time the CIFAR network's training takes beside the reference's, step by step in one run.

    python benchmarks/cnn.py [--quick] [--json] [--size base] [--results-dir DIR]

The reference is airbench94 in its Muon version (KellerJordan/cifar10-airbench), as the preset ``reference`` of
cnn/recipe.py: its network, batch of 2,000, eight epochs of 50,000. Both run on the same loop here, on noise, which
takes the time that images do; steps of either in turns, medians. Seconds of a whole run are its steps times the
median step of each kind, without val, test and compiling. The peak is that of a product of two matrices of 2,048 x
2,048 (8,192 on a GPU) in bfloat16, on all cores, in the same run. Accuracies, beside operations and seconds, are those
of the rows in ``--results-dir``, as ``cnn train`` left them there. CIFAR-10 of ../shared/data is a JPEG re-encoding,
clearly harder than the original: there the reference's own code ends at 90.9 %, and took 603 s on 2 cores with Intel's
AMX.
"""

import json
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from statistics import mean, median, stdev

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

IMAGES = 50_000
"""Of CIFAR-10's training set, in its usual split."""

ASKED = {
    "seconds_over_reference": "at most 0.6",
    "share_of_peak": "at least 0.3",
    "input_share": "at most 0.05",
    "top1": "at least 0.91, the mean of at least 3 runs",
}
"""What the project set out for."""


class Side:
    """One preset's training steps, on noise."""

    def __init__(self, size: str, accelerator, *, compiled: bool, batch: int | None):
        import torch

        from backbench.cnn import job, recipe
        from backbench.cnn.train import Trainer

        own = recipe.PRESETS[size]
        self.recipe = recipe.fitted(replace(own, batch_size=batch or own.batch_size), IMAGES)
        n = 2 * self.recipe.batch_size
        rng = np.random.default_rng(0)
        images = torch.from_numpy(rng.integers(0, 256, (n, self.recipe.pixels, self.recipe.pixels, 3), np.uint8))
        labels = torch.from_numpy(rng.integers(0, 10, n))
        network = job.network(self.recipe, 10, 0).model
        network.to(accelerator.device, memory_format=torch.channels_last).train()
        self.trainer = Trainer(
            network,
            replace(self.recipe, epochs=1),  # of two steps here: where in the run a step is, ``kinds`` says
            images.to(accelerator.device),
            labels.to(accelerator.device),
            accelerator,
            mean=(0.5,) * 3,
            std=(0.25,) * 3,
            evaluate=None,
            folder=Path(tempfile.mkdtemp()),
            identity={},
            seed=0,
            compiled=compiled,
        )
        self.kinds = recipe.kinds(self.recipe, IMAGES)
        self.rows, self.shown = np.arange(self.recipe.batch_size), {}
        self.seconds, self.inputs = defaultdict(list), defaultdict(list)

    def flops(self, kind) -> int:
        """Of one step."""
        from backbench.cnn.model import training_flops

        self.trainer.model.whiten.bias.requires_grad_(kind[1])
        return self.recipe.batch_size * training_flops(self.trainer.model, kind[0])

    def step(self, kind, *, timed: bool) -> None:
        trainer, (side, bias) = self.trainer, kind
        if side not in self.shown:  # else what a GPU captured would be lost with every change
            trainer.show(side)
            self.shown[side] = trainer.varied, trainer.replay
        trainer.varied, trainer.replay = self.shown[side]
        trainer.at.step = 0 if bias else 1  # of two: at half of the run that bias is at rest
        started = time.perf_counter()
        trainer.varied(trainer.varied.draw(self.rows, 0, np.random.default_rng(0)).to(trainer.labels.device))
        wait(trainer.labels.device)
        made = time.perf_counter()
        trainer.step(self.rows).item()
        if timed:
            self.inputs[kind].append(made - started)
            self.seconds[kind].append(time.perf_counter() - made)

    def whole(self, of) -> float:
        """A figure of each step, summed over the run."""
        return sum(n * of(kind) for kind, n in self.kinds.items())


def wait(device) -> None:
    """Until a GPU has done what it was given."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak(device) -> float:
    """FLOP/s of a product in bfloat16, the best of five."""
    import torch

    n, best = 8192 if device.type == "cuda" else 2048, 0.0
    a = torch.randn(n, n, device=device).to(torch.bfloat16)
    for _ in range(5):
        started = time.perf_counter()
        a @ a
        wait(device)
        best = max(best, 2 * n**3 / (time.perf_counter() - started))
    return best


def layers(side: Side) -> list[dict]:
    """Where the time of a step goes, by operation and the shapes it gets; the largest first, 95 % of it."""
    from torch.profiler import ProfilerActivity, profile

    kind, gpu = max(side.kinds), side.trainer.labels.device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if gpu else ProfilerActivity.CPU], record_shapes=True) as seen:
        side.step(kind, timed=False)

    def spent(one) -> float:
        return one.self_device_time_total if gpu else one.self_cpu_time_total

    events = [one for one in seen.key_averages(group_by_input_shape=True) if spent(one)]
    total, found, so_far = sum(map(spent, events)), [], 0.0
    for one in sorted(events, key=lambda one: -spent(one)):
        shapes = " ".join(
            "x".join(map(str, shape)) for shape in one.input_shapes[:3] if shape and isinstance(shape, list)
        )
        share = spent(one) / total
        found.append({"operation": one.key, "shapes": shapes, "share": share, "ms": spent(one) / 1e3})
        so_far += share
        if so_far > 0.95:
            break
    return found


def measured(results_dir: Path) -> list[dict]:
    """Accuracy against operations and seconds: one record a data set, method and set of settings, cheapest first."""
    from backbench import rows

    groups = defaultdict(list)
    for row in rows.read(results_dir):
        if row["stage"] == "cnn" and "evaluated" not in row["protocol"]:
            groups[row["dataset"], row["method"], row.get("train_flops") or 0].append(row)
    found = []
    for (dataset, method, flops), same in sorted(groups.items(), key=lambda item: (item[0][0], item[0][2])):
        tops = [row["top1"] for row in same]
        found.append(
            {
                "dataset": dataset,
                "method": method,
                "runs": len(same),
                "top1": mean(tops),
                "deviation": stdev(tops) if len(tops) > 1 else None,
                "pflop": flops / 1e15,
                "train_seconds": median(row.get("train_seconds") or float("nan") for row in same),
            }
        )
    return found


def compare(ours: Side, theirs: Side, rounds: int) -> dict:
    """Steps of both in turns, and the figures that follow."""
    device = ours.trainer.labels.device
    warm = 2 if device.type == "cuda" else 1  # the first one compiles, a GPU captures the second
    for turn in range(warm + rounds):
        for side in (ours, theirs):
            for kind in side.kinds:
                side.step(kind, timed=turn >= warm)
    figures, top = {}, peak(device)
    for name, side in (("ours", ours), ("reference", theirs)):
        seconds = side.whole(lambda kind, side=side: median(side.seconds[kind]))
        figures |= {
            f"{name}_pflop": side.whole(side.flops) / 1e15,
            f"{name}_seconds": seconds,
            f"{name}_flops_per_second": side.whole(side.flops) / seconds,
        }
        inputs = side.whole(lambda kind, side=side: median(side.inputs[kind]))
        if name == "ours":
            figures["input_share"] = inputs / seconds
    figures |= {
        "pflop_over_reference": figures["ours_pflop"] / figures["reference_pflop"],
        "seconds_over_reference": figures["ours_seconds"] / figures["reference_seconds"],
        "peak_flops_per_second": top,
        "share_of_peak": figures["ours_flops_per_second"] / top,
        "reference_share_of_peak": figures["reference_flops_per_second"] / top,
    }
    return figures


@click.command()
@click.option("--quick", is_flag=True, help="Two rounds, of 250 images a step on both sides.")
@click.option("--json", "as_json", is_flag=True, help="One object of named figures on stdout.")
@click.option("--size", default="base", show_default=True, help="The preset held against the reference.")
@click.option("--batch", type=int, help="Images a step on both sides.  [default: each one's own]")
@click.option("--rounds", default=7, show_default=True, help="Of steps, in turns.")
@click.option("--compile/--no-compile", default=False, show_default=True, help="Both sides alike.")
@click.option("--results-dir", type=click.Path(path_type=Path), default=Path("results"), show_default=True)
def main(quick, as_json, size, batch, rounds, compile, results_dir):
    """Measure the network's training beside the reference's."""
    from backbench.allocator import keep_freed_memory
    from backbench.training.setup import accelerator

    keep_freed_memory()
    place, _ = accelerator("auto", "auto")
    how = {"compiled": compile and not quick, "batch": batch or (250 if quick else None)}
    ours, theirs = (Side(one, place, **how) for one in (size, "reference"))
    figures = compare(ours, theirs, min(rounds, 2) if quick else rounds)
    table, curve = layers(ours), measured(results_dir)
    if as_json:
        print(json.dumps(figures | {"layers": table, "curve": curve}, indent=2))
        return
    for name, value in figures.items():
        print(f"{name:28} {value:12.4g}" + (f"   asked: {ASKED[name]}" if name in ASKED else ""))
    print("\nwhere a step's time goes")
    for one in table:
        print(f"{100 * one['share']:5.1f} % {one['ms']:8.1f} ms  {one['operation']}  {one['shapes']}")
    if curve:
        print(f"\naccuracy by work; asked of base: {ASKED['top1']}")
    for one in curve:
        spread = f" ± {100 * one['deviation']:.2f}" if one["deviation"] is not None else ""
        print(
            f"{one['dataset']:12} {one['method']:22} {one['pflop']:8.3f} PFLOP {one['train_seconds']:8.0f} s  "
            f"{100 * one['top1']:.2f}{spread} %  {one['runs']} run{'s' if one['runs'] > 1 else ''}"
        )


if __name__ == "__main__":
    main()
