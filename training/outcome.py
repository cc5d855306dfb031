"""How a training ended, in words."""

from backbench.training import checkpoint


def describe(chosen: dict) -> str:
    """The choice in a few words."""
    words = [f"epoch {chosen['epoch']}" if chosen["epoch"] else "the start"]
    words += ["EMA"] if chosen["weights"] == "EMA" else []
    words += [f"wise {chosen['wise']:g}"] if chosen.get("wise") not in (None, 1) else []
    return ", ".join(words)


def diverged(job, why: str, chosen: dict) -> str:
    """What to say of a ``finetune.job.Job`` whose loss left all bounds."""
    return (
        f"{job.backbone.name} on {job.imageset.name} {why}, with learning rate {job.recipe.lr:g}. "
        f"{job.folder / checkpoint.TENSORS} holds the best weights on val until then ({describe(chosen)}, val top-1 "
        f"{chosen['val_top1']:.1%}); test was not read. Try --lr {job.recipe.lr / 10:g} --overwrite."
    )
