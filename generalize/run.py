"""Everything trained, on images from elsewhere or made worse: one row a trained thing and target."""

import hashlib
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from backbench import Faults, UsageError, UserError, calibration, columns, details, identity, rows, statistics, suggest
from backbench.data import maps, registry
from backbench.devices import device_name
from backbench.generalize import corruptions, predictors
from backbench.generalize import figures as elsewhere

UNKNOWN = {"caltech256": "caltech256/clutter", "caltech101": "caltech101/background"}
"""Pictures of no class that come with a set, used where they are there and the target has none itself."""

READINGS = (
    "top1: among all classes of the head, those of one target class together, their probabilities added at the head's "
    "temperature; top1_mapped_classes: among the classes that correspond alone; source_: on the source's test images "
    "of the same classes, in the same groups"
)
"""What a row says of its accuracies."""


@dataclass
class Request:
    """What to evaluate, on what."""

    things: list
    device: object
    cache_dir: Path
    results_dir: Path
    data_root: Path
    map_file: Path | None = None
    unknown: str | None = None
    sources: tuple[str, ...] = ()
    seed: int = 42
    download: bool = False
    skipped: list[str] = field(default_factory=list)
    _sets: dict = field(default_factory=dict)
    _scores: dict = field(default_factory=dict)

    def imageset(self, name: str, thing):
        """The set as the thing would have split and turned it."""
        key = name, thing.identity["seed"], thing.exif
        if key not in self._sets:
            how = {"data_root": self.data_root, "seed": key[1], "exif": key[2], "download": self.download}
            self._sets[key] = registry.load(name, **how)
        return self._sets[key]

    def origin(self, thing):
        """The set that the thing was trained on. Raises UserError where it isn't there as it was."""
        name = thing.source
        if name not in registry.names():
            given = [one for one in self.sources if ":" in one and self.imageset(one, thing).name == name]
            if not given:
                kind, _, what = name.partition("-")
                raise UserError(
                    f"where the images of {name} lie isn't kept: say it with --source {kind}:PATH-OF-{what}"
                )
            name = given[0]
        found = self.imageset(name, thing)
        if found.digest != thing.identity["dataset_digest"]:
            raise UserError(
                f"{thing.folder} was trained on other images of {thing.source} than there are in {found.root}, or on "
                "another split: of these, none is sure to be new to it. Train it again"
            )
        return found

    def own(self, thing) -> predictors.Scores:
        """Its scores of its source's test images, kept for the next target."""
        if thing.folder not in self._scores:
            how = {"cache_dir": self.cache_dir, "device": self.device, "test_only": True}
            self._scores = {thing.folder: thing.on(self.origin(thing), **how)}
        return self._scores[thing.folder]


def choose(things, *, sources=(), models=(), methods=()) -> list:
    """Those named; all where nothing is. Raises UsageError for a name that fits none of them."""
    faults = []
    flat = tuple(registry_name(name) for name in sources)
    for flag, given, of in (
        ("--source", flat, lambda t: t.source),
        ("--model", models, lambda t: t.model),
        ("--method", methods, lambda t: t.method),
    ):
        known = sorted({of(thing) for thing in things})
        faults += [
            f"{flag} {name}: nothing trained is of that name.{suggest(name, known)} There are: {', '.join(known)}."
            for name in given
            if name not in known
        ]
    chosen = [
        thing
        for thing in things
        if (not flat or thing.source in flat)
        and (not models or thing.model in models)
        and (not methods or thing.method in methods)
    ]
    if not (chosen or faults):
        faults.append("nothing trained is all of that: --source, --model and --method leave nothing together.")
    if faults:
        raise UsageError(*faults)
    return chosen


def registry_name(given: str) -> str:
    """How an image set given as folder:PATH and the like calls itself."""
    kind, colon, path = given.partition(":")
    return f"{kind}-{Path(path.partition('?')[0]).resolve().name}" if colon else given


def run(request: Request, targets, kinds) -> tuple[list[dict], Faults]:
    """The rows, added to the results, and the faults met: what fails stops nothing else. What can't be evaluated by its
    nature (no classes in common, its own set) is in ``request.skipped``.

    Raises UserError, before any work, with everything that is wrong in the request itself.
    """
    found, faults = [], Faults()
    for name in [*targets, *([request.unknown] if request.unknown else [])]:
        with faults.collect():
            request.imageset(name, request.things[0])
    if request.map_file:
        with faults.collect():
            maps.read(request.map_file)
    faults.stop()
    for thing in request.things:
        for name in targets:
            with faults.collect():
                if made := _on_target(request, thing, name):
                    found.append(_kept(request, *made))
        for name in kinds:
            for strength in range(1, len(corruptions.LEVELS[name]) + 1):
                with faults.collect():
                    found.append(_kept(request, *_shifted(request, thing, name, strength)))
    faults.errors = list({error.faults: error for error in faults.errors}.values())  # met at every strength, said once
    return found, faults


