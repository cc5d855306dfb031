"""How fast a training step is beside the bare forward and backward pass, and what gradient checkpointing saves.

    python benchmarks/finetune.py [--quick] [--json] [--model NAME]

Bare: forward, cross-entropy and backward of the same model on the same noise, nothing else. Step: finetune's, with
clipping, the optimizer, the moving average and mixing, in turns with it. Fed: the same with images made for it, as a
user has it, after them. One process; medians of the rounds' ratios. Memory: the most that a process of its own held,
less what it held before the first step.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

ASKED = {"step_share": 0.9}
"""What the project set out for: at least."""

BATCH = 32


def made(model: str, *, checkpointing: bool = False, batch_size: int = BATCH):
    """A Trainer for ``model`` with random weights and the recipe ``full``, a batch, and the loader's batches."""
    import timm
    import torch

    from backbench.allocator import keep_freed_memory
    from backbench.data.imageset import ImageSet
    from backbench.finetune.dataloader import Batches, Images, loader
    from backbench.finetune.recipe import make
    from backbench.finetune.train import Trainer
    from backbench.training import setup

    keep_freed_memory()
    accelerator, _ = setup.accelerator("auto", "auto")
    network = timm.create_model(model, num_classes=10, drop_path_rate=0.1)
    network = network.to(accelerator.device, memory_format=torch.channels_last)
    network.set_grad_checkpointing(checkpointing)
    config = timm.data.resolve_data_config({}, model=network)
    rng = np.random.default_rng(0)
    n = 4 * batch_size
    pixels = rng.integers(0, 255, (n, 300, 400, 3), np.uint8)
    names = [str(k) for k in range(10)]
    imageset = ImageSet("noise", [str(i) for i in range(n)], np.arange(n) % 10, np.zeros(n), names, pixels=pixels)
    recipe = make("full", (f"batch_size={batch_size}", "final_epochs=0"), strategy="full", epochs=10_000)
    images = Images(imageset, config, recipe, seed=0)
    trainer = Trainer(
        network,
        recipe,
        images,
        np.arange(n),
        accelerator,
        n_classes=10,
        evaluate=None,
        folder=Path(tempfile.mkdtemp()),
        identity={},
        seed=0,
    )
    batches = Batches(np.arange(n), batch_size, epochs=10_000, seed=0)
    batch = (
        torch.randn(batch_size, *config["input_size"]).contiguous(memory_format=torch.channels_last),
        torch.arange(batch_size) % 10,
    )
    return trainer, batch, loader(images, batches, accelerator, workers=1)


def bare(trainer, batch) -> None:
    """Forward and backward."""
    import torch

    x, y = (one.to(trainer.accelerator.device) for one in batch)
    with trainer.accelerator.autocast():
        logits = trainer.model(x)
    torch.nn.functional.cross_entropy(logits.float(), y).backward()
    trainer.optimizer.zero_grad(set_to_none=True)


def speeds(figures: dict, model: str, rounds: int, *, batch_size: int = BATCH, fed: bool = True) -> None:
    """Images/s of the three, in turns, and the shares of the bare pass. ``fed`` may be left out."""
    import torch

    from backbench.finetune import strategies

    trainer, batch, stream = made(model, batch_size=batch_size)
    strategies.train_mode(trainer.model, trainer.recipe)
    ways = {
        "bare": lambda: bare(trainer, batch),
        "step": lambda: trainer.step(*batch, 0, 0),
        "fed": lambda: trainer.step(*next(stream), 0, 0),
    }
    seconds = {name: [] for name in ways}
    # Fed comes last and alone: once its worker runs, it makes images while the others compute.
    for names in (("bare", "step"), *([("fed",)] if fed else [])):
        for turn in range(rounds + 1):
            for name in names:
                started = time.perf_counter()
                ways[name]()
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                if turn:
                    seconds[name].append(time.perf_counter() - started)
    seconds = {name: each for name, each in seconds.items() if each}
    figures |= {f"{name}_images_per_second": batch_size / median(each) for name, each in seconds.items()}
    for name in seconds.keys() - {"bare"}:
        ratios = [a / b for a, b in zip(seconds["bare"], seconds[name], strict=True)]
        figures[f"{name}_share"] = median(ratios)


def memory(model: str, checkpointing: bool) -> float:
    """Most megabytes that two steps take beyond what lay there before, on the CPU; run in a process of its own."""
    import resource

    from backbench.finetune import strategies

    trainer, batch, _ = made(model, checkpointing=checkpointing)
    strategies.train_mode(trainer.model, trainer.recipe)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(2):
        trainer.step(*batch, 0, number)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def alone(model: str, checkpointing: bool) -> float:
    """The same in a process of its own."""
    code = f"from benchmarks.finetune import memory; print(memory({model!r}, {checkpointing}))"
    root = Path(__file__).parent.parent
    return float(subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, check=True).stdout)


@click.command()
@click.option("--quick", is_flag=True, help="At most three rounds, no memory.")
@click.option("--json", "as_json", is_flag=True, help="One object of named figures on stdout.")
@click.option("--model", default="tf_efficientnet_lite0", show_default=True, help="A timm model; weights are random.")
@click.option("--rounds", default=10, show_default=True, help="Of each way, in turns.")
def main(quick, as_json, model, rounds):
    """Measure the training step beside the bare pass."""
    figures: dict = {}
    if not quick:  # first, since a process inherits the most that its parent ever held
        figures |= {"memory_mb": alone(model, False), "memory_mb_checkpointing": alone(model, True)}
    speeds(figures, model, min(rounds, 3) if quick else rounds)
    if as_json:
        print(json.dumps(figures, indent=2))
        return
    for name, value in figures.items():
        print(f"{name:36} {value:10.4g}" + (f"   asked: {ASKED[name]}" if name in ASKED else ""))


if __name__ == "__main__":
    main()
