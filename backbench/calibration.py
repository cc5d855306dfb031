"""How far a head's scores can be trusted: calibration, and its errors by class."""

import numpy as np

from backbench.accuracy import Scored, below_top

BINS = 15
"""Equal-width bins of confidence, as in Guo et al. (2017)."""

TEMPERATURES = 0.01, 100.0
"""Range in which the temperature is sought."""

HALVINGS = 20
"""Of that range on a log scale: finds the temperature to one part in 100,000."""

PROTOCOL = "temperature by NLL on val and one image of any class; ECE top-label, 15 equal-width bins (Guo et al. 2017)"
"""What a row should say of its calibration figures."""


def assess(scored: Scored, *, val: Scored | None = None, t: float | None = None, unscaled: Scored | None = None):
    """Figures for the row, flat floats, and the rest for ``details``: predictions, classes, errors, calibration.

    Scores are logits of test and of ``val``, which must come from a head that was not fitted on val: one refitted on
    train+val is too sure of itself there. Instead of val ``t``, a temperature found before. ``unscaled`` are the scores
    before scaling, where those to be scaled are others.
    """
    if t is None:
        assert val is not None, "a temperature is given, or found on val"
        t = temperature(val.scores, val.labels)
    unscaled = scored if unscaled is None else unscaled
    accuracy, n = per_class(scored.predicted, scored.labels, n_classes=scored.n_classes)
    figures = {
        "nll": float(unscaled.softmax()[0].mean()),
        "ece": ece(unscaled),
        "nll_scaled": float(scored.softmax(t)[0].mean()),
        "ece_scaled": ece(scored, t=t),
        "temperature": t,
    }
    return figures, {
        "predicted": scored.predicted.tolist(),
        "labels": scored.labels.tolist(),
        "confidence": np.round(scored.softmax(t)[1], 4).tolist(),
        "per_class": {"accuracy": [None if np.isnan(a) else a for a in accuracy.tolist()], "n": n.tolist()},
        "confusions": confusions(scored.predicted, scored.labels),
        "calibration": {"before": reliability(unscaled), "after": reliability(scored, t=t)},
    }


def temperature(val_scores: np.ndarray, val_labels: np.ndarray) -> float:
    """The T in 0.01..100 at which softmax(scores / T) has the least NLL on val: (M, K) logits, (M,) int.

    C. Guo et al. (2017), On calibration of modern neural networks. To val is added one image, of scores like theirs and
    of any class alike: the NLL of a val set without errors would fall for ever as T goes to 0, and that of a small one
    with a single error rests on that one. In simulation, on scores that were calibrated and 40 images of val, test NLL
    rises by 0.12 nats at most, and by up to 2.4 without the added image; with 300 images the two agree. The NLL is
    convex in 1/T, so the sign of its slope leads to the least.
    """
    scores = below_top(val_scores)
    own = scores[np.arange(len(val_labels)), val_labels].mean()
    low, high = np.log(TEMPERATURES)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        share = np.exp(scores / np.exp(middle))
        expected = (np.einsum("nk,nk->n", share, scores) / share.sum(axis=1)).mean()
        slope = expected - own + (expected - scores.mean()) / len(scores)  # of the NLL by 1/T
        low, high = (middle, high) if slope > 0 else (low, middle)
    return float(np.exp((low + high) / 2))


def probabilities(scores: np.ndarray, t: float) -> np.ndarray:
    """Softmax of scores (N, K) divided by the temperature, (N, K) float64."""
    share = np.exp(below_top(scores) / t)
    return share / share.sum(axis=1, keepdims=True)


def nll(scores: np.ndarray, labels: np.ndarray) -> float:
    """Mean negative log-likelihood, in nats, of softmax(scores): (N, K) logits, (N,) int."""
    return float(Scored(scores, labels).softmax()[0].mean())


def reliability(scored: Scored, *, t: float = 1.0, bins: int = BINS) -> dict[str, list]:
    """Images, mean confidence and accuracy in each bin of confidence, (i / bins, (i+1) / bins]; None where it is empty.

    Confidence is the highest probability of softmax(scores / t).
    """
    _, confidence = scored.softmax(t)
    at = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    n = np.bincount(at, minlength=bins).tolist()
    sums = (np.bincount(at, weights=of, minlength=bins).tolist() for of in (confidence, scored.right))
    means = [[total / count if count else None for total, count in zip(one, n, strict=True)] for one in sums]
    return {"n": n, "confidence": means[0], "accuracy": means[1]}


def ece(scored: Scored, *, t: float = 1.0, bins: int = BINS) -> float:
    """Expected calibration error, 0..1: the mean gap between confidence and accuracy, bin by bin, weighted by images.

    Top-label, equal-width bins, as in Guo et al. (2017), of softmax(scores / t).
    """
    found = reliability(scored, t=t, bins=bins)
    filled = [(n, c, a) for n, c, a in zip(found["n"], found["confidence"], found["accuracy"], strict=True) if n]
    return float(sum(n * abs(a - c) for n, c, a in filled) / len(scored))


def per_class(predicted: np.ndarray, labels: np.ndarray, *, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Each class's accuracy (K,), NaN for one without images, and number of images (K,). (N,) int both."""
    n = np.bincount(labels, minlength=n_classes)
    right = np.bincount(labels[predicted == labels], minlength=n_classes)
    return np.divide(right, n, out=np.full(n_classes, np.nan), where=n > 0), n


def confusions(predicted: np.ndarray, labels: np.ndarray, *, most: int = 20) -> list[list[int]]:
    """The ``most`` frequent errors as [label, predicted, images], most frequent first, then by class. (N,) int both."""
    wrong = predicted != labels
    pairs, counts = np.unique(np.stack([labels[wrong], predicted[wrong]], axis=1), axis=0, return_counts=True)
    first = np.argsort(-counts, kind="stable")[:most]
    return np.column_stack([pairs, counts])[first].tolist()


def log_shares(votes: np.ndarray, *, k: int) -> np.ndarray:
    """kNN's votes (N, K) as logits: the log of each class's share, with one neighbour's of ``k`` spread over all.

    Votes are no logits: softmax would make of them what it likes. The one keeps a class without votes possible.
    """
    shares = votes / np.maximum(votes.sum(axis=1, keepdims=True), np.finfo(float).tiny)
    return np.log((k * shares + 1 / votes.shape[1]) / (k + 1))
