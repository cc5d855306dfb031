"""What a feature file still holds of a data set that has changed: the features of all images that are still there.

Added, removed, renamed and moved images, corrected labels, another seed and another split cost no more than the images
that are new. The same image under two names has one row of features, which is stored twice.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from backbench import UserError
from backbench.cache import locking, schema, shards, writer
from backbench.cache.features import FeatureFile, FeatureFileError, open_file
from backbench.image_digests import difference
from backbench.progress import tell


@dataclass(frozen=True, eq=False)
class Layout:
    """The R rows that a feature file shall have, as its data set is now."""

    ids: list[str]
    labels: np.ndarray
    split: np.ndarray
    class_names: list[str]
    contents_of: Callable[[np.ndarray | None], np.ndarray]
    """Returns the contents (R,) S40, known at least for the rows that are asked for (None: all)."""
    groups: np.ndarray | None = None
    listings: tuple[str, ...] = ()
    """The digests by which earlier versions knew these images, see ``data.imageset.ImageSet``."""
    touched: Callable[[], int] = lambda: 0
    """Returns when the last of the images' files was changed, in ns; 0 where there are none."""
    quick: Callable[[], bool] = lambda: False
    """Returns whether all contents can be known in a few seconds."""

    def told(self) -> dict[str, Any]:
        """Return what ``writer.Writer`` writes of it."""
        plain = {key: getattr(self, key) for key in ("ids", "labels", "split", "class_names", "groups")}
        return plain | {"contents": self.contents_of(np.arange(0))}

    def matches(self, file: FeatureFile) -> bool:
        """Whether a file has these rows, and the images of its finished rows are the ones that are there now."""
        same = (
            file.class_names == self.class_names
            and np.array_equal(file.labels, self.labels)
            and np.array_equal(file.split, self.split)
            and (file.groups is None) == (self.groups is None)
            and (self.groups is None or np.array_equal(np.asarray(file.groups), self.groups))
            and file.ids == self.ids
        )
        if not same or file.contents is None:
            return False
        there = np.flatnonzero(file.done != schema.PENDING)
        return np.array_equal(self.contents_of(there)[there], file.contents[there])


class Existing(NamedTuple):
    """What exists for a request: ``complete``, ``partial`` (to be gone on with), ``changed`` (of another state of the
    data set) or ``new``. ``identity`` and ``running`` are those of the file, ``reuse`` is what ``writer.Writer`` takes
    over, ``pending`` the number of rows that this leaves to be computed, and ``said`` tells a person what changed."""

    state: str
    identity: dict | None = None
    reuse: tuple = ()
    pending: int = 0
    running: dict | None = None
    said: str = ""


@dataclass
class _Sources:
    """Rows of files whose features can be taken over."""

    places: dict[bytes, tuple[Path, int]] = field(default_factory=dict)

    def add(self, file: FeatureFile, contents) -> None:
        done = (file.done != schema.PENDING).tolist()
        for row, content in enumerate(contents.tolist()):
            if done[row] and content:
                self.places.setdefault(content, (file.path, row))

    def reuse(self, contents: np.ndarray) -> tuple:
        found: dict[Path, list[tuple[int, int]]] = {}
        for row, content in enumerate(contents.tolist()):
            if content in self.places:
                path, at = self.places[content]
                found.setdefault(path, []).append((row, at))
        return tuple((path, *np.array(pairs).T) for path, pairs in found.items())


def check_existing(path: Path, wanted: dict, layout: Layout, *, overwrite: bool = False, check=None) -> Existing:
    """Check what exists at ``path`` for this request, as ``writer.check_existing`` does, and which images it holds.

    ``check`` replaces ``writer.check_existing``. Raises FeatureFileError for other settings, and where fewer than half
    of the images of the file are still there, since it then belongs to another data set. It is also raised where a file
    of an earlier version may hold features of images that have changed since.
    """
    state, found = (check or writer.check_existing)(path, wanted, overwrite=overwrite)
    if state == "new":
        fresh = Existing(state, found)
        return fresh if overwrite or found or not layout.quick() else _beside(path, wanted, layout) or fresh
    if state == "complete" and not Path(path).exists():  # a shard of a whole that is complete
        _whole_holds(path, wanted, layout)
        return Existing(state, found)
    part = schema.part_path(path)
    first = path if state == "complete" else part
    with open_file(first, partial=True, check=False) as file:
        if layout.matches(file):
            return Existing(state, found)
        if overwrite:
            return Existing("new")
        sources, contents = _Sources(), layout.contents_of(None)
        old = _converted(file, layout, contents) if file.contents is None else file.contents
        _refuse_others(file, old, layout, contents)
        said, running = difference((file.ids, old), (layout.ids, contents)), file.running
    if state == "complete" and part.exists() and _identity(part, wanted):
        with open_file(part, partial=True) as file:  # the data set had changed before, and this is its unfinished file
            if layout.matches(file):
                return Existing("partial", file.identity)
            sources.add(file, file.contents)
    with open_file(first, partial=True, check=False) as file:
        sources.add(file, old)
    reuse = sources.reuse(contents)
    pending = len(contents) - sum(len(here) for _, here, _ in reuse)
    if pending and (lines := schema.differences(wanted, found or {}, versions=True)):
        raise FeatureFileError(
            f"{first} lacks {pending:,} of {len(contents):,} images ({said}), but it was made by other versions:\n  "
            + "\n  ".join(lines)
            + "\n--overwrite computes all images again; --out FILE or another --cache-dir keeps both."
        )
    said = f"{first}: {said or 'labels or splits have changed'}. {len(contents) - pending:,} features are kept."
    return Existing("changed", found, reuse, pending, running, said)


