"""Images whose labels are in a table: ``table:PATH?file=COLUMN&label=COLUMN&split=COLUMN&group=COLUMN``.

PATH is a CSV, TSV or parquet file with one row for each image. Paths in it are relative to its folder.
"""

import os
import re
import shlex
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from backbench import Faults, UsageError, UserError, grouped, suggest
from backbench.data import formats, groups, imageset, listing, shards, splits
from backbench.data.imageset import ImageSet
from backbench.data.notes import taken
from backbench.data.table_files import Table, row_numbers

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = {
    "file": ("file", "path", "image", "filename", "filepath", "imagepath", "imagefile", "imagename", "imageid", "img",
             "imgpath", "imgname", "imageindex", "idcode"),
    "label": ("label", "labels", "class", "classname", "category", "target", "diagnosis", "dx", "species"),
    "split": ("split", "set", "subset", "partition", "fold"),
    "group": ("group", "groupid", "patient", "patientid", "subject", "subjectid", "lesionid", "video", "videoid"),
}  # fmt: skip
"""Names of columns that are taken where none is given, without capitals, spaces and underscores."""

OPTIONS = (*COLUMNS, "folder", "test")
"""Besides columns: ``folder`` is where the files are, seen from the table's folder; for ``test`` see
data.shards.by_split."""

NONE = "-"
"""Stands for no column, where there is one of a known name."""

RULE = (
    "rows of train, val and test are expected; without val, an eighth of each class's train images becomes val; "
    "test=val tests on val"
)

SHOWN = 20
"""Number of files that an error names."""


def load(name: str, *, seed: int, exif: str) -> ImageSet:
    """List and split ``table:PATH``. No image is read. Raises UserError with everything that is wrong."""
    given = shards.parse(name, known=OPTIONS)
    path = _existing(given)
    table = Table(path)
    columns = _columns(table.columns, given)
    frame = _by_role(table.read([*columns.values()]), columns)
    if not len(frame):
        raise UserError(f"{path} has no rows: one for each image is expected")
    notes = [f"Columns of {path.name}: {', '.join(f'{role} {column!r}' for role, column in columns.items())}."]
    try:
        frame = _by_split(frame, columns, given, notes)
        frame = _with_files(frame, path.parent / given.options.get("folder", ""), given, notes)
        frame = _once(frame, notes).sort_values("id", kind="stable")
        labels, class_names = _classes(frame["label"])
        group = frame["group"].to_numpy(dtype=str) if "group" in frame else None
        split, rule, how = _split(frame, labels, group, seed=seed)
        splits.check(labels, split, class_names, rule=rule)
    except UserError as error:
        raise type(error)(*(f"{path}: {fault}" for fault in error.faults)) from error
    notes.insert(0, taken(class_names, split, how))
    ids = frame["id"].tolist()
    listings = imageset.listings(ids, labels, split, class_names, sizes=frame["size"].tolist())
    return ImageSet(
        f"table-{listing.text(path.stem)}", ids, labels, split, class_names, exif=exif, notes=tuple(notes),
        root=path.parent / given.options.get("folder", ""), files=frame["file"].tolist(), groups=group,
        listings=listings,
    )  # fmt: skip


def _existing(given: shards.Given) -> Path:
    path = Path(given.path).expanduser()
    try:
        if not path.is_file():
            found = "is a folder" if path.is_dir() else "does not exist"
            raise UserError(f"table:{path} {found}: a .csv, .tsv or .parquet file on this disk is expected")
    except (OSError, ValueError) as error:
        raise UserError(f"can't look at table:{given.path}: {getattr(error, 'strerror', error)}") from error
    return path


def _columns(there: list[str], given: shards.Given) -> dict[str, str]:
    """Return the column of each role of ``COLUMNS`` that has one. Raises UsageError, which lists the columns."""
    found, faults = {}, []
    listed = f"Columns: {', '.join(map(repr, there[:50]))}{', ...' if len(there) > 50 else ''}"
    for role, known in COLUMNS.items():
        candidates = [name for name in there if re.sub(r"[\s_-]", "", name).lower() in known]
        if asked := given.options.get(role):
            candidates = [] if asked == NONE and role in ("split", "group") else [asked]
            if candidates and asked not in there:
                faults.append(f"there is no column {asked!r} to be the {role}.{suggest(asked, there)} {listed}")
        elif len(candidates) > 1:
            how = f"choose by {role}=COLUMN" + (f", or {role}={NONE} for none" if role in ("split", "group") else "")
            faults.append(f"{' and '.join(map(repr, candidates))} could be the {role}: {how}. {listed}")
        elif not candidates and role in ("file", "label"):
            faults.append(
                f"no column is known to hold the {role}: choose by {role}=COLUMN. {listed}. The first line must hold "
                "the columns' names"
            )
        if candidates:
            found[role] = candidates[0]
    if faults:
        example = f"--dataset {shlex.quote(f'table:{given.path}?file=COLUMN&label=COLUMN')}"
        raise UsageError(
            *(f"table:{given.path}: {fault}" for fault in faults), f"The options look like this: {example}"
        )
    return found


