"""What val says of new images: how often a class's score is that high, and how strange an image is."""

from dataclasses import dataclass

import numpy as np

from backbench import UserError, conformal

BLOCK = 1 << 22
"""Probabilities whose scores are computed at a time: 32 MB."""

NAMES = (*conformal.KINDS, "energy", "distance")
"""The scores that there are, see ``Reference``. All but the distance are always there."""


@dataclass(frozen=True)
class Reference:
    """Scores of val's M images under a model that was not fitted on them, (M,) float32 each, higher = stranger.

    ``lac`` and ``raps`` are those of the true class, see ``conformal.nonconformity``. ``energy`` is minus the log of
    the sum of the exponentials of the logits (W. Liu, X. Wang, J. Owens & Y. Li 2020, Energy-based out-of-distribution
    detection. NeurIPS), at the temperature. ``distance`` is one in the features, which a head alone has.

    The head that is kept was fitted on val too, and is a little better on new images than the one val judged: its sets
    hold the true class rather more often than they say. Distances are by train alone in both cases.
    """

    scores: dict[str, np.ndarray]

    def __len__(self) -> int:
        """M, the images of val."""
        return len(self.scores["lac"])

    @classmethod
    def of_val(cls, probabilities, logits, labels, distance=None) -> "Reference":
        """That of val: probabilities and logits (M, K), both at the temperature, labels and, for a head, distance (M,).

        The model they come from must not be fitted on val.
        """
        own = {kind: np.empty(len(labels), np.float32) for kind in conformal.KINDS}
        step = max(1, BLOCK // probabilities.shape[1])
        for start in range(0, len(labels), step):
            at = slice(start, start + step)
            for kind, found in own.items():
                scores = conformal.nonconformity(probabilities[at], kind)
                found[at] = scores[np.arange(len(scores)), labels[at]]
        own["energy"] = energy(logits)
        if distance is not None:
            own["distance"] = np.asarray(distance, np.float32)
        return cls(own)

    @classmethod
    def of_lists(cls, held) -> "Reference":
        """What ``lists`` gave, read from a file, which may be a stranger's. Raises ValueError saying what is wrong."""
        try:
            with np.errstate(over="ignore"):
                scores = {name: np.array(values, np.float32) for name, values in held.items()}
        except (AttributeError, TypeError, ValueError, OverflowError):
            raise ValueError("the scores of val are not lists of numbers") from None
        if found := faults(scores):
            raise ValueError("; ".join(found))
        return cls(scores)

    def lists(self) -> dict[str, list[float]]:
        """The scores, as JSON holds them: every digit."""
        return {name: scores.tolist() for name, scores in self.scores.items()}

    def sets(self, probabilities, *, level: float, kind: str = "lac") -> np.ndarray:
        """Which classes are in each image's prediction set: calibrated probabilities (N, K) to (N, K) bool.

        Of new images like val's a share of ``level`` or more have their true class in it. Where val has fewer than
        ``conformal.images_needed(level)`` images every set is all classes.
        """
        if kind not in conformal.KINDS:
            raise conformal.unknown(kind)
        return conformal.sets(probabilities, kind=kind, threshold=conformal.threshold(self.scores[kind], level))

    def p_known(self, by: str, new: np.ndarray) -> np.ndarray:
        """The p-value (N,) of each new image's ``energy`` or ``distance`` (N,).

        Low where few images of val are as strange: images with a p-value of ``a`` at most are a share of ``a`` or less
        of new images like val's. Raises UserError where this reference holds no such scores.
        """
        if by not in self.scores or by in conformal.KINDS:
            held = ", ".join(sorted(self.scores.keys() - set(conformal.KINDS)))
            raise UserError(f"{by!r} is not among the scores of val that are kept here: {held}.")
        return conformal.p_values(self.scores[by], new)


def energy(logits: np.ndarray) -> np.ndarray:
    """Minus log-sum-exp of logits (N, K) that are divided by the temperature, (N,) float32: higher = stranger."""
    logits = np.asarray(logits)
    found, step = np.empty(len(logits), np.float32), max(1, BLOCK // logits.shape[1])
    for start in range(0, len(logits), step):
        block = logits[start : start + step].astype(np.float64)
        top = block.max(axis=1)
        found[start : start + step] = -top - np.log(np.exp(block - top[:, None]).sum(axis=1))
    return found


def faults(scores: dict) -> list[str]:
    """Why these arrays, by name, can't be the scores of a ``Reference``: from files, which may be a stranger's."""
    if not set(NAMES[:-1]) <= scores.keys() <= set(NAMES):
        held = ", ".join(sorted(scores))
        return [f"scores of val named {held}; {', '.join(NAMES)} were expected, or all but the last"]
    n = scores["lac"].size
    return [
        f"scores of val named {name} of shape {array.shape} and dtype {array.dtype}; ({n or 'images'},) finite numbers "
        "in float32 were expected"
        for name, array in scores.items()
        if array.shape != (n,) or not n or array.dtype != np.float32 or not np.isfinite(array).all()
    ]