def settle(path: Path, wanted: dict, layout: Layout) -> bool:
    """Bring the file at ``path`` up to date where that takes no new features. Returns whether it is complete now.

    Raises as ``check_existing``.
    """
    existing = check_existing(path, wanted, layout)
    if existing.state == "changed" and not existing.pending:
        with locking.lock(path):
            write(path, wanted, layout, existing)
        return True
    return existing.state == "complete"


def write(path: Path, wanted: dict, layout: Layout, existing: Existing) -> None:
    """Write the file anew from features that are all there already. The caller holds its lock."""
    with open_file(existing.reuse[0][0], partial=True, check=False) as file:
        dim, dtype, device = file.features.shape[1], file.features.dtype, file.measured["device"] or ""
    with opened(path, wanted, layout, existing, dim=dim, dtype=dtype) as file:
        file.finish(device=device)


def opened(path: Path, wanted: dict, layout: Layout, existing: Existing, *, dim: int, dtype) -> writer.Writer:
    """Open the unfinished file for writing: a new one with all that can be taken over, or the one that was begun."""
    as_begun = ("precision", "compiled", *(["versions"] if existing.state == "changed" else []))
    kept = {key: existing.identity[key] for key in as_begun} if existing.identity else {}
    made = writer.Writer(
        path,
        identity={**wanted, **kept},
        **layout.told(),
        dim=dim,
        dtype=dtype,
        reuse=existing.reuse,
        fresh=existing.state in ("new", "changed"),
        held=True,
    )
    made.running |= existing.running or {}
    if existing.said:
        tell(existing.said)
    return made


def _whole_holds(path: Path, wanted: dict, layout: Layout) -> None:
    """Raise FeatureFileError where the file that a shard is part of doesn't hold the shard's images as they are now."""
    whole, (start, stop) = shards.whole_of(path), wanted[schema.SHARD]["rows"]
    with open_file(whole, check=False) as file:
        held, same = file.contents, file.ids[start:stop] == layout.ids and len(file.ids) == wanted[schema.SHARD]["of"]
        if held is None or not same or not np.array_equal(held[start:stop], layout.contents_of(None)):
            raise FeatureFileError(
                f"{whole} holds another state of the data set. Run the command without --shard, which computes only "
                "new images, or with --overwrite, which computes all."
            )


def _beside(path: Path, wanted: dict, layout: Layout) -> Existing | None:
    """Return what files of other data sets beside this one's hold of its images, where that is at least half of them.

    The folder of a data set may have been renamed, or the data set may be a part of another.
    """
    if path != schema.default_path(path.parents[1], wanted["dataset"], schema.label(wanted)):
        return None  # it is in no cache folder
    like = [one for one in sorted(path.parent.parent.glob(f"*/{path.name}")) if one != path]
    alike = [(one, found) for one in like if (found := _identity(one, wanted)) is not None]
    if not alike or schema.SHARD in wanted:
        return None
    contents, sources, first = layout.contents_of(None), _Sources(), alike[0][1]
    for one, found in alike:
        if (found["precision"], found["compiled"]) == (first["precision"], first["compiled"]):
            # A damaged file is no fault of this data set: its features are computed again.
            with contextlib.suppress(FeatureFileError), open_file(one) as file:
                sources.add(file, file.contents)
    reuse = sources.reuse(contents)
    kept = sum(len(here) for _, here, _ in reuse)
    if 2 * kept < len(contents):
        return None
    said = f"{path}: {kept:,} features are taken over from {', '.join(str(one) for one, *_ in reuse)}."
    return Existing("changed", first, reuse, len(contents) - kept, None, said)


def _identity(path: Path, wanted: dict) -> dict | None:
    """Return the identity of a file, finished or not, whose features are as ``wanted``, else None."""
    try:
        with open_file(path, partial=path.suffix == ".part", check=False) as file:
            unlike = file.contents is None or schema.differences(wanted, file.identity, versions=True)
            return None if unlike else file.identity
    except UserError:
        return None


def _refuse_others(file: FeatureFile, old: np.ndarray, layout: Layout, contents: np.ndarray) -> None:
    known = old != b""
    if 2 * np.isin(old[known], contents).sum() < known.sum():
        raise FeatureFileError(
            f"{file.path} holds the features of other images of {file.identity['dataset']} than there are now: "
            f"{difference((file.ids, old), (layout.ids, contents))}. Fewer than half of them are still there.\n"
            "--overwrite replaces the file; --out FILE or another --cache-dir keeps both."
        )


def _converted(file: FeatureFile, layout: Layout, contents: np.ndarray) -> np.ndarray:
    """Return the contents (N,) of the rows of an earlier version's file, where they can be known for sure."""
    if file.identity.get("views") not in ("plain", "mean2", "rows2"):
        why = "its random crops were drawn by the images' names"
    elif not {file.identity.get("images_digest"), file.identity["dataset_digest"]} & {*layout.listings}:
        why = "it belongs to another state of the data set"
    elif layout.touched() >= file.path.stat().st_mtime_ns:
        why = "some image files are newer than it"
    else:
        known = dict(zip(layout.ids, contents.tolist(), strict=True))
        return np.array([known.get(id, b"") for id in file.ids], schema.CONTENT)
    raise FeatureFileError(
        f"{file.path} was written by an earlier version, which did not keep which image a feature belongs to, and "
        f"{why}. It can still be probed.\n--overwrite makes it again; --out FILE or another --cache-dir keeps both."
    )
