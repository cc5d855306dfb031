"""Hugging Face data sets on this disk: ``hf:PATH``.

PATH is a folder of parquet files as the hub has them, or what ``Dataset.save_to_disk`` wrote. Which column holds the
pictures and which the classes is in the features that ``datasets`` notes in every file, else in dataset_info.json or
README.md. The ``datasets`` package isn't needed, only pyarrow.
"""

import contextlib
import json
import re
from pathlib import Path

from backbench import SPLITS, Faults, UserError
from backbench.data import arrow_tables, shards
from backbench.data.imageset import ImageSet

OPTIONS = ("image", "label", "test")
"""``image``, ``label``: columns, where there are several to choose from. ``test``: see data.shards.by_split."""

LABELS = ("label", "labels", "class", "cls", "target", "category")
"""Columns taken for the class where no features tell of one."""

NOTE_BYTES = 1 << 24
"""Of a README.md or a .json: more is not read."""


def load(name: str, *, seed: int, exif: str) -> ImageSet:
    """List and split ``hf:PATH``; no picture is read, nor are columns that aren't wanted. Raises UserError."""
    given = shards.parse(name, known=OPTIONS)
    try:
        import pyarrow
    except ImportError as error:
        raise UserError(f"{name} needs pyarrow: pip install pyarrow (or pip install '.[sources]')") from error
    called, root, files = shards.find(given, (".parquet", ".arrow"))
    listed = shards.by_split(_of_the_set(files, root), root, test=given.options.get("test"))
    _one_configuration(listed, root)
    files = [file for file, _ in listed]
    kind = arrow_tables.Parquet if files[0].suffix == ".parquet" else arrow_tables.Arrow
    with _readable(files[0], pyarrow):
        schema = kind.schema(str(files[0]))
        if not schema.names:  # names that aren't UTF-8 show here
            raise ValueError("no columns")
    features = _features(schema, root)
    image, label = _columns(schema, features, given)
    stored = kind([str(file) for file in files], image)
    parts, faults, counts = [], Faults(), {}
    for k, (file, split) in enumerate(listed):
        with faults.collect():
            start = counts.get(split, 0)
            part = _shard(stored, k, file, split, label=label, like=schema, start=start, pyarrow=pyarrow)
            counts[split] = start + len(part.names)
            parts.append(part)
    faults.stop()
    if any(part.names for part in parts):
        try:  # one that has only paths is told at once, instead of image by image
            stored(0)
        except (pyarrow.ArrowException, OSError, ValueError, LookupError) as error:
            have = "have pictures embedded, by Dataset.save_to_disk"
            raise UserError(f"{called} in {root}: of the first picture, {error}: {have}") from error
    names = features.get(label)
    names = names if isinstance(names, list) else None
    return shards.assemble(called, root, parts, stored, class_names=names, seed=seed, exif=exif)


def _shard(stored, k: int, file: Path, split, *, label: str, like, start: int, pyarrow) -> shards.Shard:
    with _readable(file, pyarrow):
        schema = stored.schema(str(file))
        if odd := [c for c in (stored.column, label) if c not in schema.names or schema.field(c) != like.field(c)]:
            raise UserError(f"{file} has other columns than the first file: {_told(schema)}, where {odd[0]} differs")
        if _note(schema).get(label) != _note(like).get(label):
            raise UserError(f"{file} numbers its classes in {label} otherwise than the first file: write them together")
        labels, sizes = stored.table(k, label)
        labels = _values(labels, pyarrow)
    return shards.Shard(file, split, [f"{start + n:07d}" for n in range(len(labels))], labels, sizes)


def _values(labels, pyarrow) -> list:
    """Labels (chunked array) as numbers or names; only what a class can be passed ``_columns``."""
    if pyarrow.types.is_dictionary(labels.type):
        labels = labels.cast(labels.type.value_type)
    values = labels.to_pylist()
    return [str(value) for value in values] if pyarrow.types.is_boolean(labels.type) else values


def _of_the_set(files: list[Path], root: Path) -> list[Path]:
    """Those that state.json names, beside which ``datasets`` keeps arrow files of its own; all where there is none."""
    if len({file.suffix for file in files}) > 1:
        raise UserError(
            f"{root} holds .parquet and .arrow files: name a folder with one kind, or hf:'{root}/*.parquet'"
        )
    kept = []
    for folder in dict.fromkeys(file.parent for file in files):
        here = [file for file in files if file.parent == folder]
        state = _json(folder / "state.json").get("_data_files")
        if isinstance(state, list) and here[0].suffix == ".arrow":
            wanted = [str(each.get("filename")) for each in state if isinstance(each, dict)]
            there = {file.name: file for file in here}
            if gone := [name for name in wanted if name not in there]:
                raise UserError(
                    f"{folder} lacks {', '.join(gone[:5])}, which its state.json names: save or copy it again"
                )
            kept += [there[name] for name in wanted]
        else:
            kept += [file for file in here if not re.match(r"(cache|tmp|indices)-?\w*\.arrow", file.name)]
    if not kept:
        raise UserError(
            f"{root} holds only what datasets keeps for itself: a folder by Dataset.save_to_disk is expected"
        )
    return kept


