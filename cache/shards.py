"""Shards hold the rows of a data set in several feature files, each made by its own run, which are joined into one.

A shard lies beside the file that it is part of, as ``<model>.h5.shard-03-of-16``. It is a feature file in every other
respect, but searches for feature files don't find it. Shards begin at a multiple of the batch size, so that every row
is computed in the same batch as in a single run, and hence to the same bits.
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
    """The shards that exist, of ``count``, of the feature file ``whole``: by number, finished or ``.part``."""

    whole: Path
    count: int  # pyright: ignore[reportIncompatibleMethodOverride]  of a tuple's methods we use none
    files: dict[int, Path]

    def done(self) -> int:
        """Return the number of rows that are computed; files that can't be read count as none."""
        return sum(map(rows_done, self.files.values()))


def path_of(whole: Path, number: int, count: int) -> Path:
    """Return the path of shard ``number`` (from 1) of ``count``."""
    return whole.with_name(f"{whole.name}.shard-{number:0{len(str(count))}}-of-{count}")


def _parts(path: Path) -> re.Match[str]:
    """Match the parts of a shard's name."""
    found = NAME.fullmatch(path.name)
    assert found, f"{path} is not a shard"
    return found


def whole_of(path: Path) -> Path:
    """Return the path of the file that a shard is part of."""
    return path.with_name(_parts(path)["whole"])


def span(n: int, number: int, count: int, *, batch_size: int) -> tuple[int, int]:
    """Return the rows [start, stop) of shard ``number`` (from 1) of ``count``, as even as whole batches allow."""
    batches = -(-n // batch_size)
    start, stop = (min(n, batch_size * (batches * k // count)) for k in (number - 1, number))
    return start, stop


def families(path: Path) -> list[Family]:
    """Find all families in a folder (searched recursively), of a feature file, or of one of its shards."""
    path = Path(path)
    if path.is_dir():
        found = path.rglob("*.shard-*-of-*")
    else:
        match = NAME.fullmatch(path.name)
        name = match["whole"] if match else path.name
        found = (p for p in path.parent.glob("*.shard-*-of-*") if p.name.startswith(f"{name}.shard-"))
    made: dict[tuple[Path, int], Family] = {}
    for file in sorted(found, reverse=True):  # a finished shard replaces its '.part'
        if match := NAME.fullmatch(file.name):
            key = file.with_name(match["whole"]), int(match["count"])
            made.setdefault(key, Family(*key, {})).files[int(match["number"])] = file
    return [family._replace(files=dict(sorted(family.files.items()))) for _, family in sorted(made.items())]


def rows_done(path: Path) -> int:
    """Return the number of rows computed in a shard, finished or not; 0 where it can't be read."""
    for place in (path, schema.part_path(path)):
        try:
            with open_file(place, partial=True, check=False) as file:
                return int((file.done != schema.PENDING).sum())
        except (UserError, OSError):
            continue
    return 0


def check_existing(path: Path, wanted: dict, *, overwrite: bool = False) -> tuple[str, dict | None]:
    """Do as ``writer.check_existing``, for shards as well as whole files.

    A shard is complete if the whole file is. A new shard gets the identity of another of its family, because it must
    continue in the same number format. ``overwrite`` replaces only shards that were made with other settings, since a
    finished shard is not yet finished work. Raises FeatureFileError also for a whole file that has shards already.
    """
    if schema.SHARD not in wanted:
        state, found = writer.check_existing(path, wanted, overwrite=overwrite)
        if state == "new" and not overwrite and (begun := families(path)):
            raise FeatureFileError(
                f"{path} was begun in {begun[0].count} shards. Go on with --workers or --shard as before, join them if "
                f"they are finished (backbench cache merge {path}), or compute all rows again with --overwrite."
            )
        return state, found
    whole, rest = whole_of(path), {k: v for k, v in wanted.items() if k != schema.SHARD}
    if not overwrite and os.path.exists(whole) and writer.check_existing(whole, rest)[0] == "complete":
        return "complete", None
    try:
        state, found = writer.check_existing(path, wanted)
    except FeatureFileError:
        if not overwrite:
            raise
        return "new", _begun(path, wanted, strict=False)
    return state, found if found else _begun(path, wanted, strict=not overwrite)


def relatives(path: Path, wanted: dict) -> Iterator[tuple[Family, Path, dict, list[str]]]:
    """Yield all readable shards of a feature file: family, file, identity, and differences from ``wanted``."""
    for family in families(path):
        for file in family.files.values():
            try:
                with open_file(file, partial=True, check=False) as shard:
                    identity = {schema.SHARD: {}} | shard.identity
            except FeatureFileError:  # whoever needs the shard reports it
                continue
            yield family, file, identity, schema.differences(common(wanted), common(identity), versions=True)


def mismatch(file: Path, lines: list[str]) -> FeatureFileError:
    """Return the error for a shard whose settings differ from this run's, as ``lines`` say."""
    return FeatureFileError(
        f"{file} was made with other settings, and all shards must have the same:\n  "
        + "\n  ".join(lines)
        + "\n--overwrite makes this shard anyway; --out FILE or another --cache-dir keeps both."
    )


def _begun(path: Path, wanted: dict, *, strict: bool) -> dict | None:
    """Return the identity of a shard of the same family that matches ``wanted``. With ``strict``, refuse any other."""
    count = int(_parts(path)["count"])
    for family, file, identity, lines in relatives(path, wanted):
        if family.count == count and not lines:
            return identity
        if family.count == count and strict:
            raise mismatch(file, lines)
    return None


def choosing(path: Path, wanted: dict):
    """A context that lets one shard of a family at a time choose the fastest number format; the others then use it."""
    if schema.SHARD not in wanted:
        return nullcontext()
    whole = whole_of(path)
    return locking.lock(whole.with_name(f"{whole.name}.choice"), wait=True, quiet=True)


def common(identity: dict) -> dict:
    """Return the part of the identity that all shards of a family share."""
    shard = {k: v for k, v in identity[schema.SHARD].items() if k != "rows"}
    return identity | {schema.SHARD: shard}
