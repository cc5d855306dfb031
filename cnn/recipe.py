"""The recipe of the CIFAR network: every setting of a run, the presets, and the checks of what a user changes."""

from collections import Counter
from dataclasses import dataclass, fields, replace

from backbench import UsageError
from backbench.cnn import data_pruning
from backbench.cnn.model import LEAST_SIDE, SIZES
from backbench.training.settings import fault, parsed
from backbench.training.views import VIEWS


@dataclass(frozen=True)
class Recipe:
    """The settings of one run. SGD's rates are for the sum of a batch's losses, so that they fit any batch size."""

    name: str
    strategy: str = "scratch"  # training images: scratch, all of train; share-0.1, a tenth; usual, val as well
    images: int = 250_000  # images seen in all epochs together, which decides the number of epochs
    epochs: int = 0  # 0: decided by ``images``, at most MOST_EPOCHS
    batch_size: int = 500
    lr: float = 0.12  # for filters: the share of a weight's norm that one step changes, at the start
    momentum: float = 0.75
    lr_bias: float = 0.053  # for the biases of the norms and of the first layer
    lr_head: float = 0.67
    momentum_sgd: float = 0.85
    weight_decay: float = 2e-6  # for biases and head, per image
    warmup: float = 0.0  # share of the run in which rates rise from 0; they then fall linearly to 0
    smoothing: float = 0.2
    norm_momentum: float = 0.1  # weight of each batch in the running statistics
    whiten_bias: float = 0.375  # share of the run in which the first layer's bias trains
    translate: int = 2  # largest move in pixels, at the full size
    flip: bool = True
    cutout: int = 0  # side in pixels; 0: none
    pixels: int = 32  # side of the network's input
    early_scale: float = 0.75  # side in the first part of the run, as a share of ``pixels``
    early_share: float = 0.5  # share of the epochs in that first part
    prune: float = 0.7  # share of the easy images that an epoch skips, see cnn.data_pruning
    prune_easy: float = 0.5  # share of all images that counts as easy: those with the lowest loss
    views: str = "all"  # test-time augmentation, see training.views


PRESETS = {
    "small": Recipe("small", images=250_000),
    "base": Recipe("base", images=700_000, batch_size=2000, lr=0.24, momentum=0.6, norm_momentum=0.4),
    "large": Recipe("large", images=2_000_000, translate=4, cutout=12),
    # airbench94 in its Muon version of 2024: eight epochs of 50,000 images in batches of 2,000.
    "reference": Recipe(
        "reference", images=400_000, batch_size=2000, lr=0.24, momentum=0.6, norm_momentum=0.4, early_scale=1, prune=0
    ),
}

"""Measured on CIFAR-10 re-encoded as JPEG, val of the study's split with all views, one run each, so that half a point
tells nothing. Channels 64, 192, 384 in batches of 500, which ``base`` had, in eight epochs, 0.13 to 0.14 PFLOP: 89.6 %;
lr 0.08 89.7; five epochs all at 32 pixels 89.5; crops of 24 pixels for images shrunk to 24 89.5; brightness and
contrast varied by 0.15 89.6; 20 pixels for 0.6 of eight epochs 89.1; translate 4 and cutout 8 89.0. ``small`` at 0.015
PFLOP: 84.8 %; lr 0.24 83.3.

On test, in the usual split: those channels and batches in 8 epochs, 0.140 PFLOP, 90.1 % (mean of 3), in 16, 0.273, 90.9
(of 3), in 18, 0.304, 91.1 (of 10). ``reference`` 90.7 (of 10); its widths and batches with pruning and 24 pixels are
``base``: 91.0 (of 3), in 16 epochs, 0.299, 91.1 (of 3). On two cores with AMX they take a quarter less time for equal
work.

What pruning brings, the same way. ``small`` without it, at 0.026 PFLOP: 86.2 %. Half of those below the mean loss left
out, the others' gradients raised to make up for them (InfoBatch), at 0.028: 87.5; not raised 87.5; 0.7 of the lower
half, at 0.033: 88.2; 0.7 of the lower seven tenths, at 0.032: 88.0. The former base in 16 epochs, at 0.24: 90.4; with
translate 4 90.6. Few images, seen often: a tenth pruned 77.3, as much work without 77.5 (means of 4); three tenths
84.2 and 84.4 (of 2). Structure, at 0.028, not pruned: pooled before a block's first convolution, and wider, 86.2; that
convolution in strides of 2 86.5, and pruned, wider, at 7 % more work, no better than pooling and a sixth slower.

``large``, the same way: channels 72, 216, 512 in 20 epochs, 0.61 PFLOP, 91.6 %; in 40, 1.09, 92.2; 128, 384, 512 in 20,
1.39, 91.9; in 40, 2.50, 92.6; in 60, 3.71, 92.7. Of the latter in 40: not pruned, 3.52, 92.6; cutout 16 92.7; smoothing
0.1 92.3; lr 0.08 92.8 and 92.2 (two seeds).
"""

