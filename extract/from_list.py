"""Features of images in a list, without a file that is kept: what ``extract`` would store of them, in memory."""

import tempfile
from dataclasses import replace
from pathlib import Path

from backbench.cache import arrays, features
from backbench.devices import pick_device
from backbench.extract import backbones, names
from backbench.extract.plan import Settings
from backbench.extract.run import extract_one


def extract(
    model: str, imageset, *, weights: str, device: str, seed: int, layer: str, pool: str, input_scale: float, **settings
) -> arrays.Features:
    """Run ``model`` over an image set and give its features, with the identity that a file of them would have.

    The options mean what they mean to the command; ``settings`` are ``extract.plan.Settings``'. Raises UsageError
    for a name that isn't known and UserError where images, weights or features can't be had.
    """
    (name,) = names.resolve([model])  # a typo is told before torch is imported
    from backbench.extract.feature_tap import tap

    backbone = tap(replace(backbones.create(name, weights=weights, seed=seed), scale=input_scale), layer, pool)
    how = Settings(device=pick_device(device), seed=seed, **settings)
    with tempfile.TemporaryDirectory(prefix="backbench-") as folder:
        path = Path(folder) / "features.h5"
        extract_one(imageset, backbone, path, how)
        with features.open_file(path) as file:
            return arrays.Features.of_file(file)
