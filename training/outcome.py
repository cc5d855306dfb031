"""Descriptions of how a training run ended."""

from backbench.training import checkpoint


def describe(chosen: dict) -> str:
    """Return a short description of the chosen weights, such as ``epoch 7, EMA, wise 0.6``."""
    words = [f"epoch {chosen['epoch']}" if chosen["epoch"] else "the start"]
    words += ["EMA"] if chosen["weights"] == "EMA" else []
    words += [f"wise {chosen['wise']:g}"] if chosen.get("wise") not in (None, 1) else []
    return ", ".join(words)


def diverged(job, why: str, chosen: dict) -> str:
    """Return the error message for a ``training.job.Job`` that diverged."""
    return (
        f"{job.backbone.name} on {job.imageset.name} {why}, with learning rate {job.recipe.lr:g}. "
        f"{job.folder / checkpoint.TENSORS} holds the best weights on val until then ({describe(chosen)}, val top-1 "
        f"{chosen['val_top1']:.1%}). Test was not read. Try --lr {job.recipe.lr / 10:g} --overwrite."
    )
