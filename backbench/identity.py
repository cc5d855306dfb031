"""What a result row stands for: which rows are the same thing measured again, and which only have a name in common.

Like ``rows`` this needs nothing but the standard library.
"""

import hashlib
import json
from typing import Any

FEATURES = {"pooling": None, "layer": "last", "pool": "default", "views": "plain", "dtype": None, "precision": None,
            "input_scale": 1.0, "transform": None}  # fmt: skip
"""Of the features' identity, what is part of a row's, and the value of rows written before there was a choice.

``precision`` is in, since a user may set it and since it moves single predictions. ``compiled`` is not: it is chosen by
speed alone, and compiled features were compared with the others before they were used. Versions, the seed and whatever
was measured are not in either."""

DESCRIBED = {
    "extract": {"transform", "pooling", "layer", "views", "dtype", "precision", "input_scale"},
    "probe": {
        "objective", "solver", "precision", "standardised", "C", "C_tried", "C_at_edge", "chosen_on", "refit_on",
        "path_tolerance", "tolerance", "evaluations", "gap", "gap_bound", "gradient_norm", "gradient_share",
        "alpha", "alpha_tried", "alpha_at_edge", "k", "k_tried", "k_at_edge", "temperature", "similarity", "bank",
        "means_of", "train_top1", "preset", "optimiser", "learning_rate", "weight_decay", "schedule", "batch_size",
        "epochs", "train_loss", "converged_if", "seed", "intervals", "calibration", "prediction_sets", "test", "shots",
    },
    "finetune": {
        "start", "ended", "chosen_on", "intervals", "calibration", "prediction_sets", "train_top1", "test", "seconds",
        "evaluated",
    },
    "generalize": {"readings", "classes", "intervals", "calibration", "prediction_sets"},
}  # fmt: skip
"""By stage: keys of ``protocol`` that are no settings but describe the method or are outcomes. It is needed for rows
written before rows had ``settings``; what is not listed counts as a setting, so that no two rows are merged for want of
a name here."""
DESCRIBED["cnn"] = DESCRIBED["finetune"]

UNSET = {"class_weight": "none"}
"""Settings that change nothing at these values, so that rows written before there were such settings are the same. The
value None is as good as no setting, too."""

RANDOM = "random"
"""What stands for the weights where they were drawn: they follow from the seed."""

LENGTH = 16
"""Hexadecimal digits of a key: 64 bits, so that a million rows meet by chance once in 37 million tries."""


def identity(row: dict, images: dict[str, str] | None = None) -> dict:
    """What ``row`` measured, apart from the seed and what follows from it.

    Two rows of equal identity are the same thing measured again, with another seed or with the same one. Names are no
    part of it where there is a digest: ``data`` is the digest of the images, their labels and classes, the split aside;
    of a row without that, the digest of the data set with its split; and without either its name. ``weights`` is the
    digest of the weights, or ``random`` and ``from scratch``, which follow from the seed; of
    features that came as arrays, called as one likes, it is the digest of those. A row on images of another data set
    than the head's has ``other``, which says whose head and which images these are.

    ``images`` may give the digest of the images for that of a data set; see ``keys``.
    """
    features = row["features"] or {}
    data = row.get("target_digest") or features.get("images_digest")
    if data is None:
        data = features.get("dataset_digest") or row["dataset"]
        data = (images or {}).get(data, data)
    told = {
        "stage": row["stage"],
        "method": row["method"],
        "shots": row.get("shots"),
        "model": None if features.get("arrays_digest") else features.get("model") or row["model"],
        "weights": _weights(row, features),
        "data": data,
        "features": _features(features),
        "settings": settings(row),
    }
    return told | ({} if row.get("target") is None else {"other": _other(row)})


def settings(row: dict) -> dict:
    """What the user may set of the protocol, without what is unset."""
    found = row.get("settings")
    if found is None:
        described = DESCRIBED.get(row["stage"], ())
        found = {key: value for key, value in (row["protocol"] or {}).items() if key not in described}
    return {key: value for key, value in found.items() if value is not None and UNSET.get(key) != value}


def key(row: dict) -> str:
    """A short digest of ``identity``: equal for rows that measured the same thing."""
    return digest(identity(row))


def images(rows: list[dict]) -> dict[Any, str]:
    """The digest of the images by that of the data set, as far as ``rows`` tell."""
    told = [row["features"] or {} for row in rows]
    return {of.get("dataset_digest"): of["images_digest"] for of in told if of.get("images_digest")}


def keys(rows: list[dict], known: dict[str, str] | None = None) -> list[str]:
    """The key of each of ``rows``, old ones and new ones together; ``known`` is ``images(rows)``, if it is at hand.

    Rows written before the images had a digest of their own take it from those of the same data set and split. What
    is left over stays apart: nothing tells whether two splits of such a set are of the same images.
    """
    known = images(rows) if known is None else known
    return [digest(identity(row, known)) for row in rows]


def digest(told: dict) -> str:
    """``LENGTH`` hexadecimal digits of the SHA-256 of ``told`` as canonical JSON."""
    text = json.dumps(told, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:LENGTH]


def _weights(row: dict, features: dict) -> str | None:
    """What the weights are, told without the seed."""
    name = str(features.get("weights"))
    if row.get("trained_key"):  # the weights follow from that training
        return None
    if name.startswith("random, seed "):
        return RANDOM
    if features.get("arrays_digest"):  # one's own features, of which no more is known than what they are
        return features["arrays_digest"]
    return features.get("weights_sha256") or features.get("weights")


def _features(features: dict) -> dict:
    found = {name: plain if features.get(name) is None else features[name] for name, plain in FEATURES.items()}
    if features.get("weights") == "from scratch" and isinstance(found["transform"], dict):
        # The mean and the spread are those of the training images, so they follow from the split.
        found["transform"] = {k: v for k, v in found["transform"].items() if k not in ("mean", "std")}
    return found


def _other(row: dict) -> dict:
    """Which head, trained on what, and how the images were changed.

    ``trained_key`` is the key of the row of the training; rows without it name a folder. ``source_digest`` is that of
    the images that the head was trained on; rows without it have a name. The images that it is tried on are ``data``,
    by ``target_digest``.
    """
    return {
        "trained": row.get("trained_key") or row.get("trained"),
        "source": row.get("source_digest") or row.get("source"),
        "target": None if row.get("target_digest") else row["target"],
        **{name: row.get(name) for name in ("corruption", "strength", "level")},
    }
