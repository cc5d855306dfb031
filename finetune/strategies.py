"""Which weights train, when, and at what learning rate: by timm's own grouping of parameters, never by model name."""

from itertools import pairwise

from backbench import UserError
from backbench.finetune.recipe import Recipe

BODY = 4
"""Most stages between stem and head. Where timm's coarse groups are more (the blocks of a ViT), neighbours are joined:
as many steps of unfreezing for every architecture, so that they compare. Four, as a ResNet has."""

STEM_SCALE = 0.1
"""Learning rate of the stem as a share of the head's under ``discriminative``; the published study's."""


def stages(model) -> list[list[str]]:
    """Names of all parameters by stage: stem, up to four of body, head. Only the classifier itself is head.

    Raises UserError where timm doesn't say how the architecture is grouped.
    """
    from timm.models import group_parameters

    if not hasattr(model, "group_matcher"):
        raise UserError(f"timm names no stages for {type(model).__name__}: use --strategy full or lp-ft.")
    head = head_names(model)
    groups = group_parameters(model, model.group_matcher(coarse=True))
    groups = [groups[key] for key in sorted(groups)]
    if head & {*groups[-1]} and len(groups) > 1:  # a norm between body and classifier is no stage of its own
        groups[-2:] = [groups[-2] + groups[-1]]
    groups = [kept for group in groups if (kept := [name for name in group if name not in head])]
    stem, body = groups[0], groups[1:]
    n = min(BODY, len(body))
    bounds = [round(i * len(body) / n) for i in range(n + 1)] if n else [0]
    joined = [[name for group in body[a:b] for name in group] for a, b in pairwise(bounds)]
    return [stem, *joined, sorted(head)]


def head_names(model) -> set[str]:
    """Names of the classifier's parameters."""
    found = model.get_classifier()
    modules = found if isinstance(found, tuple | list) else [found]
    theirs = {id(parameter) for module in modules for parameter in module.parameters()}
    return {name for name, parameter in model.named_parameters() if id(parameter) in theirs}


def scales(model, recipe: Recipe) -> dict[str, float]:
    """Every parameter's learning rate as a share of the recipe's.

    ``discriminative``: from 0.1 at the stem by equal factors a stage to 1 at the head (Howard & Ruder 2018). Otherwise
    ``layer_decay`` to the power of timm's layers above (Bao et al. 2021, BEiT), which is 1 where that is 1. The head
    has ``head_scale`` of that: it has farther to go than pretrained weights.
    """
    head = head_names(model)
    return {
        name: scale * (recipe.head_scale if name in head else 1.0) for name, scale in _by_depth(model, recipe).items()
    }


def soften(model, recipe: Recipe) -> None:
    """Under ``lp-ft``, shrink the probe's head to ``probe_scale``: it says the same, less surely.

    Y. Ren et al. (2023), How to prepare your task head for finetuning: a head that is sure of all of train gives the
    backbone no gradient to adapt by.
    """
    import torch

    if recipe.strategy == "lp-ft":
        with torch.no_grad():
            for parameter in model.get_classifier().parameters():
                parameter.mul_(recipe.probe_scale)


def _by_depth(model, recipe: Recipe) -> dict[str, float]:
    from timm.models import group_parameters

    if recipe.strategy == "discriminative":
        order = stages(model)
        top = len(order) - 1
        return {name: STEM_SCALE ** (1 - i / top) for i, names in enumerate(order) for name in names}
    if recipe.layer_decay == 1 or not hasattr(model, "group_matcher"):
        return {name: 1.0 for name, _ in model.named_parameters()}
    layers = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
    top = max(layers.values())
    return {name: recipe.layer_decay ** (top - layer) for name, layer in layers.items()}


def groups(model, recipe: Recipe) -> list[dict]:
    """Parameter groups for timm's optimizers: ``params``, their ``names``, ``lr`` and ``weight_decay``.

    Biases, norms and what the model names in ``no_weight_decay`` aren't decayed. Stem first.
    """
    rates, exempt = scales(model, recipe), getattr(model, "no_weight_decay", set)()
    found: dict[tuple, dict] = {}
    for name, parameter in model.named_parameters():
        decay = 0.0 if parameter.ndim <= 1 or name in exempt else recipe.weight_decay
        key = rates[name], decay
        group = {"params": [], "names": [], "lr": recipe.lr * rates[name], "weight_decay": decay}
        found.setdefault(key, group)
        found[key]["params"].append(parameter)
        found[key]["names"].append(name)
    return [found[key] for key in sorted(found)]


def open_stages(model, n: int | None) -> None:
    """Let the last ``n`` stages train, or all; the others are frozen."""
    names = {name for stage in stages(model)[-n:] for name in stage} if n else None
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(names is None or name in names)


def train_mode(model, recipe: Recipe) -> None:
    """Train mode, but for BatchNorm whose weights are frozen, or all of it where the recipe keeps its statistics.

    By mode, not by ``timm.utils.freeze``: that puts modules of another kind in place, whose checkpoints don't load.
    """
    from torch.nn.modules.batchnorm import _BatchNorm

    model.train()
    for module in model.modules():
        frozen = not any(parameter.requires_grad for parameter in module.parameters())
        if isinstance(module, _BatchNorm) and (recipe.batch_norm == "frozen" or frozen):
            module.eval()


class Gradual:
    """How many stages train, from one epoch to the next; ``full``, where all do from the start.

    ``opened`` of ``n`` stages since epoch ``at``, and ``since`` epochs without progress: what a checkpoint keeps.
    """

    def __init__(self, model, recipe: Recipe):
        self.recipe = recipe
        self.n = len(stages(model)) if recipe.strategy == "gradual" else 0
        self.opened, self.at, self.since = 1 if self.n else 0, 0, 0

    def state(self) -> dict:
        return {"opened": self.opened, "at": self.at, "since": self.since}

    def after(self, epoch: int, *, progress: bool) -> tuple[bool, bool]:
        """Epoch ``epoch`` (from 0) is over: whether another stage opens now, and whether training stops."""
        self.since = 0 if progress else self.since + 1
        stuck = bool(self.recipe.patience) and self.since >= self.recipe.patience
        if self.opened == self.n:
            return False, stuck
        length = self.recipe.head_epochs if self.opened == 1 else self.recipe.stage_epochs
        if stuck or epoch + 1 - self.at >= length:
            self.opened, self.at, self.since = self.opened + 1, epoch + 1, 0
            return True, False
        return False, False
