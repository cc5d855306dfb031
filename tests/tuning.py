"""Small pictures to tune timm's tiny models on, and the command, in this process or in one to be killed."""

import importlib
import multiprocessing
import os

import numpy as np
from accelerate import Accelerator
from click.testing import CliRunner
from PIL import Image

from backbench.data import registry
from backbench.finetune.cli import main

CLASSES = ("ant", "bee", "cat")


def pictures(folder, *, train=8, val=5, test=6, classes=CLASSES, seed=0):
    """Class folders of noise with a tint in train/, val/ and test/; gives ``folder``."""
    rng = np.random.default_rng(seed)
    for split, n in (("train", train), ("val", val), ("test", test)):
        for k, name in enumerate(classes):
            (folder / split / name).mkdir(parents=True)
            for i in range(n):
                noise = rng.integers(0, 200, (5, 5, 3), dtype=np.uint8)
                noise[..., k % 3] += 40
                Image.fromarray(noise).resize((48, 40)).save(folder / split / name / f"{i:02d}.png")
    return folder


def imageset(folder, seed=42):
    return registry.load(f"folder:{folder}", data_root=folder, seed=seed)


def accelerator():
    """On the CPU, in float32, as ``line`` has it too: a process has one."""
    return Accelerator(cpu=True, mixed_precision="no", project_dir=".")


def line(tmp_path, *args, command="simple", model="test_resnet", strategy=None):
    """The command's arguments for a quick run in ``tmp_path``."""
    words = ["--dataset", f"folder:{tmp_path / 'images'}", "--device", "cpu", "--precision", "float32"]
    words += ["--results-dir", tmp_path / "results"]
    if command in ("simple", "full"):
        words += ["--cache-dir", tmp_path / "cache", "--weights", "random", "--workers", "0", "--batch-size", "8"]
        words += ["--model", model] + (["--strategy", strategy] if strategy else [])
        words += [] if "--out" in args else ["--out", tmp_path / "run"]
        words += [] if "--epochs" in args else ["--epochs", "2"]
    return [str(word) for word in (command, *words, *args)]


def tune(*args, code=0, **how):
    """click's result of the command in this process."""
    result = CliRunner().invoke(main, line(*args, **how))
    assert result.exit_code == code, result.output
    return result


def in_child(words, room="finetune") -> multiprocessing.Process:
    """The room's command in a process, and process group, of its own, from a server that has imported all and trained
    nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["tests.tuning", "accelerate", "timm", "backbench.finetune.run", "backbench.cnn.run"]
    )
    process = context.Process(target=_child, args=(words, room))
    process.start()
    return process


def _child(words, room):
    os.setpgrp()
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    importlib.import_module(f"{room}.cli").main(words)
