"""What a person decided in ``audit.csv``: which images a data set leaves out, and which of them get another class."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from backbench import Faults, UserError, findings, printable, suggest

AUDITED = "audited"
"""Key of an identity, and of a row's features: what was decided of the data set, see ``Applied.about``."""

NAMED = 5
"""Number of images that an error names one by one."""

MOST = 10**9
"""No number of images in a row is believed that is larger."""

MEND = "One decision is expected: correct the other line."


class Applied(NamedTuple):
    """What decisions make of a data set of N rows."""

    keep: np.ndarray
    """(N,) bool: False where the image is left out."""
    labels: np.ndarray
    """(N,) int64: the labels, of images that stay with the decided classes."""
    n_left_out: int
    """Number of images that are left out; an image may have several rows."""
    n_relabelled: int
    """Number of images that stay and have another class than before."""

    def about(self, digest: str | None) -> dict:
        """Return, as plain JSON, what was decided of the data set that had ``digest`` before."""
        return {"of": digest, "left_out": self.n_left_out, "relabelled": self.n_relabelled}


@dataclass(frozen=True)
class Decisions:
    """The decisions of all files together; ``read`` makes them."""

    left_out: dict[str, Path]
    """The file by which an image is left out, by the image's id."""
    relabelled: dict[str, tuple[str, Path]]
    """The class that an image gets, and by which file, by the image's id."""
    undecided: int
    files: tuple[str, ...]

    def apply(self, ids: Sequence[str], labels: np.ndarray, class_names: list[str], *, to: str) -> Applied:
        """Apply the decisions to N rows with ``ids`` (N,) and ``labels`` (N,). ``to`` names the data set in errors.

        Raises UserError, with all faults at once, for ids and classes that the data set doesn't have.
        """
        self._check(set(ids), class_names, to)
        index = {name: k for k, name in enumerate(class_names)}
        keep = np.array([id not in self.left_out for id in ids], bool)
        new = np.array(labels, np.int64)
        for i, id in enumerate(ids):
            if id in self.relabelled and keep[i]:
                new[i] = index[self.relabelled[id][0]]
        gone, changed = ({ids[i] for i in np.flatnonzero(rows).tolist()} for rows in (~keep, new != labels))
        return Applied(keep, new, len(gone), len(changed))

    def note(self, n_left_out: int, n_relabelled: int) -> str:
        """Say what was applied: ``12 images left out and 5 relabelled by audit.csv; 31 lines are undecided.``"""
        images = f"{n_left_out:,} image{'' if n_left_out == 1 else 's'} left out"
        lines = "1 line is" if self.undecided == 1 else f"{self.undecided:,} lines are"
        left = f"; {lines} undecided" if self.undecided else ""
        return f"{images} and {n_relabelled:,} relabelled by {' and '.join(map(printable, self.files))}{left}."

    def _check(self, there: set[str], class_names: list[str], to: str) -> None:
        faults, missing, unknown = [], defaultdict(set), defaultdict(set)
        named = [*self.left_out.items(), *((id, path) for id, (_, path) in self.relabelled.items())]
        for id, path in named:
            if id not in there:
                missing[path].add(id)
        for id, (name, path) in self.relabelled.items():
            if name not in class_names:
                unknown[path, name].add(id)
        for path, ids in missing.items():
            images = "an image" if len(ids) == 1 else f"{len(ids):,} images"
            faults.append(
                f"{path} decides about {images} that {to} doesn't have: {_some(ids)}. It belongs to another data set, "
                "or images were removed or renamed since: run backbench audit again, or delete these lines."
            )
        for (path, name), ids in unknown.items():
            faults.append(
                f"{path} gives {_some(ids)} the class {printable(repr(name))}, which {to} doesn't have."
                f"{suggest(name, class_names)}"
            )
        if faults:
            raise UserError(*faults)


def read(exclude: str | Path | Iterable = (), relabel: str | Path | Iterable = ()) -> Decisions | None:
    """Read files as ``backbench audit`` writes them, each given for either use or for both. None where there are none.

    By ``exclude``, images that are decided ``same`` or ``wrong`` are left out. By ``relabel``, an image whose label is
    decided ``wrong`` gets the class that its line suggests, and no line with ``wrong`` leaves it out.

    Raises UserError, with all faults at once, for files that can't be read and for decisions that contradict each
    other, within a file or between two.
    """
    used = [list(map(Path, several(given))) for given in (exclude, relabel)]
    known = {path.resolve(): path for path in [*used[0], *used[1]]}
    if not known:
        return None
    faults, lines = Faults(), {}
    for place, path in known.items():
        with faults.collect():
            lines[place] = findings.read(path)
    faults.stop()
    excluded, relabelled = (
        [(one, known[place]) for place in dict.fromkeys(path.resolve() for path in some) for one in lines[place]]
        for some in used
    )
    said: dict[tuple, dict[str, Path]] = defaultdict(dict)
    for place, some in lines.items():
        for one in some:
            said[one.id, one.kind, one.partner].setdefault(one.decision, known[place])
    contradictions = [*_of_one_finding(said), *_of_one_label(said), *_of_classes(relabelled), *_of_copies(excluded)]
    if contradictions:
        more = len(contradictions) - findings.NAMED
        raise UserError(
            *contradictions[: findings.NAMED], *([f"There are {more:,} more such contradictions."] if more > 0 else [])
        )
    classes = {
        one.id: (one.partner, path) for one, path in relabelled if one.kind == "label" and one.decision == "wrong"
    }
    left_out = {
        one.id: path
        for one, path in excluded
        if one.decision == "same" or (one.decision == "wrong" and one.id not in classes)
    }
    undecided = sum(set(ways) == {""} for ways in said.values())
    return Decisions(left_out, classes, undecided, tuple(dict.fromkeys(path.name for path in known.values())))


