"""Shards in, one feature file out, equal to a single run's in every byte of features, ids, labels, split and done."""

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
from backbench.cache.writer import Writer, look

BLOCK = 1 << 24
"""Bytes of features copied at a time."""


class _Part(NamedTuple):
    """A shard's small arrays and figures; its file is closed again."""

    path: Path
    identity: dict
    class_names: list[str]
    ids: list[str]
    labels: np.ndarray
    split: np.ndarray
    done: np.ndarray
    running: dict
    device: str | None
    features: tuple  # shape and dtype

    @property
    def rows(self) -> tuple[int, int]:
        return tuple(self.identity[schema.SHARD]["rows"])


def merge(family: shards.Family, *, keep: bool = False, overwrite: bool = False, held: bool = False) -> Path:
    """Join the shards of ``family`` into its feature file, and remove them unless told to ``keep`` them.

    Memory holds a block of features and the names; stopped, it goes on. ``seconds`` and what was seen of the input are
    summed: seconds of one device. Raises UserError naming all that is missing, damaged or made otherwise than the rest,
    and, before a shard is removed, all in which the feature file is not what the shards hold.

    A feature file that is there already is left as it is, unless ``overwrite``: joining may have been stopped while the
    shards were removed. ``held`` says that the caller holds the feature file's lock.
    """
    with ExitStack() as stack:
        if not held:
            stack.enter_context(locking.hold(family.whole))
        parts = _alike(family)
        identity = next(iter(parts.values())).identity | {"schema": schema.SCHEMA}
        identity.pop(schema.SHARD)
        if overwrite or not os.path.exists(family.whole):
            _check(family, parts)
            state, _ = look(family.whole, identity, overwrite=overwrite)
            _join(family.whole, list(parts.values()), identity, fresh=state == "new")
        _compare(family.whole, list(parts.values()), identity)
        if not keep:
            for path in family.files.values():
                path.unlink(missing_ok=True)
    return family.whole


def _join(whole: Path, parts: list[_Part], identity: dict, *, fresh: bool) -> None:
    arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in ("labels", "split")}
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
    with open_file(part.path, partial=True, check=False) as file:  # it was compared with its checksum a moment ago
        for block in _blocks(file):
            done = file.done[block] == schema.DONE
            index = np.arange(block.start, block.stop)
            writer.rows(part.rows[0] + index[done], file.features[index[done]])
            writer.skip(part.rows[0] + index[~done])


def _compare(whole: Path, parts: list[_Part], identity: dict) -> None:
    """Raise UserError with every difference between the feature file and its shards, unfinished ones included."""
    with open_file(whole) as file:
        ours = file.identity | {"schema": schema.SCHEMA}  # of an older schema it holds the same features
        lines = schema.differences(identity, ours, versions=True, than="the shards")
        if file.class_names != parts[0].class_names:
            lines.append("classes: the file has others than the shards, or in another order")
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
            lines.append(f"{part.path.name}: unfinished, so that it can't be joined")
    if lines:
        raise UserError(
            f"{whole} is there already and not what its shards hold:\n  "
            + "\n  ".join(lines)
            + "\nNothing was removed. Remove the shards to keep the file, or put them in its place: "
            f"backbench cache merge {whole} --overwrite"
        )


def _apart(file: FeatureFile, part: _Part) -> Iterator[str]:
    """How many of the shard's rows the feature file holds otherwise, a line an array."""
    rows = slice(*part.rows)
    with open_file(part.path, partial=True, check=False) as shard:  # damage is a difference from the whole, too
        bits = f"u{file.features.itemsize}"
        features = [
            (file.features[rows][block].view(bits) != shard.features[block].view(bits)).any(axis=1)
            for block in _blocks(shard)
        ]
    unlike = {
        "features": np.concatenate(features),
        "names": np.array(file.ids[rows], object) != np.array(part.ids, object),
        **{name: getattr(file, name)[rows] != getattr(part, name) for name in ("labels", "split", "done")},
    }
    for name, of in unlike.items():
        if of.any():
            yield f"{part.path.name}: {name} of {int(of.sum()):,} of its {len(of):,} rows are others in the file"


def _blocks(file: FeatureFile) -> list[slice]:
    """The rows of a file in parts of about ``BLOCK`` bytes of features."""
    n = len(file.done)
    ends = np.linspace(0, n, max(1, min(n, file.features.nbytes // BLOCK)) + 1).astype(int).tolist()
    return [slice(start, stop) for start, stop in itertools.pairwise(ends)]


def _alike(family: shards.Family) -> dict[int, _Part]:
    """The shards by number, ascending. Raises UserError with every difference of what all must share."""
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
            lines.append(f"classes or length of features: not those of {first.path.name}")
        with faults.collect():
            if lines:
                raise FeatureFileError(
                    f"{part.path} was made otherwise:\n  "
                    + "\n  ".join(lines)
                    + f"\nMake one of the two as the other was ({_format(first)} or {_format(part)}), with --overwrite."
                )
    faults.stop()
    return parts


def _read(path: Path) -> _Part:
    with open_file(path, partial=True) as file:
        if schema.SHARD not in file.identity:
            raise UserError(f"{path} is no shard, in spite of its name.")
        small = (file.class_names, file.ids, file.labels, file.split, file.done, file.running)
        return _Part(path, file.identity, *small, file.measured["device"], (file.features.shape, file.features.dtype))


def _format(part: _Part) -> str:
    compiled = "on" if part.identity["compiled"] else "off"
    return f"--precision {part.identity['precision']} --compile {compiled}"


def _check(family: shards.Family, parts: dict[int, _Part]) -> None:
    """Raise UserError where shards are missing, unfinished, damaged, or not of one image set; all of them at once."""
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
                raise UserError(f"{fault} Or remove the shard and run its command again.")
    faults.stop()
    if len({name for part in parts.values() for name in part.ids}) != n:
        raise UserError(f"the shards of {family.whole} name an image twice: they are of different image sets.")


def _there(family: shards.Family, number: int, part: _Part | None, identity: dict, rows: tuple[int, int]) -> None:
    """Raise UserError where shard ``number`` is missing, unfinished or not of these rows."""
    again = (
        f"extract --model {identity['model']} --dataset {identity['dataset']} --shard {number}/{family.count}, "
        "with the other options as they were"
    )
    if part is None:
        raise UserError(f"shard {number} of {family.count} of {family.whole} is missing. Make it: {again}.")
    if part.rows != rows or len(part.ids) != rows[1] - rows[0]:
        raise UserError(f"{part.path} holds rows {part.rows}, but its name stands for {rows}. Make it again: {again}.")
    if not schema.is_finished_shard(part.path):
        left = int((part.done == schema.PENDING).sum())
        raise UserError(f"{part.path} lacks {left:,} of its {len(part.done):,} rows. Finish it: {again}.")
