"""Which room trained a checkpoint: a backbone, fine-tuned, or cnn's network, from scratch. Both are kept alike."""

from importlib.metadata import entry_points

from backbench import UserError

NETWORKS = "backbench.networks"
"""Entry points of rooms whose networks timm knows only once they are imported. setup.cfg names them."""


def stage(timm_name: str) -> str:
    """Of its rows: finetune or cnn."""
    return "cnn" if timm_name.startswith("cnn_") else "finetune"


def method(stage: str, recipe: dict) -> str:
    """The word for it in rows: ``finetune-simple/lp-ft``, with a share of ``--wise`` that was asked for behind it;
    ``cnn/base``, ``cnn/base/usual``."""
    name, strategy = recipe["name"], recipe["strategy"]
    if stage == "cnn":
        return f"cnn/{name}" if strategy == "scratch" else f"cnn/{name}/{strategy}"
    return f"finetune-{name}/{strategy}" + (f", {wise}" if (wise := wise_of(recipe)) else "")


def wise_of(recipe: dict) -> str:
    """``wise 0.5`` where that share was asked for; nothing where val chose it."""
    share = recipe.get("wise")
    return f"wise {share:g}" if isinstance(share, int | float) and share != 1 else ""


def prepare(about: dict, folder) -> None:
    """Have timm know cnn's networks where a checkpoint is one. Raises UserError where its recipe lacks the views."""
    if stage(about["timm_name"]) == "cnn":
        from backbench.training.views import VIEWS

        for room in entry_points(group=NETWORKS):
            room.load()
        if about["recipe"].get("views") not in VIEWS:
            raise UserError(f"{folder}: its recipe's views are {about['recipe'].get('views')!r}: none that cnn writes.")


def scorer(tuned, views: str | None = None):
    """A module from pictures to logits: the model, or cnn's, asked for several views of each, or for ``views``."""
    if tuned.stage != "cnn":
        if views:
            raise UserError(f"{tuned.folder} is a fine-tuned backbone: --views are for what cnn train made.")
        return tuned.model
    from backbench.training.views import Views

    return Views(tuned.model, views or tuned.about["recipe"]["views"]).eval()
