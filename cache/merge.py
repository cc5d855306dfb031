"""Joining shards into one feature file, whose features, ids, labels, split and done equal a single run's bytes."""

import itertools
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np

from backbench import Faults, UserError
from backbench.cache import locking, schema, shards
from backbench.cache.features import FeatureFile, FeatureFileError, open_file, verify
from backbench.cache.writer import Writer, check_existing

BLOCK = 1 << 24
"""Number of bytes of features that are copied at a time."""


class _Part(NamedTuple):
    """A shard's small arrays and facts. Its file is closed again."""

    path: Path
    identity: dict
    class_names: list[str]
    ids: list[str]
    labels: np.ndarray
    split: np.ndarray
    done: np.ndarray
    contents: np.ndarray | None
    groups: np.ndarray | None
    running: dict
    device: str | None
    features: tuple  # shape and dtype

    @property
    def rows(self) -> tuple[int, int]:
        return tuple(self.identity[schema.SHARD]["rows"])


def merge(family: shards.Family, *, keep: bool = False, overwrite: bool = False, held: bool = False) -> Path:
    """Join the shards of ``family`` into its feature file, and then remove them unless ``keep``.

    Memory holds one block of features and the names. A stopped merge can be run again. ``seconds`` and the sums of the
    input are added up, so the seconds are those of one device.

    A feature file that exists already is kept unless ``overwrite``, since an earlier merge may have been stopped while
    it removed the shards. ``held`` says that the caller holds the feature file's lock.

    Raises UserError, which names every shard that is missing, damaged or made with other settings. Before any shard is
    removed, it also names every difference between the feature file and its shards.
    """
    with ExitStack() as stack:
        if not held:
            stack.enter_context(locking.lock(family.whole))
        parts = _alike(family)
        identity = next(iter(parts.values())).identity | {"schema": schema.SCHEMA} | dict.fromkeys(schema.DIGESTS)
        identity.pop(schema.SHARD)
        if overwrite or not os.path.exists(family.whole):
            _check(family, parts)
            state, _ = check_existing(family.whole, identity, overwrite=overwrite)
            _join(family.whole, list(parts.values()), identity, fresh=state == "new")
        _compare(family.whole, list(parts.values()), identity)
        if not keep:
            for path in family.files.values():
                path.unlink(missing_ok=True)
    return family.whole


def _join(whole: Path, parts: list[_Part], identity: dict, *, fresh: bool) -> None:
    names = [name for name in ("labels", "split", "contents", "groups") if getattr(parts[0], name) is not None]
    arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    writer = Writer(
        whole,
        identity=identity,
        **arrays,
        ids=[name for part in parts for name in part.ids],
        class_names=parts[0].class_names,
        dim=parts[0].features[0][1],
        dtype=parts[0].features[1],
        fresh=fresh,
        held=True,
    )
    with writer:
        for part in parts:
            if np.isin(np.arange(*part.rows), writer.pending).any():
                _copy(writer, part)
        writer.running = {key: sum(part.running[key] for part in parts) for key in schema.RUNNING}
        devices = Counter(part.device for part in parts)
        writer.finish(device="; ".join(f"{n} x {name}" if n > 1 else str(name) for name, n in devices.items()))


def _copy(writer: Writer, part: _Part) -> None:
    with open_file(part.path, partial=True, check=False) as file:  # its checksum was compared a moment ago
        for block in _blocks(file):
            done = file.done[block] == schema.DONE
            index = np.arange(block.start, block.stop)
            writer.rows(part.rows[0] + index[done], file.features[index[done]])
            writer.skip(part.rows[0] + index[~done])


def _compare(whole: Path, parts: list[_Part], identity: dict) -> None:
    """Raise UserError with every difference between the feature file and its shards, and every unfinished shard."""
    with open_file(whole) as file:
        ours = file.identity | {"schema": schema.SCHEMA}  # older schemas hold the same features
        lines = schema.differences(identity, ours, versions=True, than="the shards")
        if file.class_names != parts[0].class_names:
            lines.append("classes: the file and the shards have different classes, or another order of them")
        n, dim = parts[0].identity[schema.SHARD]["of"], parts[0].features[0][1]
        if file.features.shape != (n, dim) or file.features.dtype != parts[0].features[1]:
            shape, dtype = file.features.shape, file.features.dtype
            lines.append(
                f"features: the file has {shape[0]:,} x {shape[1]:,} {dtype}, the shards {n:,} x {dim:,} "
                f"{parts[0].features[1]}"
            )
        else:
            lines += [line for part in parts for line in _apart(file, part)]
    for part in parts:
        if not schema.is_finished_shard(part.path):
            lines.append(f"{part.path.name}: it is unfinished, so it can't be joined")
    if lines:
        raise UserError(
            f"{whole} exists already and differs from its shards:\n  "
            + "\n  ".join(lines)
            + "\nNothing was removed. To keep the file, remove the shards. To replace it by the shards: "
            f"backbench cache merge {whole} --overwrite"
        )


