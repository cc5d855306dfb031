"""What a probe found, for Python: accuracies with their intervals, the row, and the head."""

from dataclasses import dataclass
from typing import NamedTuple

from backbench.probe.classifier import Classifier


class Accuracy(NamedTuple):
    """An accuracy on test, 0..1, with the limits of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Result:
    """What a probe found. ``row`` is the result row as the command would write it, ``details`` what goes beside it."""

    row: dict
    details: dict | None
    head: Classifier | None
    """With ``predict(x)``, ``predict_proba(x)`` and ``save(folder)``. None with folds, of which each has its own.
    knn's holds all the features."""

    @property
    def accuracies(self) -> dict[str, Accuracy]:
        """top1, top5 and balanced on test, or with folds on all images, each with its interval."""
        return {
            name: Accuracy(*(self.row[f"{name}{end}"] for end in ("", "_low", "_high")))
            for name in ("top1", "top5", "balanced")
        }

    @property
    def top1(self) -> float:
        """The share of test images whose class is found, 0..1."""
        return self.row["top1"]

    @property
    def interval(self) -> tuple[float, float]:
        """The limits of the 95 % interval of ``top1``."""
        return self.row["top1_low"], self.row["top1_high"]

    @property
    def balanced(self) -> float:
        """The mean accuracy of the classes on test, 0..1."""
        return self.row["balanced"]

    def __repr__(self) -> str:
        row, (low, high) = self.row, self.interval
        named = f"{row['dataset']} {row['model']} {row['method']}"
        return f"<Result {named}: top-1 {self.top1:.1%} [{low:.1%}, {high:.1%}]>"
