"""A head that has been fitted and calibrated, to be asked from Python."""

from pathlib import Path

import numpy as np

from backbench import UserError
from backbench.calibration import probabilities
from backbench.probe.head import BLOCK, Saved, load
from backbench.probe.predict import temperature_of


class Classifier:
    """What ``probe predict`` does with a stored head, on arrays: classes and calibrated probabilities.

    ``classes`` (K,) are the class names, ``head`` the LinearHead or KnnHead, ``temperature`` what val chose for its
    scores.
    """

    def __init__(self, saved: Saved):
        self.saved, self.head, self.classes = saved, saved.head, np.array(saved.classes)
        self.temperature = temperature_of(saved.row)

    @classmethod
    def load(cls, folder: str | Path) -> "Classifier":
        """The head in ``folder``, as ``save`` or ``probe --save`` keeps it. Raises UserError where it can't be used."""
        return cls(load(folder))

    def save(self, folder: str | Path) -> None:
        """Keep it in ``folder``, for ``probe predict --head``. Raises UserError where that can't be written."""
        self.saved.save(folder)

    def scores(self, x) -> np.ndarray:
        """Logits (N, K) float32 for features (N, D), computed in blocks.

        Raises UserError where ``x`` has another shape, or scores are not finite.
        """
        x, dim = np.asarray(x), self.head.dim
        if x.ndim != 2 or x.shape[1] != dim:
            raise UserError(f"the head takes features of shape (images, {dim}), these have {x.shape}.")
        found = np.empty((len(x), len(self.classes)), np.float32)
        with np.errstate(invalid="ignore", over="ignore"):
            for start in range(0, len(x), BLOCK):
                found[start : start + BLOCK] = self.head.scores(x[start : start + BLOCK].astype(np.float32))
        if len(broken := np.flatnonzero(~np.isfinite(found).all(axis=1))):
            raise UserError(
                f"the head's scores of {len(broken):,} of {len(x):,} rows are not finite: {broken[0]} first."
            )
        return found

    def predict(self, x) -> np.ndarray:
        """The name of the class that each image is said to be, (N,) text, for features (N, D)."""
        return self.classes[self.scores(x).argmax(axis=1)]

    def predict_proba(self, x) -> np.ndarray:
        """The probability of each of ``classes``, (N, K) float64, for features (N, D): softmax at the temperature."""
        return probabilities(self.scores(x), self.temperature)
