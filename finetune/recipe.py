"""The recipe of a run: every setting, the three presets, and the checks of what a user changes."""

from dataclasses import dataclass, fields, replace

from backbench import UsageError, suggest
from backbench.training.settings import _is_number, fault, parsed

STRATEGIES = ("lp-ft", "full", "gradual", "discriminative")

SCHEDULES = ("cosine", "constant")


@dataclass(frozen=True)
class Recipe:
    """The settings of one run. Rates and shares are 0..1 unless stated otherwise; an epoch is one pass over train."""

    name: str
    strategy: str = "lp-ft"
    epochs: int = 10
    batch_size: int = 32
    optimizer: str = "adamw"  # timm's name
    lr: float = 1e-4
    weight_decay: float = 0.05
    head_scale: float = 10.0  # the head's learning rate, as a multiple
    probe_scale: float = 0.1  # lp-ft: factor by which the probe's head is scaled at the start
    layer_decay: float = 1.0  # factor of the learning rate from each of timm's layers to the one below
    schedule: str = "cosine"  # or constant
    warmup_epochs: float = 1.0
    clip: float = 1.0  # largest norm of the gradient; 0: no clipping
    agc: float = 0.0  # adaptive gradient clipping instead, Brock et al. (2021); 0: none
    smoothing: float = 0.1
    crop: float = 0.35  # least share of an image's area that a random crop keeps
    hflip: float = 0.5
    color_jitter: float = 0.0
    auto_augment: str = ""  # a policy as timm spells it, such as rand-m7-mstd0.5-inc1
    re_prob: float = 0.0  # random erasing
    mixup: float = 0.0  # alpha of the Beta distribution
    cutmix: float = 0.0
    mix_prob: float = 1.0
    drop_path: float = 0.0  # stochastic depth, where the architecture has it
    batch_norm: str = "frozen"  # frozen: keeps the statistics of pretraining; train: uses those of each batch
    ema: float = 0.0  # memory of the weights' moving average, as a share of the run; 0: none
    final_scale: float = 1.0  # input size of the last epochs, as a multiple of the backbone's
    final_epochs: int = 0
    head_epochs: int = 2  # gradual: epochs in which the head trains alone
    stage_epochs: int = 1  # gradual: epochs until the next stage from the top trains as well
    patience: int = 0  # epochs without progress on val until gradual opens a stage and others stop; 0: never
    min_delta: float = 0.0  # val top-1 above the best that counts as progress
    wise: float | str | None = None  # WiSE-FT: share of the fine-tuned weights; auto: chosen on val; None: no mixing


PRESETS = {
    # Fixed and short, the same for every architecture, so that they compare.
    "simple": Recipe("simple"),
    # Everything that raises accuracy, at three times the epochs.
    "full": Recipe(
        "full",
        epochs=30,
        lr=2e-4,
        layer_decay=0.8,
        warmup_epochs=2.0,
        crop=0.25,
        auto_augment="rand-m7-mstd0.5-inc1",
        re_prob=0.1,
        mixup=0.2,
        cutmix=1.0,
        mix_prob=0.5,
        drop_path=0.1,
        ema=0.1,
        final_scale=1.15,
        final_epochs=3,
        head_epochs=5,
        stage_epochs=3,
        wise="auto",
    ),
    # The published study's fine-tuning (facts.md): AdamW, constant rate, stopped early, nothing else.
    "published": Recipe(
        "published",
        strategy="full",
        epochs=50,
        batch_size=64,
        weight_decay=1e-5,
        head_scale=1.0,
        schedule="constant",
        warmup_epochs=0.0,
        clip=0.0,
        smoothing=0.0,
        crop=1.0,
        batch_norm="train",
        head_epochs=5,
        stage_epochs=10,
        patience=8,
        min_delta=0.001,
    ),
}

_RANGES = {
    "epochs": (1, 10_000), "batch_size": (2, 65_536), "lr": (0, 1e6), "weight_decay": (0, 10), "layer_decay": (0.01, 1),
    "head_scale": (0.001, 1000), "probe_scale": (0.001, 1),
    "warmup_epochs": (0, 1000), "clip": (0, 1e6), "agc": (0, 10), "smoothing": (0, 0.99), "crop": (0.01, 1),
    "hflip": (0, 1), "color_jitter": (0, 1), "re_prob": (0, 1), "mixup": (0, 100), "cutmix": (0, 100),
    "mix_prob": (0, 1), "drop_path": (0, 0.99), "ema": (0, 1), "final_scale": (0.25, 4), "final_epochs": (0, 10_000),
    "head_epochs": (0, 10_000), "stage_epochs": (1, 10_000), "patience": (0, 10_000), "min_delta": (0, 1),
}  # fmt: skip
"""Smallest and largest value of every numeric setting."""

_CHOICES = {"strategy": STRATEGIES, "schedule": SCHEDULES, "batch_norm": ("frozen", "train")}


def make(preset: str, settings: tuple[str, ...] = (), **changes) -> Recipe:
    """Return the preset with ``KEY=VALUE`` settings and those ``changes`` that are not None applied.

    Raises UsageError that lists every invalid setting.
    """
    recipe, known = PRESETS[preset], {field.name: field.type for field in fields(Recipe) if field.name != "name"}
    changes, faults = parsed(settings, known, {key: value for key, value in changes.items() if value is not None})
    faults += [f for key, value in changes.items() if (f := _fault(key, known[key], value))]
    if not faults:
        recipe = replace(recipe, **changes)
        if recipe.wise is not None and recipe.strategy != "lp-ft":
            if "wise" in changes:
                faults.append(
                    "--wise needs --strategy lp-ft, since it mixes with the weights that start from the probe's head."
                )
            recipe = replace(recipe, wise=None)
        recipe = replace(recipe, final_epochs=min(recipe.final_epochs, recipe.epochs // 4))
    if faults:
        raise UsageError(*faults)
    return recipe


def _fault(key: str, kind, value) -> str | None:
    """Return why ``value`` is invalid for the setting ``key`` of type ``kind``, or None where it is valid."""
    if key == "wise":
        good = value in (None, "auto") or (_is_number(value) and 0 <= value <= 1)
        return None if good else f"wise={value}: a number within 0 and 1, or auto, was expected."
    if key in _CHOICES:
        return None if value in _CHOICES[key] else f"{key}={value}: one of {', '.join(_CHOICES[key])} was expected."
    if kind is str:
        return _name_fault(key, value)
    if wrong := fault(key, kind, value, _RANGES[key]):
        return wrong
    if key == "batch_size" and value % 2:
        return f"batch_size={value}: an even number was expected, since images are mixed in pairs."
    return f"{key}={value}: above 0 was expected." if key == "lr" and value == 0 else None


def _name_fault(key: str, value) -> str | None:
    if key == "optimizer":
        from timm.optim import list_optimizers

        known = list_optimizers()
        return None if value in known else f"optimizer={value}: timm has no such optimizer.{suggest(str(value), known)}"
    from timm.data import create_transform

    try:
        create_transform(224, is_training=True, auto_augment=value or None)
    except (AssertionError, ValueError, KeyError, TypeError, AttributeError):
        return f"auto_augment={value}: a policy as timm spells it was expected, such as rand-m7-mstd0.5-inc1."
    return None