def _one_configuration(listed: list, root: Path) -> None:
    for split in {split for _, split in listed}:
        folders = dict.fromkeys(file.parent for file, each in listed if each == split)
        if len(folders) > 1:
            what = "files" if split is None else f"files of {SPLITS[split]}"
            places, first = ", ".join(map(str, folders)), next(iter(folders))
            raise UserError(f"{root} has {what} in several folders ({places}): name one configuration, hf:{first}")


def _features(schema, root: Path) -> dict[str, str | list[str]]:
    """By column: "image", or the class names, as the file's own note tells, dataset_info.json or README.md."""
    if told := _note(schema):
        return told
    for folder in (root, root.parent):
        if told := _by_column(_json(folder / "dataset_info.json").get("features")) or _readme(folder):
            return told
    return {}


def _note(schema) -> dict[str, str | list[str]]:
    note = (schema.metadata or {}).get(b"huggingface", b"{}")
    with contextlib.suppress(ValueError, RecursionError, KeyError, TypeError):
        return _by_column(json.loads(note)["info"]["features"])
    return {}


def _by_column(features) -> dict[str, str | list[str]]:
    told = {}
    for column, what in features.items() if isinstance(features, dict) else ():
        kind = what.get("_type") if isinstance(what, dict) else None
        if kind == "Image":
            told[column] = "image"
        elif kind == "ClassLabel" and isinstance(what.get("names"), list):
            told[column] = [str(name) for name in what["names"]]
    return told


def _readme(folder: Path) -> dict[str, str | list[str]]:
    """``dataset_info`` at the head of a README.md; of several configurations the default, or the one ``folder`` is."""
    import yaml

    head = re.match(r"---\n(.*?)\n---", _text(folder / "README.md"), re.DOTALL)
    if not head:
        return {}
    try:
        info = yaml.safe_load(head[1])["dataset_info"]
        several = {each.get("config_name", "default"): each for each in (info if isinstance(info, list) else [info])}
        alone = next(iter(several)) if len(several) == 1 else "default"
        chosen = several.get(folder.name) or several.get(alone)
        told = {}
        for each in chosen["features"] if chosen else ():
            if each["dtype"] == "image":
                told[each["name"]] = "image"
            elif isinstance(each["dtype"], dict) and "class_label" in each["dtype"]:
                names = each["dtype"]["class_label"]["names"]
                told[each["name"]] = [str(names[key]) for key in sorted(names, key=int)]
    except (yaml.YAMLError, LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{folder / 'README.md'}: its dataset_info can't be read ({error})") from error
    return told


def _columns(schema, features: dict, given: shards.Given) -> tuple[str, str]:
    """The columns of pictures and of classes. Raises UserError that lists the columns."""
    import pyarrow

    def can(column, test):
        return column in schema.names and test(schema.field(schema.names.index(column)).type, pyarrow.types)

    told = [c for c in features if features[c] == "image" and can(c, _pictures)]
    structs = [c for c in schema.names if can(c, lambda kind, t: _pictures(kind, t) and t.is_struct(kind))]
    images = told or structs or [c for c in schema.names if can(c, _pictures)]
    classes = [c for c in features if isinstance(features[c], list) and can(c, _classes)]
    classes = classes or [c for c in LABELS if can(c, _classes)]
    classes = ["label"] if "label" in classes else classes
    chosen, faults = [], []
    for key, what, found, test in (("image", "pictures", images, _pictures), ("label", "classes", classes, _classes)):
        if key in given.options:
            found = [given.options[key]]
            if not can(found[0], test):
                faults.append(f"{found[0]!r} is no column of {what}. Columns: {_told(schema)}")
        elif len(found) != 1:
            which = (
                f"{len(found)} columns of {what} ({', '.join(found)})"
                if found
                else f"no column of {what} known as such"
            )
            faults.append(f"there is {which}: choose by hf:{given.path}?{key}=COLUMN. Columns: {_told(schema)}")
        chosen += found[:1]
    if faults:
        raise UserError(*(f"hf:{given.path}: {fault}" for fault in faults))
    return tuple(chosen)


def _pictures(kind, types) -> bool:
    if types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _pictures(kind.field("bytes").type, types)
    return types.is_binary(kind) or types.is_large_binary(kind)


def _classes(kind, types) -> bool:
    if types.is_dictionary(kind):
        kind = kind.value_type
    return any(test(kind) for test in (types.is_integer, types.is_boolean, types.is_string, types.is_large_string))


def _told(schema) -> str:
    return ", ".join(f"{shards.clean(field.name)} ({shards.clean(str(field.type))})" for field in schema)


def _text(path: Path) -> str:
    """What a small text file holds, "" where it isn't one."""
    try:
        with open(path, "rb") as file:
            return file.read(NOTE_BYTES).decode("utf-8", "replace").replace("\r\n", "\n")
    except OSError:
        return ""


def _json(path: Path) -> dict:
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads(_text(path))
        return found if isinstance(found, dict) else {}
    return {}


@contextlib.contextmanager
def _readable(file: Path, pyarrow):
    try:
        yield
    except (pyarrow.ArrowException, OSError, ValueError, LookupError) as error:
        reason = str(error).partition("\n")[0][:200]
        raise UserError(f"{file} is damaged, or no {file.suffix} file ({reason}): get it again") from error
