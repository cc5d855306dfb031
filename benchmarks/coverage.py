"""How often each of our 95 % intervals holds the truth, and each prediction set its class: simulated images.

    python benchmarks/coverage.py [--quick] [--json] [--draws N] [--heads N]

Every setting (accuracies, numbers of images, classes, correlations) is drawn 2,000 times and given to the functions
that the rows' intervals come from. Shown are the settings of each interval with the lowest and the highest coverage.
Of 2,000 draws a true 95 % varies by 0.5 points (one standard deviation), so that the lowest of fifty settings lies at
about 93.8 %. Prediction sets are those of 300 heads that were fitted on images drawn for each, see
``benchmarks/prediction_sets.py``. No data are read: ``--data-root`` is taken as by every benchmark, and not used.
"""

import itertools
import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from backbench import statistics
from backbench.coverage import SETS
from benchmarks import prediction_sets

ASKED = 0.935, 0.99
"""Share of the draws in which an interval of 95 % should hold the truth. Above it are settings with few errors, where
single images decide; the docstrings of ``backbench.statistics`` and ``backbench.accuracy`` say which."""

ACCURACIES = 0.6, 0.9, 0.98
SIZES = 30, 50, 100, 229, 500, 1000

PAIRS = (0.6, 0.5), (0.9, 0.6), (0.9, 0.85), (0.965, 0.9), (0.98, 0.8), (0.98, 0.97)
"""Accuracies on source and target, or of two heads."""

CORRELATIONS = 0.3, 0.6
"""Of two heads' errors, or of one head's on an image and on its corruption."""

ROUNDING = 1e-12

Setting = tuple[str, float, Callable]
"""What is simulated in words, the truth, and a function that draws a test set and gives the ends of its interval."""


def proportions(rng) -> Iterator[Setting]:
    """Top-1, top-5 and the accuracy of a class."""
    for p in ACCURACIES:
        for n in SIZES:
            yield f"{p} of {n}", p, lambda p=p, n=n: statistics.interval(rng.binomial(n, p), n)


def balanced(rng) -> Iterator[Setting]:
    """Balanced accuracy, of classes as large as each other or not, and as hard as each other or not."""
    from backbench import accuracy

    def ends(labels, truth):
        return accuracy.balanced(rng.random(len(labels)) < truth[labels], labels)[1:]

    for k, n in ((2, 60), (2, 1000), (10, 229), (10, 1000), (50, 500), (100, 1000), (256, 1000)):
        for shape, share in (("equal", np.ones(k)), ("unequal", np.exp(np.linspace(-1, 1, k)))):
            sizes = np.maximum(2, np.round(n * share / share.sum())).astype(int)
            labels = np.repeat(np.arange(k), sizes)
            for p in ACCURACIES:
                lean = np.linspace(-1, 1, k) * min(0.2, 1 - p)
                for hard, truth in (("alike", np.full(k, p)), ("small harder", p + lean), ("large harder", p - lean)):
                    told = f"{p} of {k} classes, {len(labels)} images, {shape}, {hard}"
                    yield told, truth.mean(), lambda labels=labels, truth=truth: ends(labels, truth)


def together(p: float, q: float, correlation: float, n: int, rng) -> tuple[np.ndarray, np.ndarray]:
    """Whether two of accuracies p and q, correlated as far as they can be, are right on n images: (n,) bool each."""
    both = min(p * q + correlation * (p * (1 - p) * q * (1 - q)) ** 0.5, p, q)
    cell = rng.choice(4, n, p=[both, p - both, q - both, 1 - p - q + both])
    return cell <= 1, cell % 2 == 0


def drops(rng) -> Iterator[Setting]:
    """The drop from source to target, of different images and of the same, and its share of the source's accuracy."""

    def ends(name, p, q, r, n, m):
        a, b = together(p, q, r, n, rng) if r else (rng.random(n) < p, rng.random(m) < q)
        found = statistics.drop(a, b, paired=r is not None)
        return found[f"{name}_low"], found[f"{name}_high"]

    for p, q in PAIRS:
        ways = [(f"{n} & {m}", None, n, m) for n, m in ((229, 30), (229, 60), (60, 229), (1000, 229))]
        ways += [(f"paired {n}, r {r}", r, n, n) for n in (60, 229, 1000) for r in CORRELATIONS]
        for told, *how in ways:
            for name, truth in (("drop", p - q), ("relative_drop", 1 - q / p)):
                yield f"{name}, {p} to {q}, {told}", truth, lambda x=(name, p, q, *how): ends(*x)


def differences(rng) -> Iterator[Setting]:
    """Two heads on the same images, and how far their drops are apart."""

    def apart(p, q, r, n, m):
        home, there = together(p, q, r, n, rng), together(p - 0.1, q - 0.2, r, m, rng)
        return statistics.drops_apart((home[0], there[0]), (home[1], there[1]))[1:]

    for p, q in PAIRS:
        for r in CORRELATIONS:
            for n in (60, 229, 1000):
                told = f"two heads, {p} and {q}, r {r}, {n} images"
                yield told, p - q, lambda x=(p, q, r, n): statistics.newcombe(*together(*x, rng))
            for n, m in ((60, 60), (229, 60), (1000, 229)):
                told = f"drops apart, {p} and {q} at home, r {r}, {n} & {m} images"
                yield told, -0.1, lambda x=(p, q, r, n, m): apart(*x)


