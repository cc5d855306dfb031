"""``import backbench as bb``: what the commands do, as functions. The way of a datum, from images to a table:

images --``extract``--> features --``probe``--> result --``compare``--> which backbone is best on these images.

Features are an open feature file (``open``) or arrays in memory (``Features``); ``results`` reads what the commands and
``probe(..., results_dir=...)`` wrote. Nothing is printed: faults are raised as UserError, or UsageError for what was
asked, ``progress(label, done, total)`` is called as an extraction goes on, and what a command would say besides is
logged by the logger ``backbench``. Everything is imported where it is used, so that importing this costs nothing.
"""

import inspect
import tempfile
from importlib import import_module
from pathlib import Path

from backbench import UsageError, UserError, suggest
from backbench.progress import silenced, tell

EXTRACT = {
    "weights": "auto", "device": "auto", "seed": 42, "exif": "ignore", "on_error": "fail", "layer": "last",
    "pool": "default", "input_scale": 1.0, "precision": "auto", "compile": "auto", "batch_size": None, "readers": None,
    "dtype": "float32", "input_guard": True, "views": 1, "views_as": "mean", "overwrite": False,
}  # fmt: skip
"""Options of ``extract`` and their defaults: the command's, by its names. ``dtype`` is its --feature-dtype."""


def open(path):
    """Open the feature file at ``path``, or an .npz file with arrays of one's own, compared with its checksum.

    It holds ``features`` (N, D), ``labels`` and ``split`` (N,), ``ids`` and ``class_names``. As a context manager it is
    closed at the end. Raises UserError where it can't be used.
    """
    from backbench.cache.features import open_file

    return open_file(path)


def extract(
    model: str, images, *, labels=None, ids=None, class_names=None, split=None, cache_dir="cache", data_root="data/raw",
    results_dir=None, download: bool = False, if_busy: str = "refuse", progress=None, **options,
):  # fmt: skip
    """Run the frozen backbone ``model`` once over ``images`` and give their features, as ``open`` or ``Features`` does.

    ``images`` is the name of a data set, ``"digits"``, ``"folder:PATH"`` or that Path: its features are kept in
    ``cache_dir`` and not computed twice, and a row is written only to a ``results_dir``. Or it is a list of N PIL
    images or paths, whose features are in memory alone; ``labels``, ``split``, ``class_names`` and ``ids``, for paths
    the paths themselves, are then as ``Features`` takes them. Other options are the command's, see ``EXTRACT``.

    Raises UsageError for what isn't known, and UserError, which names all of them, for images that can't be read.
    """
    _known(options, EXTRACT, "extract")
    how, listed = EXTRACT | options, {"labels": labels, "ids": ids, "class_names": class_names, "split": split}
    images = f"folder:{images}" if isinstance(images, Path) else images
    with silenced(progress, stderr=True):  # what torch and the hub write, too
        if isinstance(images, str):
            if given := [name for name, value in listed.items() if value is not None]:
                raise UsageError(
                    f"{', '.join(given)}: the data set {images!r} has its own; they go with a list of images."
                )
            return _extract_set(model, images, Path(cache_dir), data_root, results_dir, download, if_busy, how)
        return _extract_list(model, list(images), listed, how)


def _extract_set(model, name, cache_dir, data_root, results_dir, download, if_busy, how):
    from backbench.cache.features import open_file
    from backbench.extract.pipeline import extract_all

    layer, how = how["layer"], {key: value for key, value in how.items() if key != "layer"}
    with tempfile.TemporaryDirectory(prefix="backbench-") as nowhere:
        done, faults = extract_all(
            [model], [name], layers=[layer], cache_dir=cache_dir, results_dir=results_dir or nowhere,
            data_root=data_root, download=download, if_busy=if_busy, **how,
        )  # fmt: skip
    faults.stop()
    if len(done) != 1:
        raise UsageError(f"model={model!r} stands for {len(done)} backbones: name one at a time.")
    return open_file(done[0]["path"])


