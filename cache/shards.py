"""Shards: the rows of a data set in several feature files, each made by a run of its own, and joined into one.

A shard lies beside the file it is a part of, as ``<model>.h5.shard-03-of-16``: a feature file in everything else, which
no search for feature files finds. Shards begin at a multiple of the batch size, so that every row is computed in the
same company as in a single run, and hence to the same bits.
"""

import os
import re
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

from backbench import UserError
from backbench.cache import locking, schema, writer
from backbench.cache.features import FeatureFileError, open_file

NAME = re.compile(r"(?P<whole>.+)\.shard-(?P<number>\d+)-of-(?P<count>\d+)(\.part)?")


class Family(NamedTuple):
    """What is there of the ``count`` shards of the feature file ``whole``: by number, finished or ``.part``."""

    whole: Path
    count: int  # pyright: ignore[reportIncompatibleMethodOverride]  of a tuple's methods we use none
    files: dict[int, Path]

    def done(self) -> int:
        """Rows that are computed; of files that can't be read, none."""
        return sum(map(rows_done, self.files.values()))


def path_of(whole: Path, number: int, count: int) -> Path:
    """Where shard ``number`` (from 1) of ``count`` lies."""
    return whole.with_name(f"{whole.name}.shard-{number:0{len(str(count))}}-of-{count}")


def _parts(path: Path) -> re.Match[str]:
    """What a shard's name says."""
    found = NAME.fullmatch(path.name)
    assert found, f"{path} is no shard"
    return found


def whole_of(path: Path) -> Path:
    """The file that a shard is a part of."""
    return path.with_name(_parts(path)["whole"])


def span(n: int, number: int, count: int, *, batch_size: int) -> tuple[int, int]:
    """Rows [start, stop) of shard ``number`` (from 1) of ``count``, as even as whole batches allow."""
    batches = -(-n // batch_size)
    start, stop = (min(n, batch_size * (batches * k // count)) for k in (number - 1, number))
    return start, stop


def families(path: Path) -> list[Family]:
    """All families in a folder (searched to the bottom), of a feature file, or of one of its shards."""
    path = Path(path)
    if path.is_dir():
        found = path.rglob("*.shard-*-of-*")
    else:
        match = NAME.fullmatch(path.name)
        name = match["whole"] if match else path.name
        found = (p for p in path.parent.glob("*.shard-*-of-*") if p.name.startswith(f"{name}.shard-"))
    made: dict[tuple[Path, int], Family] = {}
    for file in sorted(found, reverse=True):  # so that of a shard and its '.part' the finished one stays
        if match := NAME.fullmatch(file.name):
            key = file.with_name(match["whole"]), int(match["count"])
            made.setdefault(key, Family(*key, {})).files[int(match["number"])] = file
    return [family._replace(files=dict(sorted(family.files.items()))) for _, family in sorted(made.items())]


def rows_done(path: Path) -> int:
    """Rows computed in a shard, finished or not; 0 where it can't be read."""
    for place in (path, schema.part_path(path)):
        try:
            with open_file(place, partial=True, check=False) as file:
                return int((file.done != schema.PENDING).sum())
        except (UserError, OSError):
            continue
    return 0


def look(path: Path, wanted: dict, *, overwrite: bool = False) -> tuple[str, dict | None]:
    """``writer.look``, knowing of shards.

    A shard is complete if the whole file is. One that is new gets the identity of another of its family, whose format
    it must go on in. ``overwrite`` makes anew only what was made otherwise: a finished shard is no finished work.
    Raises FeatureFileError for a whole that would be computed beside its own shards, too.
    """
    if schema.SHARD not in wanted:
        state, found = writer.look(path, wanted, overwrite=overwrite)
        if state == "new" and not overwrite and (begun := families(path)):
            raise FeatureFileError(
                f"{path} was begun in {begun[0].count} shards. Go on with --workers or --shard as before, join them if "
                f"they are finished (backbench cache merge {path}), or compute all here with --overwrite."
            )
        return state, found
    whole, rest = whole_of(path), {k: v for k, v in wanted.items() if k != schema.SHARD}
    if not overwrite and os.path.exists(whole) and writer.look(whole, rest)[0] == "complete":
        return "complete", None
    try:
        state, found = writer.look(path, wanted)
    except FeatureFileError:
        if not overwrite:
            raise
        return "new", _begun(path, wanted, strict=False)
    return state, found if found else _begun(path, wanted, strict=not overwrite)


def relatives(path: Path, wanted: dict) -> Iterator[tuple[Family, Path, dict, list[str]]]:
    """All shards of a feature file that can be read: family, file, identity, and what sets it apart from ``wanted``."""
    for family in families(path):
        for file in family.files.values():
            try:
                with open_file(file, partial=True, check=False) as shard:
                    identity = {schema.SHARD: {}} | shard.identity
            except FeatureFileError:  # told by who needs it
                continue
            yield family, file, identity, schema.differences(common(wanted), common(identity), versions=True)


def otherwise(file: Path, lines: list[str]) -> FeatureFileError:
    """What to say of a shard in the way of another request."""
    return FeatureFileError(
        f"{file} was made otherwise, and all shards must be made alike:\n  "
        + "\n  ".join(lines)
        + "\n--overwrite makes this one nevertheless; --out FILE or another --cache-dir keeps both."
    )


def _begun(path: Path, wanted: dict, *, strict: bool) -> dict | None:
    """Identity of a shard of the same family that was made as ``wanted``; ``strict``: refuse one that was not."""
    count = int(_parts(path)["count"])
    for family, file, identity, lines in relatives(path, wanted):
        if family.count == count and not lines:
            return identity
        if family.count == count and strict:
            raise otherwise(file, lines)
    return None


def choosing(path: Path, wanted: dict):
    """A context in which one shard of a family at a time looks for the fastest format, which the others then take."""
    if schema.SHARD not in wanted:
        return nullcontext()
    whole = whole_of(path)
    return locking.hold(whole.with_name(f"{whole.name}.choice"), wait=True, quiet=True)


def common(identity: dict) -> dict:
    """What all shards of a family share."""
    shard = {k: v for k, v in identity[schema.SHARD].items() if k != "rows"}
    return identity | {schema.SHARD: shard}