def aurocs(rng) -> Iterator[Setting]:
    """AUROC, of scores that are normal (of equal spread, or the unknown's twice the known's) or the known's a power."""
    from scipy.special import ndtri

    def normal(a, n, m, spread):
        return rng.normal(ndtri(a) * (1 + spread**2) ** 0.5, 1, n), rng.normal(0, spread, m)

    def power(a, n, m):
        return rng.random(n) ** ((1 - a) / a), rng.random(m)

    for kind, scores in (("normal", partial(normal, spread=1)), ("wide", partial(normal, spread=2)), ("power", power)):
        for n, m in ((229, 100), (30, 30), (1000, 229)):
            for a in (0.6, 0.75, 0.9, 0.98):
                told = f"{kind}, {a} of {n} & {m}"
                yield told, a, lambda scores=scores, x=(a, n, m): statistics.auroc(*scores(*x))[1:]


def groups(rng) -> Iterator[Setting]:
    """Top-1 and balanced accuracy of images in groups, whose accuracies are of a Beta distribution of correlation r."""
    from backbench import accuracy

    def ends(p, r, group, labels):
        truth = rng.beta(p * (1 / r - 1), (1 - p) * (1 / r - 1), group[-1] + 1) if r else np.full(group[-1] + 1, p)
        return accuracy.between_groups(rng.random(len(group)) < truth[group], labels, group)

    for n, m in ((10, 10), (10, 50), (30, 20), (60, 2), (100, 5)):
        for shape, sizes in (("equal", np.full(n, m)), ("unequal", np.ceil(rng.gamma(1.0, m, n)).astype(int))):
            group = np.repeat(np.arange(n), sizes)
            kinds = (
                ("one class", group * 0),
                ("3 classes of groups", group % 3),
                ("3 across", np.arange(len(group)) % 3),
            )
            for (kind, labels), p, r in itertools.product(kinds, ACCURACIES, (0, 0.1, 0.4)):
                told = f"{p} of {n} groups of {m}, {shape}, {kind}, r {r}"
                yield told, p, lambda x=(p, r, group, labels): ends(*x)


UNKNOWN = "distance_05", "energy_05"
"""How often a known image is called unknown where 5 % should be."""

KINDS = {
    "top1": proportions,
    "groups": groups,
    "balanced": balanced,
    "drop": drops,
    "difference": differences,
    "auroc": aurocs,
}


def measure(draws: int, kind: str, *, every: int = 1) -> list[tuple[float, str]]:
    """Coverage and setting, lowest first, of each or only of ``every`` so many settings of a kind of interval."""
    found = []
    for told, truth, draw in itertools.islice(KINDS[kind](np.random.default_rng(0)), 0, None, every):
        ends = np.array([draw() for _ in range(draws)])
        held = (ends[:, 0] <= truth + ROUNDING) & (truth - ROUNDING <= ends[:, 1])
        found.append((float(held.mean()), told))
    return sorted(found)


def of_sets(heads: int, *, as_json: bool, **settings) -> dict:
    """The mean coverages by setting, of so many heads each; printed, unless they are wanted as JSON."""
    figures = {}
    if not as_json:
        print(f"prediction sets and images called unknown: means of {heads} heads, standard errors")
        print("val  classes  " + "".join(f"{name:>16}" for name in (*SETS, *UNKNOWN)))
    for found in prediction_sets.simulate(heads, **settings):
        n, k = found["n_val"], found["n_classes"]
        for end, told in (("", ""), ("_moved", "  moved by refitting on val too")):
            shown = [found[f"{key}{end}"] for key in (*(f"coverage_{name}" for name in SETS), *UNKNOWN)]
            figures |= {f"sets_{n}_{k}_{name}{end}": one[0] for name, one in zip((*SETS, *UNKNOWN), shown, strict=True)}
            if not as_json:
                print(f"{n:3}  {k:7}  " + "".join(f"{100 * a:10.2f} ± {100 * b:.2f}" for a, b in shown) + told)
    return figures


@click.command()
@click.option("--quick", is_flag=True, help="200 draws, and 5 heads.")
@click.option("--json", "as_json", is_flag=True, help="One object of named figures on stdout.")
@click.option("--draws", type=click.IntRange(1), default=2000, show_default=True, help="Test sets of each setting.")
@click.option("--heads", type=click.IntRange(2), default=300, show_default=True, help="Heads of each setting.")
@click.option("--data-root", help="Not used: nothing is read.", hidden=True)
def main(quick, as_json, draws, heads, data_root):
    """Simulate how often the 95 % intervals hold the truth, and prediction sets the class."""
    figures = {}
    for kind in KINDS:
        shares = measure(200 if quick else draws, kind)
        (lowest, where), (highest, there) = shares[0], shares[-1]
        outside = sum(not ASKED[0] <= share <= ASKED[1] for share, _ in shares)
        figures |= {f"{kind}_lowest": lowest, f"{kind}_highest": highest, f"{kind}_outside": outside}
        if not as_json:
            print(f"{kind}: {len(shares)} settings, {outside} of them not in 93.5 to 99 %")
            print(f"  lowest   {lowest:7.2%}  {where}\n  highest  {highest:7.2%}  {there}")
    figures |= of_sets(5 if quick else heads, as_json=as_json, **({"vals": (40, 100)} if quick else {}))
    if as_json:
        print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
