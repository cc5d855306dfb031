"""How often prediction sets hold an image's class, and how often a known image is called unknown, by simulation.

Images are drawn alike for train, val and test, and go the whole way of a probe: the penalty and the temperature are
chosen on val, the thresholds are val's, and the head is refitted on train and val. Beside it stands the head that was
not refitted. ``benchmarks/coverage.py`` runs this.
"""

import itertools
from collections.abc import Iterator

import numpy as np

from backbench import calibration, coverage
from backbench.accuracy import Scored
from backbench.probe.logistic import GRID, START, Logistic
from backbench.probe.outliers import Outliers
from backbench.probe.subsets import Splits, Subset
from backbench.progress import silenced
from backbench.reference import Reference, energy

VALS, CLASSES = (40, 100, 400), (3, 20)
"""Numbers of images in val and of classes. Train is seven times as large, as in a split of ours."""

DIM, TESTED = 32, 1000
"""Features of an image, and images of test: of each draw a coverage is known to 1 point, beside 5 by a val of 40."""

APART = {3: 0.4, 20: 0.6}
"""Standard deviation of the classes' centres, by the number of classes, in units of an image's own. Of 100 test
images 78 to 87 are then classified rightly."""


def draw(rng, k: int, n: int) -> tuple[Splits, Subset]:
    """Return train, val and both together, and test: images around a centre for each class, classes as they fall."""
    centres = APART[k] * rng.normal(size=(k, DIM))
    labels = rng.integers(k, size=8 * n + TESTED)
    x = Subset((centres[labels] + rng.normal(size=(len(labels), DIM))).astype(np.float32), labels)
    return Splits(x[: 7 * n], x[7 * n : 8 * n], x[: 8 * n]), x[8 * n :]


def measured(data: Splits, test: Subset, *, k: int) -> tuple[dict, dict]:
    """Return coverages, sizes and shares called unknown, of the head refitted on val and of that before."""
    head = Logistic(data, n_classes=k, seed=0)
    low, high = sorted((START, head.protocol["C"]))  # the same penalty, on a shorter path
    short = tuple(c for c in GRID if low <= c <= high)
    alone = Logistic(data._replace(final=data.train), n_classes=k, seed=0, grid=short)
    t = calibration.temperature(head.val_scores, data.val.labels)
    val, outliers = head.val_scores / t, Outliers.of_train(data.train)
    shares = calibration.probabilities(head.val_scores, t)
    reference = Reference.of_val(shares, val, data.val.labels, outliers.over(data.val))
    return tuple(_figures(one, test, reference, outliers, t=t) for one in (head, alone))


def _figures(head: Logistic, test: Subset, reference: Reference, outliers: Outliers, *, t: float) -> dict[str, float]:
    scores = head.scores(test.features)
    found, _ = coverage.assess(Scored(scores, test.labels), reference, t=t)
    found |= coverage.called_unknown(reference, "distance", distance=outliers.over(test))
    found |= coverage.called_unknown(reference, "energy", energy=energy(scores / t))
    return {key: value for key, value in found.items() if not key.endswith(("_low", "_high", "_by"))}


def simulate(draws: int, *, vals=VALS, classes=CLASSES, seed: int = 0) -> Iterator[dict]:
    """Yield for each setting ``n_val`` and ``n_classes``, and for each figure (mean, standard error) over the draws.

    Figures are named as in ``coverage.KEYS``; ``_alone`` is the head before it was refitted on val, and ``_moved`` how
    far that moved it.
    """
    for k, n in itertools.product(classes, vals):
        rng = np.random.default_rng([seed, k, n])
        with silenced():  # the chosen C is the end of the shorter path's range
            drawn = [measured(*draw(rng, k, n), k=k) for _ in range(draws)]
        found = {"n_val": n, "n_classes": k}
        for key in drawn[0][0]:
            both = np.array([[one[key] for one in pair] for pair in drawn])
            for end, values in (("", both[:, 0]), ("_alone", both[:, 1]), ("_moved", both[:, 0] - both[:, 1])):
                found[f"{key}{end}"] = float(values.mean()), float(values.std(ddof=1) / draws**0.5)
        yield found
