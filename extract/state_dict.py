"""A backbone's tensors in what a trainer saved: which of several state dicts, and below which prefix.

The names of the model's own tensors decide. So the weights are found as ``state_dict`` or ``model``, below ``module.``,
``model.backbone.`` or whatever a wrapper is called, and in a part of a larger model.
"""

import re
import sys
from collections import Counter
from typing import NamedTuple

from backbench import UserError

DEPTH = 3
"""Levels of dictionaries in which state dicts are looked for."""

INSIDE = re.compile(r"_orig_mod\.|_fsdp_wrapped_module\.|_checkpoint_wrapped_module\.")
"""What torch.compile, FSDP and gradient checkpointing put anywhere into a name."""

WRAPPERS = ("module.", "model.", "backbone.", "encoder.", "net.")
"""Prefixes that are removed where no name is the model's own, so that timm's conversion sees the names it knows."""

PREFERRED = (r"(?<![a-z])(ema|swa|average)(?![a-z])", "teacher", "")
"""Words of state dicts, as regular expressions, in the order in which they are taken: the moving average of the weights
first, as timm does, and of DINO's two networks the teacher (Caron et al. 2021 evaluate it)."""

LAST = "student|momentum|target|encoder_k|optim"
"""Words of state dicts that are taken only where there is no other."""

COUNTER = "num_batches_tracked"
"""A counter of BatchNorm that decides no feature, and that older files lack."""

SHOWN = 5
"""Number of examples in a message."""


class Found(NamedTuple):
    """The tensors below ``prefix`` in the state dict at ``place``, with names as the model has them.

    ``fitting`` is the number of tensors that have the name of one of the model's.
    """

    place: str
    prefix: str
    tensors: dict
    fitting: int

    def __str__(self) -> str:
        return f"{self.place}.{self.prefix}".strip(".") or "the rest"

    def order(self) -> tuple:
        """Sorts first what is taken first, of state dicts that fit equally well."""
        words = str(self).lower()
        if re.search(LAST, words):
            return len(PREFERRED), -self.fitting, -len(self.tensors)
        word = next(k for k, pattern in enumerate(PREFERRED) if re.search(pattern, words))
        return word, -self.fitting, -len(self.tensors)


def choose(content, model, *, origin: str) -> dict:
    """Return the tensors in ``content`` that are the model's, by name.

    ``origin`` names the file where there is something to say: which of several state dicts is taken, and what lies
    outside the prefix. Raises UserError where ``content`` has no tensors by name.
    """
    expected = {name for name in model.state_dict() if not name.endswith(COUNTER)}
    dicts = dict(_dicts(content))
    if not dicts:
        raise UserError(f"{origin} holds no tensors by name, as a state dict does, but a {type(content).__name__}.")
    found = [one for place, tensors in dicts.items() for one in _below_prefixes(place, tensors, expected)]
    best, *others = sorted(found, key=lambda one: (one.fitting < len(expected), *one.order()))
    said = []
    if rivals := [str(one) for one in others if one.fitting and one.fitting >= best.fitting]:
        said.append(f"{best} is taken; it also holds {_some(rivals)}")
    prefixes = tuple(one.prefix for one in found if one.place == best.place)
    if left := [name for name in dicts[best.place] if not name.startswith(prefixes)]:
        said.append(f"{len(left)} tensors outside {best} are left out: {_some(left)}")
    if said:
        print(f"{origin}: {'; '.join(said)}.", file=sys.stderr)
    return best.tensors


def _dicts(content, place: str = "", depth: int = 0):
    """Yield every dictionary that holds tensors by name, with its place: ``state_dict``, ``model.ema``."""
    import torch

    if not isinstance(content, dict):
        return
    tensors = {
        INSIDE.sub("", key): value
        for key, value in content.items()
        if isinstance(key, str) and isinstance(value, torch.Tensor)
    }
    if tensors:
        yield place, tensors
    if depth < DEPTH:
        for key, value in content.items():
            yield from _dicts(value, f"{place}.{key}".strip("."), depth + 1)


def _below_prefixes(place: str, tensors: dict, expected: set[str]):
    """Yield what lies below each prefix that at least half of the model's names follow, else below the wrappers."""
    votes = Counter()
    for name in tensors:
        parts = name.split(".")
        for k in range(len(parts)):
            if ".".join(parts[k:]) in expected:
                votes[".".join([*parts[:k], ""])] += 1
    prefixes = [prefix for prefix, n in votes.items() if 2 * n >= len(expected)]
    if not prefixes:
        prefix = ""
        while inner := next((w for w in WRAPPERS if all(name.startswith(prefix + w) for name in tensors)), None):
            prefix += inner
        prefixes = [prefix]
    for prefix in prefixes:
        below = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        yield Found(place, prefix, below, votes[prefix])


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def check(tensors: dict, model, *, origin: str, name: str) -> None:
    """Raise UserError, with all differences, unless ``tensors`` are exactly the model's and finite."""
    import torch

    have = model.state_dict()
    lacking = [key for key in have if key not in tensors and not key.endswith(COUNTER)]
    beyond = [key for key in tensors if key not in have]
    unlike = [
        f"{key} {_shape(tensors[key])} where the model has {_shape(have[key])}"
        for key in have
        if key in tensors and _shape(tensors[key]) != _shape(have[key])
    ]
    faults = [f"it lacks {len(lacking)} of the model's {len(have)} tensors: {_some(lacking)}"] if lacking else []
    faults += [f"it holds {len(beyond)} that the model doesn't have: {_some(beyond)}"] if beyond else []
    faults += [f"{len(unlike)} are of another shape or kind: {_some(unlike)}"] if unlike else []
    if faults:
        raise UserError(
            f"{origin} doesn't fit {name}: {'; '.join(faults)}. Name the architecture that was trained with --model."
        )
    broken = [key for key, value in tensors.items() if value.is_floating_point() and not torch.isfinite(value).all()]
    if broken:
        raise UserError(
            f"{origin} has NaN or infinite values in {len(broken)} tensors: {_some(broken)}. Its training diverged: "
            "take an earlier checkpoint."
        )


def _shape(tensor) -> str:
    return f"({', '.join(map(str, tensor.shape))}){'' if tensor.is_floating_point() else ' of integers'}"