def _by_role(frame: "pd.DataFrame", columns: dict[str, str]) -> "pd.DataFrame":
    import pandas as pd

    return pd.DataFrame({role: frame[column] for role, column in columns.items()})


def _by_split(frame: "pd.DataFrame", columns: dict[str, str], given: shards.Given, notes: list[str]) -> "pd.DataFrame":
    """Return the rows that are used, their split as a code. Without a useful column of splits the frame has none."""
    import pandas as pd

    test = given.options.get("test")
    shards.check_test(given)
    if "split" in frame:
        values, number = np.unique(frame["split"].to_numpy(dtype=str), return_inverse=True)
        codes = np.array([_code(value) for value in values])
        if (codes < 0).any():
            odd = ", ".join(repr(str(value)) for value in values[codes < 0][:5])
            if "split" in given.options or (codes >= 0).any():
                raise UserError(
                    f"the column {columns['split']!r} holds {odd}, where train, val and test are expected. For another "
                    f"split by a rule: split={NONE}"
                )
            notes.append(f"The column {columns['split']!r} is not taken for the split, since it holds {odd}.")
            frame = frame.drop(columns="split")
        else:
            frame = frame.assign(split=codes[number])
            if set(codes) == {splits.TRAIN}:  # the usual word for everything
                frame = frame.drop(columns="split")
    if not test:
        return frame
    if "split" not in frame or not (frame["split"] == splits.VAL).any():
        raise UserError("there are no rows of val to test on")
    frame = frame[frame["split"] != splits.TEST]
    return frame.assign(split=pd.Series(np.where(frame["split"] == splits.VAL, splits.TEST, splits.TRAIN), frame.index))


def _code(value: str) -> int:
    """Return the code of the split that ``value`` names, -1 where it names none or several."""
    split = splits.word(value).split
    return -1 if split is None else split


def _with_files(frame: "pd.DataFrame", root: Path, asked: shards.Given, notes: list[str]) -> "pd.DataFrame":
    """Add what each row's file is called for the system, its size in bytes, and the id. Names all faults at once."""
    faults = []
    for role in ("file", "label", "group"):
        if role in frame and (empty := (frame[role] == "").to_numpy()).any():
            hint = ": give every image its group, or take none by group=-" if role == "group" else ""
            faults.append(f"{_are(int(empty.sum()), 'row', 'has', 'have')} no {role}{hint} (row {row_numbers(empty)})")
    entries = [*filter(None, frame["file"].unique().tolist())]
    if remote := [entry for entry in entries if "://" in entry and re.match(r"[A-Za-z][\w+.-]+://", entry)]:
        faults.append(
            f"{_are(len(remote), 'file')} named by an address: {_some(remote)}. Download it, and name the file"
        )
        raise UserError(*faults)
    found, missing, where = {}, [], str(root)
    for entry in entries:
        if there := _find(where, entry):
            found[entry] = there
        else:
            missing.append(entry)
    if missing:
        faults.append(
            f"{len(missing):,} of {_are(len(entries), 'file')} not there: {_some(missing)}. Files were looked for "
            f"in {root}{_elsewhere(root, missing[0], asked)}"
        )
    if faults:
        raise UserError(*faults)
    changed = Counter(how for _, _, how in found.values() if how)
    notes += [f"{_are(n, 'file', 'was', 'were')} found {how}." for how, n in changed.items()]
    given = frame["file"].tolist()
    files = [found[entry][0] for entry in given]
    ids = {file: shards.clean(os.path.normpath(file).replace(os.sep, "/")) for file, _, _ in found.values()}
    return frame.assign(file=files, size=[found[entry][1] for entry in given], id=[ids[file] for file in files])


