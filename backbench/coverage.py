"""How often the prediction sets of images hold their class, and how large the sets are: for rows and for details.

The thresholds are those of ``backbench.reference``, from val. Like an accuracy, a coverage is of one head: over many
heads, each with a val of its own, the mean is the level, and with M images of val single ones lie around it with a
standard deviation of sqrt(level (1 - level) / (M + 2)) (V. Vovk 2012, Conditional validity of inductive conformal
predictors). ``benchmarks/coverage.py`` simulates it with all that is chosen on val.
"""

from collections.abc import Callable

import numpy as np

from backbench import accuracy, calibration, conformal
from backbench.accuracy import Scored
from backbench.progress import tell
from backbench.reference import Reference
from backbench.statistics import interval

LEVELS = (90, 95)
"""Percent of images whose class the sets are made to hold."""

SETS = {f"{kind}_{level}": (kind, level) for kind in conformal.KINDS for level in LEVELS}
"""The sets that rows and details tell of, by name: ``lac_90`` and so on."""

KEYS = tuple(
    key for name in SETS for key in (*(f"coverage_{name}{end}" for end in ("", "_low", "_high")), f"set_size_{name}")
)
"""A row's keys. Coverages are 0..1 with 95 % intervals, sizes are mean numbers of classes."""

PROTOCOL = "conformal, by the calibrated probabilities: LAC and RAPS, thresholds of val's under a head not fitted on it"
"""What a row should say of these figures."""

FALSE_ALARMS = 5
"""Percent of known images that may be called unknown: rows tell what comes of it."""

UNKNOWN_KEYS = (
    "unknown_by",
    *(
        f"{name}_{FALSE_ALARMS:02d}{end}"
        for name in ("unknown_found", "unknown_false", "source_unknown_false")
        for end in ("", "_low", "_high")
    ),
)
"""A row's keys on another data set: the score that tells what is unknown, and the shares (0..1) that are called so, of
unknown images, of the target's known images, and of the source's test images of the same classes."""


def too_small(n_val: int | None) -> str:
    """Return why there is no coverage at some level with ``n_val`` images of val, "" where there is at every one."""
    needed = {level: conformal.images_needed(level / 100) for level in LEVELS}
    lacking = " and ".join(f"{n} for {level} %" for level, n in needed.items() if n_val is not None and n_val < n)
    return lacking and f"Val has {n_val} images, too few for prediction sets: they take {lacking}."


def say(what: object, n_val: int) -> None:
    """Tell where the val of ``what`` is too small."""
    if line := too_small(n_val):
        tell(f"{what}: {line}")


def assess(
    scored: Scored, reference: Reference | None, *, t: float, of: np.ndarray | None = None, n_names: int | None = None,
    limits: Callable = interval, groups: np.ndarray | None = None,
) -> tuple[dict, dict]:  # fmt: skip
    """Return the figures for a row, named as in ``KEYS``, and the same by class for ``details``.

    ``scored`` holds logits (N, K), which are divided by the temperature ``t``, and labels (N,). With ``of`` (K,) labels
    are numbers below ``n_names`` that class k stands for, -1 for none: a set covers an image if it holds a class that
    stands for the image's label. ``limits`` and ``groups`` are as in ``accuracy.figures``. Figures are None at a level
    for which val is too small, and there are none without a reference.
    """
    if reference is None:
        return {}, {}
    figures, kept = dict.fromkeys(KEYS), {}
    labels, k = scored.labels, n_names or scored.n_classes
    n = np.bincount(labels, minlength=k)
    for name, (covered, size) in sets_of(scored, reference, t=t, of=of).items():
        figures |= share(f"coverage_{name}", covered, limits=limits, groups=groups)
        figures[f"set_size_{name}"] = float(size.mean())
        # A class without test images has no mean.
        means = [np.bincount(labels, weights=one, minlength=k) / np.where(n, n, np.nan) for one in (covered, size)]
        kept[name] = {"coverage": means[0].tolist(), "size": np.round(means[1], 4).tolist()}
    return figures, {"prediction_sets": kept}


def sets_of(
    scored: Scored, reference: Reference, *, t: float, of: np.ndarray | None = None
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return by name in ``SETS`` whether each image's set holds its class (N,) bool, and how many it holds (N,) int.

    Levels for which val is too small are left out. Arguments are as in ``assess``.
    """
    wanted = {name: to for name, to in SETS.items() if len(reference) >= conformal.images_needed(to[1] / 100)}
    found = {name: (np.empty(len(scored), bool), np.empty(len(scored), np.int64)) for name in wanted}
    of = np.arange(scored.n_classes) if of is None else of
    step = max(1, accuracy.BLOCK // max(1, scored.n_classes))
    for start in range(0, len(scored), step):
        rows = slice(start, start + step)
        shares = calibration.probabilities(scored.scores[rows], t)
        own = of == scored.labels[rows, None]
        for name, (kind, level) in wanted.items():
            held = reference.sets(shares, level=level / 100, kind=kind)
            found[name][0][rows], found[name][1][rows] = (held & own).any(axis=1), held.sum(axis=1)
    return found


def share(
    name: str, those: np.ndarray, *, limits: Callable = interval, groups: np.ndarray | None = None
) -> dict[str, float]:
    """Return the share of ``those`` (N,) bool, with its 95 % limits ``_low`` and ``_high``, by groups (N,) if given."""
    if groups is None:
        low, high = limits(those.sum(), len(those))
    else:
        low, high = accuracy.between_groups(those, np.zeros(len(those), int), groups, limits=limits)
    return {name: float(those.mean()), f"{name}_low": float(low), f"{name}_high": float(high)}


def called_unknown(reference: Reference | None, by: str | None, **parts: np.ndarray) -> dict:
    """Return the shares of images that are called unknown at ``FALSE_ALARMS``, as keys of ``UNKNOWN_KEYS``.

    ``parts`` are the scores (N,) of each kind of images by the score ``by``. There are no figures without a reference,
    or where val is too small for the rate.
    """
    if reference is None or by is None or len(reference) < conformal.images_needed(1 - FALSE_ALARMS / 100):
        return {}
    found = {"unknown_by": by}
    for name, scores in parts.items():
        if len(scores):
            found |= share(f"{name}_{FALSE_ALARMS:02d}", reference.p_known(by, scores) <= FALSE_ALARMS / 100)
    return found