def _apart(file: FeatureFile, part: _Part) -> Iterator[str]:
    """Yield one line per array in which rows of the shard and of the feature file differ."""
    rows = slice(*part.rows)
    with open_file(part.path, partial=True, check=False) as shard:  # damage shows as a difference
        bits = f"u{file.features.itemsize}"
        features = [
            (file.features[rows][block].view(bits) != shard.features[block].view(bits)).any(axis=1)
            for block in _blocks(shard)
        ]
    unlike = {
        "features": np.concatenate(features),
        "names": np.array(file.ids[rows], object) != np.array(part.ids, object),
        **{
            name: getattr(file, name)[rows] != getattr(part, name)
            for name in ("labels", "split", "done", "contents")
            if getattr(part, name) is not None
        },
    }
    for name, differ in unlike.items():
        if differ.any():
            yield f"{part.path.name}: {name} of {int(differ.sum()):,} of its {len(differ):,} rows differ in the file"


def _blocks(file: FeatureFile) -> list[slice]:
    """Divide the rows of a file into slices of about ``BLOCK`` bytes of features."""
    n = len(file.done)
    ends = np.linspace(0, n, max(1, min(n, file.features.nbytes // BLOCK)) + 1).astype(int).tolist()
    return [slice(start, stop) for start, stop in itertools.pairwise(ends)]


def _alike(family: shards.Family) -> dict[int, _Part]:
    """Read the shards, by number in ascending order. Raises UserError with every difference in what all must share."""
    faults, parts = Faults(), {}
    for number, path in sorted(family.files.items()):
        with faults.collect():
            parts[number] = _read(path)
    faults.stop()
    first = next(iter(parts.values()))
    for part in parts.values():
        lines = schema.differences(
            shards.common(first.identity), shards.common(part.identity), versions=True, than=first.path.name
        )
        if part.class_names != first.class_names or part.features[0][1:] != first.features[0][1:]:
            lines.append(f"classes or length of features: they differ from those of {first.path.name}")
        with faults.collect():
            if lines:
                raise FeatureFileError(
                    f"{part.path} was made with other settings:\n  "
                    + "\n  ".join(lines)
                    + f"\nMake one of them again with --overwrite, and both with {_format(first)} or {_format(part)}."
                )
    faults.stop()
    return parts


def _read(path: Path) -> _Part:
    with open_file(path, partial=True) as file:
        if schema.SHARD not in file.identity:
            raise UserError(f"{path} is not a shard, although its name says so.")
        small = (
            file.class_names,
            file.ids,
            file.labels,
            file.split,
            file.done,
            file.contents,
            file.groups,
            file.running,
        )
        return _Part(path, file.identity, *small, file.measured["device"], (file.features.shape, file.features.dtype))


def _format(part: _Part) -> str:
    found = part.identity["compiled"]
    compiled = "openvino" if isinstance(found, str) else "on" if found else "off"
    return f"--precision {part.identity['precision']} --compile {compiled}"


def _check(family: shards.Family, parts: dict[int, _Part]) -> None:
    """Raise UserError, with all errors at once, where shards are missing, unfinished, damaged or don't fit together."""
    faults = Faults()
    identity = next(iter(parts.values())).identity
    n, batch_size = (identity[schema.SHARD][key] for key in ("of", "batch_size"))
    for number in range(1, family.count + 1):
        with faults.collect():
            rows = shards.span(n, number, family.count, batch_size=batch_size)
            _there(family, number, parts.get(number), identity, rows)
    faults.stop()
    for part in parts.values():
        with faults.collect():
            if fault := verify(part.path):
                raise UserError(f"{fault} Or remove the shard and run its extract command again.")
    faults.stop()
    if len({name for part in parts.values() for name in part.ids}) != n:
        raise UserError(f"the shards of {family.whole} name an image twice, so they come from different data sets.")


def _there(family: shards.Family, number: int, part: _Part | None, identity: dict, rows: tuple[int, int]) -> None:
    """Raise UserError where shard ``number`` is missing, unfinished or holds other rows than ``rows`` [start, stop)."""
    again = (
        f"extract --model {identity['model']} --dataset {identity['dataset']} --shard {number}/{family.count}, "
        "with the other options unchanged"
    )
    if part is None:
        raise UserError(f"shard {number} of {family.count} of {family.whole} is missing. Make it: {again}.")
    if part.rows != rows or len(part.ids) != rows[1] - rows[0]:
        raise UserError(
            f"{part.path} holds rows {part.rows}, but by its name it should hold {rows}. Make it again: {again}."
        )
    if not schema.is_finished_shard(part.path):
        left = int((part.done == schema.PENDING).sum())
        raise UserError(f"{part.path} lacks {left:,} of its {len(part.done):,} rows. Finish it: {again}.")
