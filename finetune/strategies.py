"""Which weights train, when, and at what learning rate. This follows timm's grouping of parameters, not model names."""

from itertools import pairwise

from backbench import UserError
from backbench.finetune.recipe import Recipe

BODY = 4
"""Largest number of stages between stem and head; a ResNet has four. Where timm has more coarse groups (the blocks of a
ViT), neighbours are joined. All architectures are then unfrozen in as many steps, so that they compare."""

STEM_SCALE = 0.1
"""Learning rate of the stem as a share of the head's under ``discriminative``, as in the published study."""


def stages(model) -> list[list[str]]:
    """Return the names of all parameters by stage: the stem, up to four stages of the body, and the head.

    The head is the classifier alone. Raises UserError where timm doesn't say how the architecture is grouped.
    """
    from timm.models import group_parameters

    if not hasattr(model, "group_matcher"):
        raise UserError(f"timm names no stages for {type(model).__name__}: use --strategy full or lp-ft.")
    head = head_names(model)
    groups = group_parameters(model, model.group_matcher(coarse=True))
    groups = [groups[key] for key in sorted(groups)]
    if head & {*groups[-1]} and len(groups) > 1:  # a norm between body and classifier joins the last stage
        groups[-2:] = [groups[-2] + groups[-1]]
    groups = [kept for group in groups if (kept := [name for name in group if name not in head])]
    stem, body = groups[0], groups[1:]
    n = min(BODY, len(body))
    bounds = [round(i * len(body) / n) for i in range(n + 1)] if n else [0]
    joined = [[name for group in body[a:b] for name in group] for a, b in pairwise(bounds)]
    return [stem, *joined, sorted(head)]


def head_names(model) -> set[str]:
    """Return the names of the classifier's parameters."""
    found = model.get_classifier()
    modules = found if isinstance(found, tuple | list) else [found]
    theirs = {id(parameter) for module in modules for parameter in module.parameters()}
    return {name for name, parameter in model.named_parameters() if id(parameter) in theirs}


def scales(model, recipe: Recipe) -> dict[str, float]:
    """Return every parameter's learning rate as a share of the recipe's.

    Under ``discriminative`` the share rises by equal factors from 0.1 at the stem to 1 at the head (Howard & Ruder
    2018). Otherwise it is ``layer_decay`` to the power of the number of timm's layers above (Bao et al. 2021, BEiT).
    The head's share is multiplied by ``head_scale``, since a new head must change more than pretrained weights.
    """
    head = head_names(model)
    return {
        name: scale * (recipe.head_scale if name in head else 1.0) for name, scale in _by_depth(model, recipe).items()
    }


def soften(model, recipe: Recipe) -> None:
    """Under ``lp-ft``, multiply the probe's head by ``probe_scale``: its predictions stay, with less confidence.

    Y. Ren et al. (2023), How to prepare your task head for finetuning: a head that is confident on all of train gives
    the backbone no gradient to adapt by.
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
    """Return parameter groups for timm's optimizers: ``params``, their ``names``, ``lr`` and ``weight_decay``.

    Biases, norms and the parameters in the model's ``no_weight_decay`` aren't decayed. The stem comes first.
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
    """Let the last ``n`` stages train and freeze the others; None or 0 lets all stages train."""
    names = {name for stage in stages(model)[-n:] for name in stage} if n else None
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(names is None or name in names)


def train_mode(model, recipe: Recipe) -> None:
    """Set train mode, except for BatchNorm layers that are frozen or whose statistics the recipe keeps.

    ``timm.utils.freeze`` is not used, since it replaces modules by others, whose checkpoints don't load.
    """
    from torch.nn.modules.batchnorm import _BatchNorm

    model.train()
    for module in model.modules():
        frozen = not any(parameter.requires_grad for parameter in module.parameters())
        if isinstance(module, _BatchNorm) and (recipe.batch_norm == "frozen" or frozen):
            module.eval()


class Gradual:
    """The number of stages that train in each epoch. Without the strategy ``gradual``, all train from the start.

    ``opened`` of ``n`` stages have been trained since epoch ``at``, and ``since`` epochs brought no progress. A saved
    training state keeps these three.
    """

    def __init__(self, model, recipe: Recipe):
        self.recipe = recipe
        self.n = len(stages(model)) if recipe.strategy == "gradual" else 0
        self.opened, self.at, self.since = 1 if self.n else 0, 0, 0

    def state(self) -> dict:
        return {"opened": self.opened, "at": self.at, "since": self.since}

    def after(self, epoch: int, *, progress: bool) -> tuple[bool, bool]:
        """Return whether another stage opens, and whether training stops, after epoch ``epoch`` (counted from 0)."""
        self.since = 0 if progress else self.since + 1
        stuck = bool(self.recipe.patience) and self.since >= self.recipe.patience
        if self.opened == self.n:
            return False, stuck
        length = self.recipe.head_epochs if self.opened == 1 else self.recipe.stage_epochs
        if stuck or epoch + 1 - self.at >= length:
            self.opened, self.at, self.since = self.opened + 1, epoch + 1, 0
            return True, False
        return False, False