MOST_EPOCHS = 60
"""Largest number of epochs that ``images`` may ask for, however few training images there are."""

LEAST_STEPS = 8
"""Smallest number of steps in an epoch. With fewer images, batches are smaller."""

_RANGES = {
    "images": (1, 10**9), "epochs": (0, 10_000), "batch_size": (2, 65_536), "lr": (0, 10), "momentum": (0, 0.999),
    "lr_bias": (0, 100), "lr_head": (0, 100), "momentum_sgd": (0, 0.999), "weight_decay": (0, 1), "warmup": (0, 0.9),
    "smoothing": (0, 0.9), "norm_momentum": (0.001, 1), "whiten_bias": (0, 1), "translate": (0, 16), "cutout": (0, 64),
    "early_scale": (0.1, 1), "early_share": (0, 1), "prune": (0, 1), "prune_easy": (0, 0.8),
    "pixels": (LEAST_SIDE, 256),
}  # fmt: skip
"""Smallest and largest value of every numeric setting."""


def make(size: str, settings: tuple[str, ...] = (), **changes) -> Recipe:
    """Return the preset with ``KEY=VALUE`` settings and those ``changes`` that are not None applied.

    Raises UsageError that lists every invalid setting.
    """
    recipe = PRESETS[size]
    known = {field.name: field.type for field in fields(Recipe) if field.name not in ("name", "strategy")}
    changes, faults = parsed(settings, known, {key: value for key, value in changes.items() if value is not None})
    faults += [found for key, value in changes.items() if (found := _fault(key, known.get(key), value))]
    if faults:
        raise UsageError(*faults)
    recipe = replace(recipe, **changes)
    if recipe.translate >= recipe.pixels // 2:
        raise UsageError(f"translate={recipe.translate}: a move below half of pixels={recipe.pixels} was expected.")
    return recipe


def _fault(key: str, kind, value) -> str | None:
    if key == "views":
        return None if value in VIEWS else f"views={value}: one of {', '.join(VIEWS)} was expected."
    if key == "flip":
        return None if isinstance(value, bool) else f"flip={value}: true or false was expected."
    return None if key == "strategy" else fault(key, kind, value, _RANGES[key])


def fitted(recipe: Recipe, n: int) -> Recipe:
    """Return the recipe for ``n`` training images, with its number of epochs and a batch size that fits."""
    epochs = recipe.epochs or max(1, min(MOST_EPOCHS, round(recipe.images / n)))
    batch = max(2, min(recipe.batch_size, n // LEAST_STEPS))
    return replace(recipe, epochs=epochs, images=epochs * n, batch_size=batch)


def rate(recipe: Recipe, done: float) -> float:
    """Return the factor of all learning rates when the share ``done`` (0..1) of the run is over."""
    if done < recipe.warmup:
        return done / recipe.warmup
    return (1 - done) / (1 - recipe.warmup)


def bias_rate(recipe: Recipe, done: float) -> float:
    """Return the factor of the learning rate of the first layer's bias, which falls to 0 sooner."""
    return max(0.0, 1 - done / recipe.whiten_bias) if recipe.whiten_bias else 0.0


def side(recipe: Recipe, epoch: int) -> int:
    """Return the side in pixels of an epoch's images."""
    early = epoch < round(recipe.early_share * recipe.epochs)
    return max(LEAST_SIDE, round(recipe.early_scale * recipe.pixels)) if early else recipe.pixels


def kinds(recipe: Recipe, n: int) -> Counter:
    """Count the steps of a run on ``n`` images by side in pixels and whether the first layer's bias trains.

    These two decide the cost of a step.
    """
    found = Counter()
    for epoch in range(recipe.epochs):
        steps = (n - data_pruning.left_out(recipe, epoch, n)[1]) // recipe.batch_size
        for step in range(steps):
            done = (epoch + step / steps) / recipe.epochs
            found[side(recipe, epoch), bias_rate(recipe, done) > 0] += 1
    return found


assert set(PRESETS) == set(SIZES)
