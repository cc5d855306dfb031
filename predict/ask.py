"""A request for predictions as words: which of them are trained models, and which are images."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from backbench import Faults, UsageError
from backbench.data.imageset import ImageSet
from backbench.predict import find, predictors
from backbench.predict.predictions import Predictions


def ask(
    places: Sequence[str], *, weights: Path | None, trust: bool, level, kind: str, rate, combine: str, top: int,
    data_root: Path, cache_dir: Path, device: str, lines: Iterable[str],
) -> tuple[Predictions, ImageSet, list[predictors.Predictor]]:  # fmt: skip
    """Classify images by trained models; both are named in ``places``, the models first.

    Returns the predictions, the images and the models. Raises UsageError or UserError with everything that is wrong in
    the request before any image is read.
    """
    from backbench.data import unlabelled
    from backbench.predict import run

    named, given = split(places)
    faults, models = Faults(), []
    for folder in named:
        with faults.collect():
            models.append(replace(find.at(folder), trust=trust, weights=weights))
    if models and not faults.errors:
        with faults.collect():
            run.check(models, level=level, kind=kind, rate=rate, combine=combine)
    imageset = None
    with faults.collect():
        how = {"exif": models[0].exif, "seed": models[0].identity["seed"]} if models else {"exif": "ignore"}
        imageset = unlabelled.images(given, data_root=data_root, lines=lines, **how)
    faults.stop()
    assert imageset is not None
    from backbench.allocator import keep_freed_memory
    from backbench.data.notes import tell_notes

    tell_notes(imageset)
    keep_freed_memory()
    asked = {"level": level, "kind": kind, "rate": rate, "combine": combine, "top": top}
    found = run.predict(models, imageset, cache_dir=cache_dir, device=device, **asked)
    return found, imageset, models


def split(places: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Return the models and the images among ``places``: the first is a model, and so are all heads and runs after it.

    Raises UsageError where either is missing.
    """
    if not places:
        raise UsageError("no head or run is named, and no images. For example: backbench predict heads/x photos")
    n = 1
    while n < len(places) and find.is_one(Path(places[n])):
        n += 1
    if not find.is_one(Path(places[0])):
        find.at(Path(places[0]))  # says what is there
    if n == len(places):
        raise UsageError("no images are named after the head or run: name a folder, files, or - for standard input.")
    return [Path(place) for place in places[:n]], list(places[n:])
