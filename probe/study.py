"""Many probes: every file with every method, side by side, each row written when it is there."""

from dataclasses import replace
from pathlib import Path

from backbench import Faults, UsageError, UserError, decisions, details, duplicates, identity
from backbench.cache import features
from backbench.cache.decided import decided, note
from backbench.probe import folds as cross_validation
from backbench.probe import head
from backbench.probe.parallel import run
from backbench.probe.run import Settings, Task, check
from backbench.progress import tell


def tasks(paths, methods, *, seed: int, shots=(), seeds: int = 1, folds: int | None = None) -> list[Task]:
    """Every file with every method; with ``shots``, each of them at ``seeds`` seeds in a row."""
    return [
        Task(path, method, seed + offset, count, folds=folds)
        for path in paths
        for method in dict.fromkeys(methods)
        for count in dict.fromkeys(shots or [None])
        for offset in range(seeds)
    ]


def probe_all(
    patterns,
    methods,
    *,
    results_dir,
    settings: Settings,
    shots=(),
    seeds=1,
    folds=None,
    jobs=None,
    scheduler=None,
    save=None,
    exclude=(),
    relabel=(),
) -> tuple[list[dict], Faults]:
    """Probe every file with every method. A file that can't be used doesn't stop the others: its faults come back.

    ``folds`` is the number of folds that take the place of each file's split. ``save`` is the folder that heads are
    kept in. ``exclude`` and ``relabel`` are files as ``decisions.read`` takes them. Raises UserError where a pattern
    matches nothing, UsageError where what is asked can't go together.
    """
    faults, good = Faults(), []
    with faults.collect():
        settings = replace(settings, decisions=decisions.read(exclude, relabel))
    with faults.collect():
        if save and shots:
            raise UsageError("--save keeps heads fitted on all images: it doesn't go with --shots.")
    with faults.collect():
        if seeds > 1 and not shots:
            raise UsageError("--seeds repeats the draw of --shots: without those there is nothing to draw.")
    with faults.collect():
        if folds and (
            given := [
                name for name, value in (("--shots", shots), ("--curve", settings.curve), ("--save", save)) if value
            ]
        ):
            raise UsageError(f"--folds fits {folds} heads on all images: it doesn't go with {' and '.join(given)}.")
    faults.stop()
    found, named, states = [], {Path(pattern) for pattern in patterns}, {}
    for path in features.find(patterns):
        states[path] = features.state(path)
        with faults.collect(), features.open_file(path) as file:
            if path not in named and not folds and not (file.split < 2).any():
                tell(f"{path}: passed over, a set for testing heads trained on another")
                continue
            file = decided(file, settings.decisions)
            if settings.decisions:
                tell(f"{path}: {note(file, settings.decisions)}")
            if folds:
                cross_validation.check(file, folds)
            else:
                check(file)
                duplicates.say(file)
            good.append(path)
    if not (good or faults.errors):
        raise UserError("only sets for testing heads trained on another were found: there is nothing to fit on")
    wanted = tasks(good, methods, seed=settings.seed, shots=shots, seeds=seeds, folds=folds)
    wanted = [replace(task, state=states[task.path]) for task in wanted]
    for task, result in run(wanted, replace(settings, keep=bool(save)), jobs=jobs, scheduler=scheduler):
        with faults.collect():
            if isinstance(result, UserError):
                raise result
            row, beside, kept = result
            shown = f"{task.shots} shots, seed {task.seed}, " if task.shots else ""
            shown = f"{task.folds} folds, seed {task.seed}, " if task.folds else shown
            tell(
                f"{row['dataset']} {row['model']} {task.method}: {shown}top-1 {row['top1']:.1%} "
                f"in {row['seconds']:.1f} s"
            )
            found.append(row)
            with faults.collect():
                details.keep(results_dir, row, beside)
            if save and kept:
                wanted = usual_place(save, task.path, task.method)
                if (folder := free_place(wanted, row)) != wanted:
                    tell(f"{wanted} holds the head of another measurement and is kept: this one goes beside it.")
                kept._replace(row=row).save(folder)
                tell(f"head in {folder}")
    return found, faults


def usual_place(save: Path | str, features: Path, method: str) -> Path:
    """Where in the folder ``save`` the head of a method on a feature file is kept."""
    return Path(save) / features.parent.name / f"{features.stem}-{method}"


def free_place(folder: Path, row: dict) -> Path:
    """Where the head of ``row`` is kept: in ``folder``, or beside it where that holds the head of something else."""
    try:
        there = head.load(folder).row
    except UserError:  # there is none, or none that could be used
        return folder
    ours, theirs = identity.keys([row, there])
    if (ours, row["seed"]) == (theirs, there.get("seed")):
        return folder
    return folder.with_name(f"{folder.name}-{identity.digest({'key': ours, 'seed': row['seed']})[:8]}")
