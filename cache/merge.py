"""Shards in, one feature file out, equal to a single run's in every byte of features, ids, labels, split and done."""

from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np

from backbench import Faults, UserError
from cache import disk, layout, shards
from cache.features import FeatureFileError, open_file, verify
from cache.writer import Writer, look

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
        return tuple(self.identity[layout.SHARD]["rows"])


def merge(family: shards.Family, *, keep: bool = False, overwrite: bool = False, held: bool = False) -> Path:
    """Join the shards of ``family`` into its feature file, and remove them unless told to ``keep`` them.

    Memory holds a block of features and the names; stopped, it goes on. ``seconds`` and what was seen of the input are
    summed: seconds of one device. Raises UserError naming all that is missing, damaged or made otherwise than the rest.
    ``held`` says that the caller holds the feature file's lock.
    """
    with ExitStack() as stack:
        if not held:
            stack.enter_context(disk.hold(family.whole))
        parts = _alike(family)
        identity = {k: v for k, v in next(iter(parts.values())).identity.items() if k != layout.SHARD}
        state, _ = look(family.whole, identity, overwrite=overwrite)
        if state != "complete":  # else it was stopped while it removed the shards
            _check(family, parts)
            _join(family.whole, list(parts.values()), identity, fresh=state == "new")
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
        writer.running = {key: sum(part.running[key] for part in parts) for key in layout.RUNNING}
        devices = Counter(part.device for part in parts)
        writer.finish(device="; ".join(f"{n} x {name}" if n > 1 else str(name) for name, n in devices.items()))


def _copy(writer: Writer, part: _Part) -> None:
    with open_file(part.path, partial=True) as file:
        for block in np.array_split(np.arange(len(file.done)), max(1, file.features.nbytes // BLOCK)):
            done = file.done[block] == layout.DONE
            writer.rows(part.rows[0] + block[done], file.features[block[done]])
            writer.skip(part.rows[0] + block[~done])


def _alike(family: shards.Family) -> dict[int, _Part]:
    """The shards by number, ascending. Raises UserError with every difference of what all must share."""
    faults, parts = Faults(), {}
    for number, path in sorted(family.files.items()):
        with faults.collect():
            parts[number] = _read(path)
    faults.stop()
    first = next(iter(parts.values()))
    for part in parts.values():
        lines = layout.differences(
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
        if layout.SHARD not in file.identity:
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
    n, batch_size = (identity[layout.SHARD][key] for key in ("of", "batch_size"))
    for number in range(1, family.count + 1):
        with faults.collect():
            rows = shards.span(n, number, family.count, batch_size=batch_size)
            _there(family, number, parts.get(number), identity, rows)
    faults.stop()
    for part in parts.values():
        with faults.collect():
            if fault := verify(part.path):
                raise UserError(f"{part.path}: {fault}. Remove it, and run its command again.")
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
    if not layout.is_finished_shard(part.path):
        left = int((part.done == layout.PENDING).sum())
        raise UserError(f"{part.path} lacks {left:,} of its {len(part.done):,} rows. Finish it: {again}.")
