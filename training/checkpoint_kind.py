"""The two kinds of checkpoint: a fine-tuned backbone, and cnn's network trained from scratch."""

from importlib.metadata import entry_points

from backbench import UserError

NETWORKS = "backbench.networks"
"""The group of entry points in setup.cfg for modules that register their networks with timm when imported."""


def stage(timm_name: str) -> str:
    """Return the stage of its rows: finetune or cnn."""
    return "cnn" if timm_name.startswith("cnn_") else "finetune"


def method(stage: str, recipe: dict) -> str:
    """Return the method's name in rows, such as ``finetune-simple/lp-ft``, ``cnn/base`` or ``cnn/base/usual``.

    A share that was given with ``--wise`` follows: ``finetune-simple/lp-ft, wise 0.5``.
    """
    name, strategy = recipe["name"], recipe["strategy"]
    if stage == "cnn":
        return f"cnn/{name}" if strategy == "scratch" else f"cnn/{name}/{strategy}"
    return f"finetune-{name}/{strategy}" + (f", {wise}" if (wise := wise_of(recipe)) else "")


def wise_of(recipe: dict) -> str:
    """Return ``wise 0.5`` where that share was given, and an empty string where it was chosen on val."""
    share = recipe.get("wise")
    return f"wise {share:g}" if isinstance(share, int | float) and share != 1 else ""


def prepare(about: dict, folder) -> None:
    """Register cnn's networks with timm where the checkpoint is one of them.

    Raises UserError where its recipe has no valid ``views``.
    """
    if stage(about["timm_name"]) == "cnn":
        from backbench.training.views import VIEWS

        for networks in entry_points(group=NETWORKS):
            networks.load()
        if about["recipe"].get("views") not in VIEWS:
            raise UserError(
                f"{folder} is damaged: its recipe has views={about['recipe'].get('views')!r}, which cnn never writes."
            )


def scorer(tuned, views: str | None = None):
    """Return a module from images to logits. cnn's networks average the views of their recipe, or ``views``.

    Raises UserError where ``views`` is given for a fine-tuned backbone.
    """
    if tuned.stage != "cnn":
        if views:
            raise UserError(f"{tuned.folder} is a fine-tuned backbone. --views is only for checkpoints of cnn train.")
        return tuned.model
    from backbench.training.views import Views

    return Views(tuned.model, views or tuned.about["recipe"]["views"]).eval()
