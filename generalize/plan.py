"""What is to be evaluated, before any image is read: every trained model with every data set and corruption."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from backbench import Faults, UsageError, UserError, suggest
from backbench.data import contents, hf, layouts, maps, registry, shards, table, wds
from backbench.data.notes import tell_notes
from backbench.generalize import corruptions

UNKNOWN = {"caltech256": "caltech256/clutter", "caltech101": "caltech101/background"}
"""Images of no class that come with a data set. They are used where they exist and the target has none of its own."""


@dataclass(frozen=True)
class Request:
    """What was asked for: which trained models, how to see images, and where everything lies."""

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
    on_error: str = "fail"


@dataclass(frozen=True)
class Evaluation:
    """One trained model on one target.

    ``origin`` is the data set that it was trained on, ``groups`` its classes' counterparts in ``target``. ``others``
    is a data set of no known class, and ``unknown`` its name. With a ``corruption`` and its ``strength``, from 1, the
    target is the source's own test images, corrupted.
    """

    thing: object
    origin: object
    target: object
    groups: maps.Groups
    unknown: str | None = None
    others: object = None
    corruption: str | None = None
    strength: int | None = None


@dataclass
class Plan:
    """The evaluations, what is ``skipped`` by its nature with the reason, and the faults of single evaluations."""

    evaluations: list[Evaluation] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    faults: Faults = field(default_factory=Faults)


class DataSets:
    """Data sets, each loaded once as a trained model would have split and turned it."""

    def __init__(self, request: Request):
        self.request, self.loaded = request, {}

    def load(self, name: str, thing):
        """The data set ``name``. Raises UserError where it is not there."""
        key = name, thing.identity["seed"], thing.exif
        if key not in self.loaded:
            settings = {"data_root": self.request.data_root, "download": self.request.download}
            self.loaded[key] = found = registry.load(name, seed=key[1], exif=key[2], **settings)
            tell_notes(found)
            contents.look(found, self.request.cache_dir / found.slug)
        return self.loaded[key]

    def origin(self, thing):
        """The data set that ``thing`` was trained on. Raises UserError where it is not there as it was."""
        name = thing.source
        if name not in registry.names():
            asked = [one for one in map(registry.spelled, self.request.sources) if ":" in one]
            given = [one for one in asked if self.load(one, thing).name == name]
            if not given:
                kind, _, what = name.partition("-")
                raise UserError(
                    f"where the images of {name} lie isn't kept: say it with --source {kind}:PATH-OF-{what}"
                )
            name = given[0]
        found = self.load(name, thing)
        if not found.known_as(thing.identity["dataset_digest"]):
            raise UserError(
                f"{thing.folder} was trained on other images of {thing.source} than there are in {found.root}, on "
                "another split, or with --exclude or --relabel: of these images, none is sure to be new to it. Train "
                "it again on all of them"
            )
        return found


def choose(things, *, sources=(), models=(), methods=()) -> list:
    """The trained models that are named; all where nothing is. Raises UsageError for a name that fits none of them."""
    faults = []
    flat = tuple(registry_name(name) for name in sources)
    for flag, given, of in (
        ("--source", flat, lambda t: t.source),
        ("--model", models, lambda t: t.model),
        ("--method", methods, lambda t: t.method),
    ):
        known = sorted({of(thing) for thing in things})
        faults += [
            f"{flag} {name}: nothing trained has that name.{suggest(name, known)} There are: {', '.join(known)}."
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
        faults.append("--source, --model and --method together leave no trained model. Leave one of them out.")
    if faults:
        raise UsageError(*faults)
    return chosen


def registry_name(given: str) -> str:
    """The name of a data set that is given as folder:PATH and the like. Options that choose images are part of it."""
    kind, colon, _ = registry.spelled(given).partition(":")
    if not colon:
        return given
    asked = shards.parse(registry.spelled(given), known=(*layouts.OPTIONS, *wds.OPTIONS, *hf.OPTIONS, *table.OPTIONS))
    path = Path(asked.path).expanduser().resolve()
    if kind == "table":
        return f"table-{path.stem}"
    return shards.name_of(asked, path.stem if path.is_file() else path.name)


def plan(request: Request, targets, kinds) -> Plan:
    """Every trained model with every data set of ``targets`` and every strength of the corruptions ``kinds``.

    Raises UserError with everything that is wrong in the request itself.
    """
    datasets, made = DataSets(request), Plan()
    faults = Faults()
    for name in [*targets, *([request.unknown] if request.unknown else [])]:
        with faults.collect():
            datasets.load(name, request.things[0])
    if request.map_file:
        with faults.collect():
            maps.read(request.map_file)
    faults.stop()
    for thing in request.things:
        for name in targets:
            with made.faults.collect():
                _on_target(made, request, datasets, thing, name)
        for name in kinds:
            with made.faults.collect():
                made.evaluations += _corrupted(request, datasets.origin(thing), thing, name)
    return made


def _on_target(made: Plan, request: Request, datasets: DataSets, thing, name: str) -> None:
    target = datasets.load(name, thing)
    if target.known_as(thing.identity["dataset_digest"]):
        made.skipped.append(f"{thing.folder} on {name}: it was trained there")
        return
    try:
        groups = maps.between(thing.source, thing.classes, target.name, target.class_names, file=request.map_file)
    except UserError as error:
        if request.map_file:
            raise
        made.skipped.append(f"{thing.folder} on {name}: {error}")
        return
    origin = datasets.origin(thing)
    known = groups.of_target[target.labels] >= 0
    if not known.any() or not (groups.of_source[origin.labels[origin.split == 2]] >= 0).any():
        made.skipped.append(
            f"{thing.folder} on {name}: there is no image of a class that corresponds, in it or in the source's test"
        )
        return
    unknown = request.unknown or (None if not known.all() else _unknown(request, thing))
    others = datasets.load(unknown, thing) if unknown else None
    made.evaluations.append(Evaluation(thing, origin, target, groups, unknown, others))


def _unknown(request: Request, thing) -> str | None:
    name = UNKNOWN.get(thing.source)
    return name if name and registry.there(name, request.data_root) else None


def _corrupted(request: Request, origin, thing, name: str) -> list[Evaluation]:
    test = np.flatnonzero(origin.split == 2)
    same = maps.Groups(thing.classes, *(np.arange(len(thing.classes)),) * 2)
    return [
        Evaluation(
            thing, origin, corruptions.corrupted(origin, test, name, strength, seed=request.seed), same,
            corruption=name, strength=strength,
        )
        for strength in range(1, len(corruptions.LEVELS[name]) + 1)
    ]  # fmt: skip
