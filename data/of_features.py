"""The data set that features were extracted from, found by the features' identity."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from backbench import UserError
from backbench.data import contents, derived, registry
from backbench.data.imageset import ImageSet


def load(identity: dict, more: Iterable[str] = (), *, data_root: Path, kept: Path | None = None) -> ImageSet:
    """Load the data set of an ``identity``, which may come from a stranger.

    It is registered, or one of those named in ``more``, such as folder:PATH. ``kept`` is the folder whose
    ``contents.npy`` saves reading images. Raises UserError where it isn't there, or isn't as it was.
    """
    dataset, _, change = str(identity["dataset"]).rpartition("+")
    if change not in derived.PLAIN:
        dataset, change = identity["dataset"], ""
    settings = {"data_root": data_root, "seed": identity["seed"], "exif": _exif(identity)}
    for name in [*([dataset] if dataset in registry.names() else []), *more]:
        imageset = registry.load(name, **settings)
        if imageset.name != dataset:
            continue
        if kept:
            contents.Kept(imageset, kept)
        imageset = derived.plain(imageset, change) if change else imageset
        if not imageset.known_as(identity["dataset_digest"]):
            raise UserError(f"{name} is not the data set that its features were extracted from")
        return imageset
    raise UserError("it is not a registered data set; name it with --dataset folder:PATH")


def paths(identity: dict, more: Iterable[str] = (), **where) -> dict[str, str]:
    """Return the path of each image that is a file of its own, by id, as UTF-8 can hold it; see ``load``."""
    images = load(identity, more, **where)
    found = zip(images.ids, map(images.path, range(len(images))), strict=True)
    whole = {id: os.path.abspath(path) for id, path in found if path is not None}
    return {id: path for id, path in whole.items() if path.isascii() or not re.search("[\ud800-\udfff]", path)}


def _exif(identity: dict) -> str:
    exif = (identity["transform"] or {}).get("exif")
    return exif if exif in ("ignore", "apply") else "ignore"
