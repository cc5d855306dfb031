"""Which rule chooses the penalty of the logistic probe best, over many draws of real features.

    python benchmarks/penalty_rules.py [--draws N] [--quick] [--json] [--classes K] FILE...

Each draw takes some classes of a feature file and splits their images anew by the Caltech rule. Every penalty is fitted
on train and judged on val; the head is refitted on train+val for every penalty, and its accuracy on test read. A rule
only looks a penalty up. Printed are the mean test top-1, the points lost to the best penalty on test (mean, worst, and
standard deviation: the less, the less luck), and test cross-entropy.
"""

import json
import sys
from pathlib import Path

import click
import numpy as np
from scipy.special import log_softmax

sys.path.insert(0, str(Path(__file__).parent.parent))

from backbench.cache.features import open_file
from backbench.calibration import temperature
from backbench.data.splits import caltech_rule
from backbench.probe.logistic import GRID, PATH_TOLERANCE
from backbench.probe.softmax.objective import Rows
from backbench.probe.softmax.torch_objective import objective
from backbench.probe.subsets import Subset, moments
from benchmarks.choices import Recorded

VALUES = GRID[4::2]
"""Every other penalty, which is enough to tell rules apart."""

FOLDS = 5


def solutions(x: np.ndarray, labels: np.ndarray, k: int, *on: np.ndarray) -> list[list[np.ndarray]]:
    """Logits of each of ``on`` (M, D), one list a penalty, by heads fitted on ``x`` (N, D) and ``labels`` (N,)."""
    train = Subset(np.ascontiguousarray(x), labels)
    mean, scale = moments(train)
    solver, found = Recorded(objective(Rows(train, mean, scale, limit=1 << 40), k, device="cpu")), []
    standard = [((one - mean) / scale).astype(np.float32) for one in on]
    for c in VALUES:
        solver.solve(1 / (c * len(train)), PATH_TOLERANCE)
        found.append([one @ solver.weights[:, :-1].T + solver.weights[:, -1] for one in standard])
    return found


def losses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Cross-entropy of each image, (N,)."""
    return -log_softmax(logits.astype(float), axis=1)[np.arange(len(labels)), labels]


def draw(features: np.ndarray, labels: np.ndarray, classes: int | None, seed: int) -> dict[str, tuple[float, ...]]:
    """By rule: top-1 on test, points lost to the best penalty there, and cross-entropy on test."""
    rng = np.random.default_rng(seed)
    names = np.unique(labels)
    taken = np.sort(rng.permutation(names)[:classes])
    rows = rng.permutation(np.flatnonzero(np.isin(labels, taken)))
    x, y, k = features[rows], np.searchsorted(taken, labels[rows]), len(taken)
    split = caltech_rule([str(row) for row in rows], y, seed=seed)
    train, val, test = (np.flatnonzero(split == code) for code in range(3))
    both = np.concatenate([train, val])

    on_val = [z for (z,) in solutions(x[train], y[train], k, x[val])]
    loss = np.array([losses(z, y[val]) for z in on_val])
    right = np.array([(z.argmax(1) == y[val]).mean() for z in on_val])
    scaled = [losses(z / temperature(z, y[val]), y[val]).mean() for z in on_val]
    folded = np.zeros((len(VALUES), len(both)))
    from sklearn.model_selection import StratifiedKFold

    for fit, held in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(both, y[both]):
        for i, (z,) in enumerate(solutions(x[both[fit]], y[both[fit]], k, x[both[held]])):
            folded[i, held] = losses(z, y[both[held]])

    best = int(loss.mean(1).argmin())
    error = (loss - loss[best]).std(1) / len(val) ** 0.5
    chosen = {
        "top-1 on val, ties to cross-entropy": int(np.lexsort([loss.mean(1), -right])[0]),
        "cross-entropy on val": best,
        "the strongest within one standard error": int((loss.mean(1) <= loss[best].mean() + error).argmax()),
        "cross-entropy on val, temperature scaled": int(np.argmin(scaled)),
        f"cross-entropy over {FOLDS} folds of train+val": int(folded.mean(1).argmin()),
    }
    on_test = [z for (z,) in solutions(x[both], y[both], k, x[test])]
    top1 = np.array([(z.argmax(1) == y[test]).mean() for z in on_test])
    return {rule: (top1[i], top1.max() - top1[i], losses(on_test[i], y[test]).mean()) for rule, i in chosen.items()}


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--draws", default=20, show_default=True)
@click.option("--classes", type=int, help="Classes of each draw. default: all")
@click.option("--quick", is_flag=True, help="Two draws.")
@click.option("--json", "as_json", is_flag=True, help="One object of named figures on stdout.")
@click.option("--data-root", hidden=True, help="Not used: the feature files are named.")
def main(files, draws, classes, quick, as_json, data_root):
    """Compare rules that choose the penalty, on draws of the feature FILES."""
    figures = {}
    for file in files:
        with open_file(file) as opened:
            done = opened.done == 1
            features, labels = np.asarray(opened.features[done], np.float32), opened.labels[done]
        found = [draw(features, labels, classes, seed) for seed in range(2 if quick else draws)]
        for rule in found[0]:
            top1, lost, loss = np.array([one[rule] for one in found]).T
            figures[f"{file.parent.name} {file.stem}: {rule}"] = {
                "top1": top1.mean(), "lost": lost.mean(), "lost_deviation": lost.std(), "lost_worst": lost.max(),
                "cross_entropy": loss.mean(), "draws": len(found),
            }  # fmt: skip
    if as_json:
        print(json.dumps(figures, indent=2))
        return
    for name, values in figures.items():
        print(f"{name:90}", *(f"{key} {value:.4f}" for key, value in values.items()))


if __name__ == "__main__":
    main()
