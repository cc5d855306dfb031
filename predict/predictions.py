"""What trained models say of images, image by image."""

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Predictions:
    """The classes of N images among K: the k most probable of each, and what else was asked for."""

    ids: list[str]
    """Image names (N), in order."""
    classes: list[str]
    """Class names (K)."""
    top: np.ndarray
    """(N, k) int, indices into classes, the most probable first."""
    probability: np.ndarray
    """(N, k) float64: their calibrated probabilities; of several models the means."""
    sets: list[list[int]] | None = None
    """For each image the classes of its prediction set, the most probable first; None where none were asked for."""
    p_known: np.ndarray | None = None
    """(N,) float64: the conformal p-value of the image being one of the known classes."""
    unknown: np.ndarray | None = None
    """(N,) bool: whether the p-value is at most the false-alarm rate that was asked for."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """The images that couldn't be read, by name, with the reason. They are not among ``ids``."""
    truth: np.ndarray | None = None
    """(N,) int: the class that the folder names, -1 where it names none; None where no image's folder names one."""
    votes: np.ndarray | None = None
    """(N,) int: how many of several models say the first class; None for one."""

    @property
    def names(self) -> list[str]:
        """The most probable class of each image (N)."""
        return [self.classes[k] for k in self.top[:, 0]]

    def frame(self):
        """Return a pandas DataFrame with a line for each image, as ``records`` has them."""
        import pandas as pd

        return pd.DataFrame(self.records())

    def records(self) -> list[dict]:
        """Return a dict for each image: ``id``, ``class``, ``probability``, ``class_2``, ``probability_2`` and so on.

        Where they were asked for there are ``set`` (class names), ``p_known`` and ``unknown``; for several models
        ``votes``; and ``truth`` (a class name or None) where folders name classes.
        """
        found = []
        for i, id in enumerate(self.ids):
            one: dict = {"id": id}
            for j, (k, p) in enumerate(zip(self.top[i].tolist(), self.probability[i].tolist(), strict=True)):
                ending = f"_{j + 1}" if j else ""
                one |= {f"class{ending}": self.classes[k], f"probability{ending}": p}
            if self.sets is not None:
                one["set"] = [self.classes[k] for k in self.sets[i]]
            if self.p_known is not None:
                one["p_known"] = float(self.p_known[i])
            if self.unknown is not None:
                one["unknown"] = bool(self.unknown[i])
            if self.votes is not None:
                one["votes"] = int(self.votes[i])
            if self.truth is not None:
                one["truth"] = self.classes[self.truth[i]] if self.truth[i] >= 0 else None
            found.append(one)
        return found