def _extract_list(model, given, listed, how):
    import numpy as np

    from backbench.cache.arrays import Features
    from backbench.data.given import NAME
    from backbench.data.given import images as given_images
    from backbench.extract.from_list import extract as run

    if not given:
        raise UserError("an empty list of images: at least one is expected.")
    if listed["ids"] is None and all(isinstance(one, str | Path) for one in given):
        listed["ids"] = [Path(one).as_posix() for one in given]
    # Checks labels, ids and split, and makes the split where there is none.
    stand_in = Features(np.zeros((len(given), 1), np.float32), **listed, seed=how["seed"])
    told = {"ids": stand_in.ids, "labels": stand_in.labels, "split": stand_in.split, "exif": how.pop("exif")}
    imageset = given_images(given, **told, class_names=stand_in.class_names, name=NAME)
    found = run(model, imageset, skip_unreadable=how.pop("on_error") == "skip", **how)
    found.labelled = stand_in.labelled
    return found


def probe(
    features, method: str = "logistic", *, seed: int = 42, shots: int | None = None, folds: int | None = None, curve=(),
    intervals: str = "beta", memory_limit: int | None = None, exclude=(), relabel=(), results_dir=None, **options,
):  # fmt: skip
    """Fit a head on ``features``: chosen on val, refitted on train+val, and only then tested, once. Gives a ``Result``.

    ``features`` are those of ``open``, ``Features`` or ``extract``, or a path. ``method`` is logistic, ridge, knn,
    centroid or published, and ``options`` are its own, such as ``class_weight="balanced"``; ``shots`` images a class
    are seen, or all; ``curve`` are shares of train to fit beside. With ``folds`` each image is predicted by a head
    fitted on the other folds, and there is no single head. ``exclude`` and ``relabel`` are the paths of an
    ``audit.csv`` each, or several: images that it decides on are left out or get another class. The row is written only
    to a ``results_dir``. Raises UserError where no probe would mean anything, and UsageError for a method or an option
    that isn't known.
    """
    from backbench import decisions, details, duplicates
    from backbench.cache.decided import decided, note
    from backbench.probe import METHODS, run
    from backbench.probe import folds as cross_validation
    from backbench.probe.classifier import Classifier
    from backbench.probe.result import Result

    if isinstance(features, str | Path):
        with open(features) as file:
            return probe(
                file, method, seed=seed, shots=shots, folds=folds, curve=curve, intervals=intervals,
                memory_limit=memory_limit, exclude=exclude, relabel=relabel, results_dir=results_dir, **options,
            )  # fmt: skip
    _known([method], METHODS, "method")
    _known([intervals], run.INTERVALS, "intervals")
    _known(options, _options_of(METHODS[method]), method)
    if not getattr(features, "labelled", True):
        raise UserError("these features have no labels to fit a head on: give labels=.")
    if folds and (shots or curve):
        raise UsageError("folds= fits heads on all images: it doesn't go with shots= and curve=.")
    if folds is not None and folds < 2:
        raise UsageError(f"folds={folds!r}: at least 2 are expected.")
    asked = {"seed": seed, "shots": shots, "folds": folds, "curve": tuple(curve) or None, **options}
    for name, paths in (("exclude", exclude), ("relabel", relabel)):
        asked[name] = decisions.several(paths) or None
    if method == "logistic":
        options = {"device": "auto", "class_weight": "none"} | options  # as the command has them
    settings = {"seed": seed, "options": {method: options}, "curve": tuple(curve), "intervals": intervals, "keep": True}
    settings |= {} if memory_limit is None else {"memory_limit": memory_limit}
    if given := decisions.read(exclude, relabel):
        features = decided(features, given)
    with silenced():
        task = run.Task(features.path, method, seed, shots, folds=folds)
        if given:
            tell(note(features, given))
        if folds:
            cross_validation.check(features, folds)
            row, beside, saved = cross_validation.probe(features, task, run.Settings(**settings))
        else:
            run.check(features)
            duplicates.say(features)
            row, beside, saved = run.probe(features, task, run.Settings(**settings))
        told = [f"{name}={value!r}" for name, value in asked.items() if value is not None]
        row["command"] = f"backbench.probe({', '.join([repr(str(features.path)), repr(method), *told])})"
        if results_dir is not None:
            details.keep(results_dir, row, beside)
    return Result(row, beside, saved and Classifier(saved))


def compare(found):
    """Which of these ``Result``s can't be told from the one that val chose: a pandas DataFrame, a line a head.

    As ``report compare``: McNemar's exact test on the same test images, Holm-corrected over all pairs; of one thing
    measured at several seeds the newest counts. Raises UserError where no two can be compared.
    """
    import pandas as pd

    from backbench import details
    from backbench.report import compare as comparison

    with tempfile.TemporaryDirectory(prefix="backbench-") as folder, silenced(stderr=True):
        rows = []
        for result in found:
            rows.append(dict(result.row))
            details.keep(folder, rows[-1], result.details)
        return pd.DataFrame(comparison.compare(rows, Path(folder)))


