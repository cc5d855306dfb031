"""The classes of new images by one trained model, or by several together."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np

from backbench import Faults, UsageError, UserError, conformal, printable
from backbench.cache import schema
from backbench.cache.features import open_file
from backbench.calibration import probabilities
from backbench.data import contents, decode, unlabelled
from backbench.data.imageset import ImageSet
from backbench.decisions import data_sets
from backbench.predict.features import extracted
from backbench.predict.predictions import Predictions
from backbench.predict.predictors import Predictor
from backbench.progress import tell

BLOCK = 4096
"""Images scored at a time, which bounds the memory."""

COMBINE = ("mean", "vote")
"""How several models are taken together: the mean of their probabilities, or the number of models that say a class,
where of equals the mean decides."""

STRANGE = 0.05
"""The false-alarm rate at which images are counted to warn of a head that doesn't know what it sees."""

SHOWN = 20
"""Largest number of unreadable images that an error names."""

SOME = 5
"""Largest number of classes that a sentence names."""

MOSTLY = 0.5
"""Share of images that are strange at that rate from which on the warning is given."""


def check(models: Sequence[Predictor], *, level=None, kind="lac", rate=None, combine="mean") -> None:
    """Raise UsageError or UserError with everything that keeps ``models`` from answering together as asked."""
    faults, first = Faults(), models[0]
    for other in models[1:]:
        with faults.collect():
            if other.classes != first.classes:
                odd = sorted({*other.classes} ^ {*first.classes})
                raise UserError(
                    f"{first.folder} and {other.folder} know different classes: {', '.join(odd[:5])}"
                    f"{', ...' if len(odd) > 5 else ''}. Models of the same classes can be taken together."
                )
        with faults.collect():
            if other.exif != first.exif:
                raise UserError(
                    f"{first.folder} and {other.folder} turn images differently (--exif): use one at a time."
                )
    with faults.collect():
        if combine not in COMBINE:
            raise UsageError(f"combine={combine!r}: {' or '.join(COMBINE)} is expected")
    for flag, value in (("--sets", level), ("--unknown", rate)):
        with faults.collect():
            if value is not None and len(models) > 1:
                raise UsageError(f"{flag} keeps its promise for one model alone: name one.")
            if value is not None and first.reference is None:
                made = "Train it again" if first.own_view else "Store the head again with probe --save"
                raise UserError(
                    f"{first.folder} keeps no scores of val images, which {flag} needs: an earlier version wrote it. "
                    f"{made}."
                )
    faults.stop()


def predict(
    models: Sequence[Predictor], imageset: ImageSet, *, cache_dir: Path, device, top: int = 5,
    level: float | None = None, kind: str = "lac", rate: float | None = None, combine: str = "mean", skip: bool = True,
) -> Predictions:  # fmt: skip
    """Classify every image by all of ``models`` together. What ``check`` refuses must have been refused before.

    ``top`` classes are kept for each image. ``level`` is the coverage of prediction sets of that ``kind``, and ``rate``
    the false-alarm rate at which an image is called unknown. Features that are in ``cache_dir`` are used; those that
    are missing are computed and kept there. ``skip`` passes over images that can't be read. Raises UserError.
    """
    reference = models[0].reference
    _warn_of_few(models[0], level, rate)
    trained = (models[0].identity.get("transform") or {}).get("levels") or {}
    if trained:  # grey of 16 bits is read as the model saw it, however dark the new images are
        imageset = replace(imageset, levels={**(imageset.levels or {}), **trained})
    kept = contents.Kept(imageset, Path(cache_dir) / imageset.slug)
    new = imageset.name.startswith(unlabelled.NEW)
    try:
        paths = extracted(models, imageset, cache_dir=cache_dir, device=device, skip=skip, renew=new)
    finally:
        kept.save()
    with ExitStack() as stack:
        files = [stack.enter_context(open_file(path)) for path in paths]
        for model, file in zip(models, files, strict=True):
            model.check(file)
        done = np.logical_and.reduce([file.done == schema.DONE for file in files])
        rows, ids = np.flatnonzero(done), files[0].ids
        if not len(rows):
            reasons = _reasons(imageset, range(min(len(ids), SHOWN)))
            raise UserError(
                f"none of the {len(ids):,} images can be read", *(f"{id}: {why}" for id, why in reasons.items())
            )
        truth = _truth(models, imageset, cache_dir, files[0].contents)
        parts = np.split(rows, range(BLOCK, len(rows), BLOCK))
        blocks = [_block(models, files, part, top, level, kind, combine) for part in parts]
    found = {
        key: np.concatenate([block[key] for block in blocks]) for key in ("top", "probability", "p_known", "votes")
    }
    known = found["p_known"] if reference is not None else None
    if known is not None:
        _warn_of_strange(models[0], known)
    return Predictions(
        ids=[ids[i] for i in rows],
        classes=models[0].classes,
        top=found["top"],
        probability=found["probability"],
        sets=[one for block in blocks for one in block["sets"]] if level is not None else None,
        p_known=known if rate is not None else None,
        unknown=None if rate is None or known is None else known <= rate,
        unreadable=_reasons(imageset, np.flatnonzero(~done).tolist()),
        truth=truth[rows] if (truth[rows] >= 0).any() else None,
        votes=found["votes"] if len(models) > 1 else None,
    )