def _on_target(request: Request, thing, name: str):
    imageset = request.imageset(name, thing)
    who = f"{thing.folder} on {name}"
    if imageset.digest == thing.identity["dataset_digest"]:
        request.skipped.append(f"{who}: it was trained there")
        return None
    try:
        groups = maps.between(thing.source, thing.classes, imageset.name, imageset.class_names, file=request.map_file)
    except UserError as error:
        if request.map_file:
            raise
        request.skipped.append(f"{who}: {error}")
        return None
    source, target = request.own(thing), thing.on(imageset, cache_dir=request.cache_dir, device=request.device)
    started = time.perf_counter()
    known, groups = groups.of_target[target.labels] >= 0, elsewhere.present(groups, target)
    if not known.any() or not (groups.of_source[source.labels] >= 0).any():
        request.skipped.append(f"{who}: there is no image of a class that corresponds, in it or in the source's test")
        return None
    figures, beside = _assess(thing, source, target, groups)
    others, told = target.scores[~known], f"{imageset.name}, classes without a counterpart"
    if request.unknown or not len(others):
        told = request.unknown or _unknown(request, thing)
        others = _unknown_scores(request, thing, told) if told else others
    if len(others):
        figures |= {"unknown": told} | elsewhere.unknown(target.scores[known], others, t=thing.temperature)
    figures |= {"target": imageset.name, "corruption": None}
    return thing, imageset, target, figures, beside, started


def _assess(thing, source, target, groups, **how):
    return elsewhere.assess(source, target, groups, thing.classes, t=thing.temperature, **how)


def _unknown(request: Request, thing) -> str | None:
    name = UNKNOWN.get(thing.source)
    return name if name and registry.there(name, request.data_root) else None


def _unknown_scores(request: Request, thing, name: str) -> np.ndarray:
    return thing.on(request.imageset(name, thing), cache_dir=request.cache_dir, device=request.device).scores


def _shifted(request: Request, thing, name: str, strength: int):
    origin, source = request.origin(thing), request.own(thing)
    test = np.flatnonzero(origin.split == 2)
    imageset = corruptions.corrupted(origin, test, name, strength, seed=request.seed)
    target = thing.on(imageset, cache_dir=request.cache_dir, device=request.device)
    started = time.perf_counter()
    if target.ids != source.ids:
        raise UserError(f"{imageset.name} has other readable images than {origin.name}: mend those that can't be read")
    same = maps.Groups(thing.classes, *(np.arange(len(thing.classes)),) * 2)
    groups = elsewhere.present(same, target)
    figures, beside = _assess(thing, source, target, groups, paired=True)
    level = corruptions.LEVELS[name][strength - 1]
    figures |= {"target": imageset.name, "corruption": name, "strength": strength, "level": level}
    return thing, imageset, target, figures, beside, started


def _kept(request: Request, thing, imageset, target, figures, beside, started) -> dict:
    """The row, written with its details."""
    row = rows.make(
        "generalize",
        dataset=imageset.name,
        model=thing.model,
        method=thing.method,
        seed=thing.row.get("seed", thing.seed),
        figures={"source": thing.source, "trained": thing.folder, "shots": None, **figures}
        | {"val_top1": thing.row.get("val_top1"), "trained_key": identity.key(thing.row)}
        | {"target_digest": imageset.images_digest}
        | {"source_digest": request.origin(thing).images_digest},
        protocol={
            "readings": READINGS,
            "classes": len(beside["class_names"]),
            "map": str(request.map_file) if request.map_file else "as shipped, or of equal names",
            "intervals": f"{statistics.INTERVALS}; drops: these limits joined (Newcombe 1998, method 10; relative: "
            "Donner & Zou 2012), "
            + ("paired by image" if figures["corruption"] else "each set's images for themselves"),
            "calibration": f"temperature of the source's val. {calibration.PROTOCOL}",
        },
        settings=identity.settings(thing.row) | {"map": _map(request)},
        features=target.identity,
        device=device_name(request.device),
        seconds=time.perf_counter() - started,
    )
    named = {key: row[key] for key in ("dataset", "model", "method", "seed", "shots")}
    beside = named | {"dataset_digest": target.identity["dataset_digest"]} | beside
    details.keep(request.results_dir, row, rows.plain(beside))
    print(
        f"{row['model']} {row['method']}: {row['source']} to {row['target']}, top-1 {row['top1']:.1%}", file=sys.stderr
    )
    return row


def _map(request: Request) -> str | None:
    """The user's own map between classes, told by its name and content."""
    path = request.map_file
    return path and f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()[:8]}"


def table(found: list[dict]) -> str:
    """The rows for people, in percent and points."""
    lines = [["source", "target", "model", "method", "n", "source %", "top-1 %", "mapped %", "drop, points", "AUROC %"]]
    for row in found:
        drop = [100 * row[f"drop{end}"] for end in ("", "_low", "_high")]
        lines.append(
            [
                row["source"],
                row["target"],
                row["model"],
                row["method"],
                f"{row['n']:,}",
                f"{100 * row['source_top1']:.1f}",
                "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * row[f"top1{end}"] for end in ("", "_low", "_high"))),
                f"{100 * row['top1_mapped_classes']:.1f}",
                "{:.1f} [{:.1f}, {:.1f}]".format(*drop),
                "" if row.get("auroc_msp") is None else f"{100 * row['auroc_msp']:.1f}",
            ]
        )
    return columns(lines)