def load(*paths, weights=None, trust: bool = False, device: str = "auto"):
    """What ``backbench predict`` classifies by: a head's or a run's folder, or several of the same classes.

    Its ``predict(images)`` takes paths, PIL images, arrays, or a folder; see ``predict.model.Model``. ``weights`` are
    weights of one's own that a head stands on; without ``trust`` no weights are downloaded because a head says so.
    Raises UsageError where there is no such folder, and UserError where it can't be used.
    """
    from backbench.predict.model import Model

    if not paths:
        raise UsageError("bb.load() takes the folder of a head or of a run, such as heads/digits/resnet50-logistic.")
    return Model(paths, weights=weights, trust=trust, device=device)


def results(results_dir="results"):
    """What was measured: a pandas DataFrame of the rows in ``results_dir``, as ``report`` shows them, seeds averaged.

    Accuracies are 0..1. There are no lines where there is no row yet. Raises UserError naming every broken row.
    """
    from backbench import rows
    from backbench.report.table import tidy

    with silenced(stderr=True):
        return tidy(rows.read(results_dir))


def audit(features, *, dataset=None, data_root="data/raw", look: bool = True, seed: int = 42):
    """Find duplicates, leaks, wrong labels and outliers in the images of feature files, as ``backbench audit`` does.

    ``features`` is a path, a folder or a pattern, or several, all of one data set. ``dataset`` names one's own images;
    with ``look=False`` none is read. Returns an ``audit.run.Audit`` with ``findings``, ``figures``, ``overlaps`` and
    ``shortcuts``; nothing is written. Raises UserError for files that can't be audited together.
    """
    from backbench.audit.run import audit
    from backbench.decisions import several

    with silenced():
        return audit(several(features), dataset=dataset, data_root=Path(data_root), look=look, seed=seed)[0]


def to_parquet(
    features, out, *, dataset=(), data_root=None, findings=None, results_dir="results", overwrite: bool = False
) -> list[dict]:  # fmt: skip
    """Write feature files as parquet tables, as ``backbench cache export`` does; see ``cache.parquet`` for the columns.

    ``features`` is a path, a folder or a pattern, or several. ``out`` is a folder, or of one feature file a path that
    ends with .parquet. ``data_root``, or ``dataset`` with the name of one's own data set or several, add the paths of
    the images' files, and ``findings`` is the path of an ``audit.csv``. Returns for each table its ``path``, ``n``,
    ``dim``, ``n_predicted``, ``n_files`` and ``columns``. Raises UserError where one can't be written; the others are.
    """
    from backbench.decisions import several

    with silenced():
        done, faults = export_parquet(
            several(features), out, dataset=several(dataset), data_root=data_root, findings=findings,
            results_dir=results_dir, overwrite=overwrite,
        )  # fmt: skip
        faults.stop()
    return done


def export_parquet(features, out, *, dataset, data_root, findings, results_dir, overwrite):
    """Write the tables of ``to_parquet``; gives what was written, and the faults of single files."""
    from backbench import findings as audits
    from backbench.cache import parquet

    def locate(identity, folder):
        from backbench.data import of_features

        return of_features.paths(identity, dataset, data_root=Path(data_root or "data/raw"), kept=folder)

    located = locate if dataset or data_root is not None else None
    found = None if findings is None else (Path(findings), audits.read(findings))
    how = {"locate": located, "findings": found, "results_dir": results_dir, "overwrite": overwrite}
    return parquet.export(features, out=Path(out), **how)


def _options_of(place: str) -> set[str]:
    """What a method takes besides the data, by the place of its class."""
    module, name = place.split(".")
    method = getattr(import_module(f"backbench.probe.{module}"), name)
    return {*inspect.signature(method).parameters} - {"data", "n_classes", "seed"}


def _known(given, known, what: str) -> None:
    """Raise UsageError for every name that isn't known."""
    if unknown := [name for name in given if name not in known]:
        offer = f" Known: {', '.join(sorted(known)) or 'none'}."
        raise UsageError(*(f"{what} knows no {name!r}.{suggest(str(name), known)}{offer}" for name in unknown))