def _block(models, files, rows: np.ndarray, top: int, level, kind: str, combine: str) -> dict:
    shares, p_known = [], np.ones(len(rows))
    for model, file in zip(models, files, strict=True):
        scores = model.score(file, rows)
        broken = np.flatnonzero(~np.isfinite(scores).all(axis=1))
        if len(broken):
            raise UserError(
                f"{model.folder}: the scores of {file.ids[rows[broken[0]]]} are not finite. Remove {file.path}, and "
                "its features are made again."
            )
        shares.append(probabilities(scores, model.temperature))
        if model is models[0] and model.reference is not None:
            name, strangeness = model.strangeness(scores, np.asarray(file.features[rows], np.float32))
            p_known = model.reference.p_known(name, strangeness)
    mean = np.mean(shares, axis=0)
    votes = np.zeros(mean.shape, int)
    for share in shares:
        votes[np.arange(len(rows)), share.argmax(axis=1)] += 1
    order = np.lexsort((-mean, -votes)) if combine == "vote" else np.argsort(-mean, axis=1, kind="stable")
    order = order[:, : min(top, mean.shape[1])]
    sets = []
    if level is not None:
        within = models[0].reference.sets(mean, level=level, kind=kind)
        ranked = np.argsort(-mean, axis=1, kind="stable")
        sets = [[int(k) for k in ranked[i] if within[i, k]] for i in range(len(rows))]
    return {
        "top": order,
        "probability": np.take_along_axis(mean, order, axis=1),
        "p_known": p_known,
        "votes": votes[np.arange(len(rows)), order[:, 0]],
        "sets": sets,
    }


def _warn_of_few(model: Predictor, level: float | None, rate: float | None) -> None:
    """Say so where val has too few images for what is asked: then every set is all classes, and nothing is unknown."""
    m = 0 if model.reference is None else len(model.reference)
    for share, what, then in (
        (level, f"sets with a coverage of {level}", "each set is all classes"),
        (rate and 1 - rate, f"a false-alarm rate of {rate}", "no image is called unknown"),
    ):
        if share is not None and m < (needed := conformal.images_needed(share)):
            tell(f"Warning: {model.folder} was chosen on {m:,} val images, and {what} take {needed:,}: {then}.")


def _warn_of_strange(model: Predictor, p_known: np.ndarray) -> None:
    """Say so where most images, by their p-values (n,), are none of those that ``model`` was trained on."""
    strange = float((p_known <= STRANGE).mean())
    if strange > MOSTLY:
        tell(
            f"Warning: {100 * strange:.0f} % of these images are stranger to {model.folder} than 95 % of the images "
            f"it was chosen on. It knows {_classes(model)}."
        )


def _classes(model: Predictor) -> str:
    """The first classes that a model knows, for people."""
    more = f" and {len(model.classes) - SOME:,} more" if len(model.classes) > SOME else ""
    return ", ".join(map(printable, model.classes[:SOME])) + more


def _truth(models, imageset: ImageSet, cache_dir: Path, known: np.ndarray | None) -> np.ndarray:
    """The class that each image's folder names (N,), -1 for none, and for images that any of ``models`` has seen.

    ``known`` are the images' contents (N,), where the feature file keeps them.
    """
    truth = unlabelled.truth(imageset, models[0].classes)
    if (truth < 0).all() and len(imageset.class_names) > 1:
        tell(f"No folder of these images is named as a class of {models[0].folder}, which knows {_classes(models[0])}.")
    for model in models:
        seen = np.zeros(len(truth), bool)
        if any(map(imageset.known_as, data_sets(model.identity))):
            seen = imageset.split < 2
        elif known is not None:
            seen = model.has_seen(known, cache_dir)
        if n := int((truth[seen] >= 0).sum()):
            tell(f"{n:,} images don't count for the accuracy: {model.folder} was fitted or chosen on them.")
            truth[seen] = -1
    return truth


def _reasons(imageset: ImageSet, rows) -> dict[str, str]:
    """Why these images can't be read, by name."""
    found = {}
    for i in rows:
        found[imageset.ids[i]] = "it could not be read when its features were computed"
        try:
            imageset.read(i)
        except decode.UnreadableImage as error:
            found[imageset.ids[i]] = error.reason
    return found