def named(row: dict) -> str:
    """Return a row's data set as tables call it: ``photos``, or ``photos (12 left out, 5 relabelled)``."""
    told = words(row["features"] or {})
    return row["dataset"] + (f" ({told})" if told else "")


def several(given: str | Path | Iterable) -> list[str]:
    """Return one path, or several, as a list of text."""
    return list(map(str, [given] if isinstance(given, str | Path) else given))


def data_sets(identity: dict) -> set[str]:
    """Return the digests of the data set that an identity is of: as it was decided, and as it was before.

    An identity may come from a stranger. Whoever asks which images a head was fitted on needs both.
    """
    decided = identity.get(AUDITED)
    found = identity.get("dataset_digest"), decided.get("of") if isinstance(decided, dict) else None
    return {one for one in found if isinstance(one, str)}


def words(features: dict) -> str:
    """Return what was decided of a row's data set, as ``12 left out, 5 relabelled``; "" where nothing was."""
    decided = features.get(AUDITED)
    counts = [decided.get(key) for key in ("left_out", "relabelled")] if isinstance(decided, dict) else []
    told = zip(counts, ("left out", "relabelled"), strict=False)
    return ", ".join(f"{n:,} {what}" for n, what in told if type(n) is int and 0 < n < MOST)


def _of_one_finding(said: dict) -> list[str]:
    """Return the findings that are decided in more than one way."""
    return [
        f"{printable(id)}, {kind}{f' ({printable(partner)})' if partner else ''}: {_and(decided)}. {MEND}"
        for (id, kind, partner), ways in said.items()
        if len(decided := {way: path for way, path in ways.items() if way}) > 1
    ]


def _of_one_label(said: dict) -> list[str]:
    """Return the images whose label is said to be right by one finding, and wrong by another."""
    labels: dict[str, dict[str, tuple[Path, str]]] = defaultdict(dict)
    for (id, kind, partner), ways in said.items():
        for way, path in ways.items():
            if way == "wrong" or (way == "right" and kind == "label"):
                labels[id].setdefault(way, (path, f"{kind}, {partner}"))
    return [
        f"{printable(id)}: {_and({way: path for way, (path, _) in ways.items()})} of its label. {MEND}"
        for id, ways in labels.items()
        if len(ways) > 1 and ways["right"][1] != ways["wrong"][1]  # else it is one finding, named already
    ]


def _of_classes(relabelled: list[tuple]) -> list[str]:
    """Return the images that are given more than one class."""
    classes: dict[str, dict[str, Path]] = defaultdict(dict)
    for one, path in relabelled:
        if one.kind == "label" and one.decision == "wrong":
            classes[one.id].setdefault(one.partner, path)
    return [
        f"{printable(id)}: {' and '.join(f'{path} gives it {printable(repr(name))}' for name, path in ways)}. {MEND}"
        for id, found in classes.items()
        if len(ways := found.items()) > 1
    ]


def _of_copies(excluded: list[tuple]) -> list[str]:
    """Return the images that would go as copies although none of those that show the same would stay."""
    copies: dict[str, list[str]] = defaultdict(list)
    gone: dict[str, Path] = {}
    for one, path in excluded:
        if one.decision == "same" and findings.is_copy(one):
            copies[one.partner].append(one.id)
            gone.setdefault(one.id, path)
    sound = [id for id in copies if id not in gone]
    stays = set(sound)
    while sound:
        sound = [id for partner in sound for id in copies.get(partner, ()) if id not in stays]
        stays.update(sound)
    if not (lost := [id for id in gone if id not in stays]):
        return []
    paths = " and ".join(dict.fromkeys(str(gone[id]) for id in lost))
    return [f"{paths}: each of {_some(lost)} is the copy of another one that is left out too. One has to stay."]


def _and(ways: dict[str, Path]) -> str:
    return " and ".join(f"{path} says {way!r}" for way, path in ways.items())


def _some(ids: Iterable[str]) -> str:
    ids = sorted(ids)
    more = f" and {len(ids) - NAMED:,} more" if len(ids) > NAMED else ""
    return ", ".join(map(printable, ids[:NAMED])) + more
