"""Where a model's weights come from, and by which licence they were given."""

from dataclasses import dataclass
from importlib import metadata

from backbench.extract import names
from backbench.predict.predictors import Head, Predictor
from backbench.training import checkpoint

CLASSIFIERS = {"MIT License": "mit", "Apache Software License": "apache-2.0"}
"""PyPI's words for licences, and the hub's."""

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Origin:
    """``licence`` is timm's or the package's word for it, or ``unknown``; ``base`` is the repository on the hub."""

    weights: str
    sha256: str
    licence: str = UNKNOWN
    base: str | None = None


def of(predictor: Predictor) -> Origin:
    """Return where the weights of the predictor's backbone come from, as far as it is known here."""
    about = predictor.identity
    if not isinstance(predictor, Head):
        about = checkpoint.read_about(predictor.folder)["identity"]
    weights, sha256 = (str(about.get(key, UNKNOWN)) for key in ("weights", "weights_sha256"))
    if names.described(weights):
        source, place = weights.split(":", 1)
        return Origin(weights, sha256, base=place.split("@")[0] if source == "hf-hub" else None)
    return Origin(weights, sha256, *(_of_package(weights) or _of_timm(weights)))


def _of_package(weights: str) -> tuple[str, None] | None:
    """Return what the PyPI package says, whose name and version ``weights`` are; None where it is none."""
    if weights.split(" ")[0] not in {source.distribution for source in names.PACKAGED.values()}:
        return None
    try:
        said = metadata.metadata(weights.split(" ")[0])
    except metadata.PackageNotFoundError:
        return UNKNOWN, None
    words = [CLASSIFIERS.get(one.split(" :: ")[-1]) for one in said.get_all("Classifier") or []]
    words += [said.get("License-Expression"), said.get("License")]
    return next((word.lower() for word in words if word), UNKNOWN), None


def _of_timm(weights: str) -> tuple[str, str | None]:
    import timm

    try:
        config = timm.get_pretrained_cfg(weights)
    except (RuntimeError, ValueError):
        config = None
    return getattr(config, "license", None) or UNKNOWN, getattr(config, "hf_hub_id", None)
