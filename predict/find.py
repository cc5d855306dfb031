"""Finding trained models: by the folder of one, or all that lie below folders."""

from pathlib import Path

from backbench import Faults, UsageError, UserError
from backbench.cache import schema
from backbench.cache.arrays import MADE_BY_USER
from backbench.predict.predictors import Checkpoint, Head, Predictor
from backbench.probe import head
from backbench.training import checkpoint, checkpoint_kind

NEEDED = {
    **dict.fromkeys(("model", "weights", "weights_sha256", "dataset", "dataset_digest"), str),
    **dict.fromkeys(("pooling", *schema.PLAIN), str),
    **{"transform": dict, "seed": int, "input_scale": int | float},
}
"""What a head's identity must hold for other images to be extracted alike."""


KNOWN = {"precision": ("float32", "bfloat16", "float16"), "dtype": ("float32", "float16")}
"""The values of it that there are."""


def below(heads: Path, runs: Path) -> tuple[list[Predictor], Faults]:
    """Every head below ``heads`` and checkpoint below ``runs``, by folder; and why some can't be used."""
    found, faults = [], Faults()
    for path in sorted(heads.rglob(head.ABOUT)):
        with faults.collect():
            found.append(_head(path.parent))
    for path in sorted(runs.rglob(checkpoint.ABOUT)):
        with faults.collect():
            if one := _checkpoint(path.parent):
                found.append(one)
    return found, faults


def _folder(path: Path) -> Path:
    return path.parent if path.name in (head.ABOUT, head.TENSORS, checkpoint.ABOUT, checkpoint.TENSORS) else path


def is_one(path: Path) -> bool:
    """Whether ``path`` names a head or a checkpoint, as ``at`` takes it."""
    return any((_folder(path) / name).is_file() for name in (head.ABOUT, checkpoint.ABOUT))


def at(path: Path) -> Predictor:
    """The head or checkpoint in the folder ``path``, which may be named by a file in it.

    Raises UsageError where there is none, naming those below, and UserError where it can't be used.
    """
    folder = _folder(path)
    if (folder / head.ABOUT).is_file():
        return _head(folder)
    if (folder / checkpoint.ABOUT).is_file():
        if found := _checkpoint(folder):
            return found
        raise UserError(f"{folder} holds a run that diverged: train it again with a lower --lr.")
    names = (head.ABOUT, checkpoint.ABOUT)
    others = sorted({str(one.parent) for name in names for one in folder.rglob(name)}) if folder.is_dir() else []
    lies = f"These lie below: {', '.join(others[:10])}{' and more' if len(others) > 10 else ''}." if others else (
        "A head is a folder that probe --save makes, such as heads/digits/resnet50-logistic; a run is one of finetune "
        "or cnn, such as runs/digits/resnet50-simple-lp-ft-42."
    )  # fmt: skip
    found = "holds no head and no checkpoint" if folder.is_dir() else "does not exist"
    raise UsageError(f"{path} {found}. {lies}")


def _head(folder: Path) -> Predictor:
    saved = head.load(folder)
    identity = {**schema.PLAIN, **saved.identity}
    if identity.get("weights") == MADE_BY_USER:
        raise UserError(
            f"{folder} was fitted on features of your own, so that no backbone can see images for it. Give it such "
            f"features: probe predict --head {folder} --features FILE.npz"
        )
    wrong = [key for key, kind in NEEDED.items() if not isinstance(identity.get(key), kind)]
    wrong += [key for key, known in KNOWN.items() if identity.get(key) not in known]
    if wrong:
        raise UserError(f"{folder / head.ABOUT} is damaged: its identity's {', '.join(wrong)} not as probe writes it.")
    label, seed = schema.label(identity), saved.row.get("seed", identity["seed"])
    return Head(folder, saved.classes, identity, saved.row, label, saved.method, seed)


def _checkpoint(folder: Path) -> Predictor | None:
    about = checkpoint.read_about(folder)
    if about["ended"].startswith("diverged"):
        return None
    identity = {key: about[key] for key in ("dataset", "dataset_digest", "seed", "transform", "model")}
    method = checkpoint_kind.method(checkpoint_kind.stage(about["timm_name"]), about["recipe"])
    row = about["row"] | {"sha256": about["sha256"]}
    return Checkpoint(folder, about["classes"], identity, row, about["model"], method, about["seed"])