def _find(root: str, entry: str) -> tuple[str, int, str] | None:
    """Return the file relative to ``root``, its bytes, and in what way its name was changed to find it, "" for none."""
    for file, how in _spellings(entry):
        try:
            about = os.stat(os.path.join(root, file))
        except (OSError, ValueError):
            continue
        if stat.S_ISREG(about.st_mode):
            return os.path.relpath(file, os.path.abspath(root)) if os.path.isabs(file) else file, about.st_size, how
    return None


def _spellings(entry: str) -> Iterator[tuple[str, str]]:
    yield entry, ""
    if "\\" in entry:
        yield entry.replace("\\", "/"), r"with / for \ in the name"
    if "." not in entry[-6:]:
        yield from ((f"{entry}.{ending}", f"with .{ending} added to the name") for ending in sorted(formats.endings()))


def _elsewhere(root: Path, entry: str, given: shards.Given) -> str:
    """Return the option by which a missing file would be found in a folder beside it; "" where it wouldn't."""
    if "folder" not in given.options:
        for folder in listing.folders(root) if root.is_dir() else ():
            if _find(str(root / folder), entry):
                sign = "&" if given.options else "?"
                options = "&".join(f"{key}={value}" for key, value in given.options.items())
                name = f"table:{given.path}?{options}{sign if options else ''}folder={folder}"
                return f". The first is in {folder}/: --dataset {shlex.quote(name)}"
    return ""


def _once(frame: "pd.DataFrame", notes: list[str]) -> "pd.DataFrame":
    """Return one row for each file. Raises UserError where rows of one file differ in what they say of it."""
    told = [role for role in ("label", "split", "group") if role in frame]
    several = frame[frame["id"].duplicated(keep=False)]
    faults = Faults()
    for role in told:
        values = several.groupby("id")[role].unique()
        differing = values[values.map(len) > 1]
        if len(differing):
            named = [f"{id} ({', '.join(map(str, found[:5]))})" for id, found in differing.head(SHOWN).items()]
            with faults.collect():
                raise UserError(
                    f"{_are(len(differing), 'file')} in several rows with different values of the {role}, where one is "
                    f"expected: {_some(named, len(differing))}"
                )
    faults.stop()
    kept = frame.drop_duplicates("id")
    if len(kept) < len(frame):
        notes.append(f"{_are(len(frame) - len(kept), 'row', 'repeats', 'repeat')} a file, which was taken once.")
    return kept


def _classes(values: "pd.Series") -> tuple[np.ndarray, list[str]]:
    """Return labels (N,) int64 and the class names: numbers are sorted by size, and 1.0 is 1."""
    texts, number = np.unique(values.to_numpy(dtype=str), return_inverse=True)
    named = [shards.clean(text) for text in texts.tolist()]
    if all(re.fullmatch(r"[+-]?(0|[1-9]\d*)(\.0*)?", name) for name in named):
        named = [str(int(name.partition(".")[0])) for name in named]
    numbers = all(re.fullmatch(r"[+-]?\d{1,18}(\.\d*)?", name) for name in named)
    names = sorted({*named}, key=(lambda name: (float(name), name)) if numbers else None)
    code = {name: i for i, name in enumerate(names)}
    return np.array([code[name] for name in named], np.int64)[number.reshape(-1)], names


def _split(frame: "pd.DataFrame", labels, group, *, seed: int) -> tuple[np.ndarray, str, str]:
    """Return the split (N,) int8, the rule behind it, and how it was made."""
    ids = frame["id"].tolist()
    if "split" not in frame:
        if group is not None:
            return grouped.draw(labels, group, seed=seed), groups.RULE, f"drawn by whole groups with seed {seed}"
        return splits.folder_rule(ids, labels, seed=seed), splits.FOLDER_RULE, f"drawn with seed {seed}"
    split = frame["split"].to_numpy(np.int8)
    if (split == splits.VAL).any() or not (split == splits.TRAIN).any():
        return split, RULE, "by the table"
    split = groups.val_from_train(ids, labels, group, split, seed=seed)
    return split, RULE, "by the table, val taken from train"


def _are(n: int, noun: str, one: str = "is", several: str = "are") -> str:
    return f"{n:,} {noun} {one}" if n == 1 else f"{n:,} {noun}s {several}"


def _some(items: list[str], n: int = 0) -> str:
    n = n or len(items)
    return ", ".join(item if item.isprintable() else repr(item) for item in items[:SHOWN]) + (
        f" and {n - SHOWN:,} more" if n > SHOWN else ""
    )
