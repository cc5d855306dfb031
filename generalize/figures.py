"""A head's figures on another data set: how much of its accuracy and of its calibration is left."""

import numpy as np

from backbench import accuracy, calibration, coverage, details, statistics
from backbench.accuracy import Scored
from backbench.data.maps import Groups
from backbench.predict.predictors import Scores
from backbench.reference import Reference

SUREST = 10
"""Wrong answers that a row names, the surest first."""


def collapse(scores: np.ndarray, groups: Groups, *, mapped: bool, t: float = 1.0) -> np.ndarray:
    """Scores of the K classes as scores of the G groups, (N, K) to (N, G), or with the classes in none of them behind
    (N, G + rest) unless only ``mapped`` classes may be said.

    A group's probability is the sum of its classes': whether a bicycle was said is not asked of the mountain and the
    touring bike by turns. Probabilities are those of the softmax of scores / ``t``, with the temperature t that was
    found for the head, without which the scores of ridge and centroid are no logits. So are those of what comes back,
    where single classes keep their scores.
    """
    columns = []
    for group in range(len(groups.names)):
        some = scores[:, groups.of_source == group]
        columns.append(
            some[:, 0] if some.shape[1] == 1 else t * np.logaddexp.reduce(some.astype(np.float64) / t, axis=1)
        )
    rest = scores[:, groups.of_source < 0]
    found = np.stack(columns, axis=1)
    return found if mapped or not rest.shape[1] else np.concatenate([found, rest], axis=1)


def present(groups: Groups, target: Scores) -> Groups:
    """The groups without those that the target has no image of: they are the source's other classes then."""
    seen = np.unique(groups.of_target[target.labels])
    seen = seen[seen >= 0]
    place = np.full(len(groups.names) + 1, -1)
    place[seen] = np.arange(len(seen))
    return Groups([groups.names[g] for g in seen], place[groups.of_source], place[groups.of_target])


def assess(
    source: Scores, target: Scores, groups: Groups, classes: list[str], *, t: float, paired=False,
    reference: Reference | None = None,
):  # fmt: skip
    """Figures for the row, and what goes beside it.

    Both readings: ``top1`` among all classes that the head knows, ``top1_mapped_classes`` among those that correspond.
    The source's figures (``source_...``) are on its test images of these classes, and in the same groups, so that the
    two are the same question. ``t`` is the temperature found on the source's val, at which classes are added up to
    groups; figures before scaling (``nll``, ``ece``) add them up at 1. ``paired``: the target's images are the
    source's, made worse. With the ``reference`` from the source's val both sides have the coverage of prediction sets,
    which cover an image if they hold any class of its group.
    """
    sides = {}
    for name, of, to in (("source", source, groups.of_source), ("target", target, groups.of_target)):
        labels = to[of.labels]
        sides[name] = (
            of.scores[labels >= 0],
            labels[labels >= 0],
            [i for i, g in zip(of.ids, labels, strict=True) if g >= 0],
        )
    figures, right, beside = {"n": len(sides["target"][1]), "n_source": len(sides["source"][1])}, {}, {}
    names = [*groups.names, *(name for name, g in zip(classes, groups.of_source, strict=True) if g < 0)]
    for name, (scores, labels, _) in sides.items():
        prefix = "source_" if name == "source" else ""
        whole = Scored(collapse(scores, groups, mapped=False, t=t), labels)
        accuracies = accuracy.figures(whole)
        unscaled = Scored(collapse(scores, groups, mapped=False), labels)
        calibrated, beside[name] = calibration.assess(whole, t=t, unscaled=unscaled)
        right[name] = whole.right
        right[f"{name}_mapped"] = inside = Scored(collapse(scores, groups, mapped=True, t=t), labels).right
        ends = statistics.interval(inside.sum(), len(inside))
        of, n_names = groups.of_source, len(names)
        covered, by_class = coverage.assess(Scored(scores, labels), reference, t=t, of=of, n_names=n_names)
        beside[name] |= by_class
        told = accuracies | calibrated | covered | dict(zip(MAPPED, map(float, (inside.mean(), *ends)), strict=True))
        figures |= {f"{prefix}{key}": value for key, value in told.items() if not (prefix and key == "temperature")}
    figures |= statistics.drop(right["source"], right["target"], paired=paired)
    of_mapped = statistics.drop(right["source_mapped"], right["target_mapped"], paired=paired)
    figures |= {f"{key}_mapped": of_mapped[key] for key in ("drop", "drop_low", "drop_high")}
    kept, ids = beside["target"], sides["target"][2]
    figures["most_confident_errors"] = surest(kept, names, ids)
    return figures, {
        "class_names": names,
        "ids_digest": details.ids_digest(ids),
        "curve": None,
        **kept,
        "source": {"right": right["source"].astype(int).tolist(), "ids_digest": details.ids_digest(sides["source"][2])},
    }


MAPPED = ("top1_mapped_classes", "top1_mapped_classes_low", "top1_mapped_classes_high")


def surest(kept: dict, names: list[str], ids: list[str]) -> list[dict]:
    """The ``SUREST`` images that are wrong with the most confidence: id, label, predicted, confidence (0..1)."""
    wrong = [i for i, (a, b) in enumerate(zip(kept["predicted"], kept["labels"], strict=True)) if a != b]
    wrong = sorted(wrong, key=lambda i: -kept["confidence"][i])[:SUREST]
    return [
        {"id": ids[i], "label": names[kept["labels"][i]], "predicted": names[kept["predicted"][i]]}
        | {"confidence": kept["confidence"][i]}
        for i in wrong
    ]


def unknown(known: np.ndarray, others: np.ndarray, *, t: float) -> dict[str, float]:
    """How well images of classes that the head doesn't know are told from others, by (N, K) and (M, K) scores, which
    are divided by the head's temperature ``t`` first: the scores of ridge and centroid are no logits.

    ``auroc_msp``: by the greatest probability (D. Hendrycks & K. Gimpel 2017, A baseline for detecting
    misclassified and out-of-distribution examples). ``auroc_energy``: by log-sum-exp of the logits (W. Liu et al. 2020,
    Energy-based out-of-distribution detection). Each with its ``_low`` and ``_high``.
    """
    found = {"n_unknown": len(others)}
    known, others = (scores.astype(np.float64) / t for scores in (known, others))
    energy = [np.logaddexp.reduce(scores, axis=1) for scores in (known, others)]
    surety = [scores.max(axis=1) - e for scores, e in zip((known, others), energy, strict=True)]
    for name, by in (("auroc_msp", surety), ("auroc_energy", energy)):
        found |= zip((name, f"{name}_low", f"{name}_high"), statistics.auroc(*by), strict=True)
    return found
