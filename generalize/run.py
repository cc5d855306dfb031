"""Everything trained, on other data sets and on corrupted images: one row for each trained model and target."""

import hashlib
import time

from backbench import Faults, UserError, calibration, columns, coverage, details, identity, rows, statistics
from backbench.devices import device_name
from backbench.generalize import corruptions
from backbench.generalize import figures as figures_of
from backbench.generalize.plan import Evaluation, Request, plan
from backbench.predict import predictors
from backbench.progress import tell

READINGS = (
    "top1: among all classes of the head, those of one target class together, their probabilities added at the head's "
    "temperature; top1_mapped_classes: among the classes that correspond alone; source_: on the source's test images "
    "of the same classes, in the same groups"
)
"""What a row says of its accuracies."""


COVERAGE = "coverage_lac_95", "source_coverage_lac_95"
"""Keys of the coverage that the table shows."""


def run(request: Request, targets, kinds) -> tuple[list[dict], list[str], Faults]:
    """The rows, which are added to the results, what was skipped and why, and the faults: one stops nothing else.

    Raises UserError, before any work, with everything that is wrong in the request itself.
    """
    planned, found, own = plan(request, targets, kinds), [], {}
    for one in planned.evaluations:
        with planned.faults.collect():
            folder = one.thing.folder
            if folder not in own:  # the scores of the source's test images, for all targets of one model
                own = {folder: one.thing.scores_on(one.origin, **_where(request), test_only=True)}
            found.append(_measured(request, one, own[folder]))
    faults = planned.faults
    faults.errors = list({error.faults: error for error in faults.errors}.values())  # met at every strength, said once
    return found, planned.skipped, faults


def _where(request: Request) -> dict:
    return {"cache_dir": request.cache_dir, "device": request.device, "skip": request.on_error == "skip"}


def _measured(request: Request, one: Evaluation, source: predictors.Scores) -> dict:
    """The row of one evaluation, written with its details. Raises UserError where images can't be read."""
    target = one.thing.scores_on(one.target, **_where(request))
    started = time.perf_counter()
    if one.corruption and target.ids != source.ids:
        raise UserError(
            f"{one.target.name} has other readable images than {one.origin.name}: mend those that can't be read, or "
            "leave them out of both with --on-error skip"
        )
    known, groups = one.groups.of_target[target.labels] >= 0, figures_of.present(one.groups, target)
    if not known.any():
        raise UserError(f"{one.target.name}: no image of a class that corresponds can be read")
    temperature, reference = one.thing.temperature, one.thing.reference
    figures, beside = figures_of.assess(
        source, target, groups, one.thing.classes, t=temperature, paired=bool(one.corruption), reference=reference
    )
    others, which, name = target, ~known, f"{one.target.name}, classes without a counterpart"
    if one.unknown:
        others, which, name = one.thing.scores_on(one.others, **_where(request)), slice(None), one.unknown
    if len(others.scores[which]):
        figures |= {"unknown": name}
        figures |= figures_of.unknown(target.scores[known], others.scores[which], t=temperature)
    if reference:
        figures |= coverage.called_unknown(
            reference,
            target.strange_by,
            unknown_found=others.strange[which],
            unknown_false=target.strange[known],
            source_unknown_false=source.strange[groups.of_source[source.labels] >= 0],
        )
    figures |= {"target": one.target.name, "corruption": one.corruption, "n_skipped": target.n_skipped}
    if one.corruption:
        figures |= {"strength": one.strength, "level": corruptions.LEVELS[one.corruption][one.strength - 1]}
    return _kept(request, one, target, figures, beside, started)


def _kept(request: Request, one: Evaluation, target, figures, beside, started) -> dict:
    thing = one.thing
    row = rows.make(
        "generalize",
        dataset=one.target.name,
        model=thing.model,
        method=thing.method,
        seed=thing.row.get("seed", thing.seed),
        figures={"source": thing.source, "trained": thing.folder, "shots": None, **figures}
        | {"val_top1": thing.row.get("val_top1"), "trained_key": identity.key(thing.row)}
        | {"target_digest": one.target.images_digest}
        | {"source_digest": one.origin.images_digest},
        protocol={
            "readings": READINGS,
            "classes": len(beside["class_names"]),
            "map": str(request.map_file) if request.map_file else "as shipped, or of equal names",
            "intervals": f"{statistics.INTERVALS}; drops: these limits joined (Newcombe 1998, method 10; relative: "
            "Donner & Zou 2012), "
            + ("paired by image" if figures["corruption"] else "each set's images for themselves"),
            "calibration": f"temperature of the source's val. {calibration.PROTOCOL}",
            **({"prediction_sets": f"{coverage.PROTOCOL}, of the source"} if thing.reference else {}),
        },
        settings=identity.settings(thing.row) | {"map": _map(request)},
        features=target.identity,
        device=device_name(request.device),
        seconds=time.perf_counter() - started,
    )
    named = {key: row[key] for key in ("dataset", "model", "method", "seed", "shots")}
    beside = named | {"dataset_digest": target.identity["dataset_digest"]} | beside
    details.keep(request.results_dir, row, rows.plain(beside))
    tell(f"{row['model']} {row['method']}: {row['source']} to {row['target']}, top-1 {row['top1']:.1%}")
    return row


def _map(request: Request) -> str | None:
    """The user's own map between classes, told by its name and content."""
    path = request.map_file
    return path and f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()[:8]}"


def table(found: list[dict]) -> str:
    """The rows for people, in percent and points."""
    head = "source", "target", "model", "method", "n", "source %", "top-1 %", "mapped %", "drop, points", "AUROC %"
    lines = [[*head, "coverage at 95 %"]]
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
                ", source ".join(f"{100 * row[key]:.1f}" for key in COVERAGE if row.get(key) is not None),
            ]
        )
    return columns(lines)
