"""Hugging Face data sets on this disk: ``hf:PATH``.

PATH is a folder of parquet files as on the hub, or what ``Dataset.save_to_disk`` wrote. The features that ``datasets``
stores in every file say which column holds the images and which the classes; else dataset_info.json or README.md do.
The ``datasets`` package isn't needed, only pyarrow.
"""

import contextlib
import json
import re
from pathlib import Path

from backbench import SPLITS, Faults, UserError
from backbench.data import arrow_tables, shards
from backbench.data.imageset import ImageSet

OPTIONS = ("image", "label", "group", "test")
"""``image`` and ``label`` name columns, where there are several to choose from. ``group`` names the column of what each
image belongs to, see data.groups. ``test``: see data.shards.by_split."""

LABELS = ("label", "labels", "class", "cls", "target", "category")
"""Columns that are taken for the class where no features name one."""

NOTE_BYTES = 1 << 24
"""Number of bytes of a README.md or a .json that are read at most."""


def load(name: str, *, seed: int, exif: str, labelled: bool = True) -> ImageSet:
    """List and split ``hf:PATH``. Neither images nor other columns are read. Raises UserError.

    Where ``labelled`` is False, no column of classes is needed, and all images are in test.
    """
    given = shards.parse(name, known=OPTIONS)
    try:
        import pyarrow
    except ImportError as error:
        raise UserError(f"{name} needs pyarrow: pip install pyarrow (or pip install '.[sources]')") from error
    called, root, files, passed = shards.find(given, (".parquet", ".arrow"))
    listed = shards.by_split(_of_the_set(files, root), root, test=given.options.get("test"))
    _one_configuration(listed, root)
    files = [file for file, _ in listed]
    kind = arrow_tables.Parquet if files[0].suffix == ".parquet" else arrow_tables.Arrow
    with _readable(files[0], pyarrow):
        schema = kind.schema(str(files[0]))
        if not schema.names:  # reading the names raises where they aren't UTF-8
            raise ValueError("no columns")
    features = _features(schema, root)
    image, *told = _columns(schema, features, given, labelled=labelled)
    stored = kind([str(file) for file in files], image)
    parts, faults, counts = [], Faults(), {}
    for k, (file, split) in enumerate(listed):
        with faults.collect():
            start = counts.get(split, 0)
            part = _shard(stored, k, file, split, told=told, like=schema, start=start, pyarrow=pyarrow)
            counts[split] = start + len(part.names)
            parts.append(part)
    faults.stop()
    if any(part.names for part in parts):
        try:  # a data set that holds only paths is reported at once, instead of image by image
            stored(0)
        except (pyarrow.ArrowException, OSError, ValueError, LookupError) as error:
            raise UserError(
                f"{called} in {root}: the first image can't be read, {error}. Embed the images, by Dataset.save_to_disk"
            ) from error
    names = features.get(told[0]) if told else None
    names = names if isinstance(names, list) else None
    how = {"seed": seed, "exif": exif, "notes": passed, "labelled": labelled}
    return shards.assemble(called, root, parts, stored, class_names=names, **how)


def _shard(stored, k: int, file: Path, split, *, told: list[str], like, start: int, pyarrow) -> shards.Shard:
    """Read the columns ``told``: labels and, where they are asked for, groups."""
    with _readable(file, pyarrow):
        schema = stored.schema(str(file))
        if odd := [c for c in (stored.column, *told) if c not in schema.names or schema.field(c) != like.field(c)]:
            raise UserError(
                f"{file} has other columns than the first file: {_described(schema)}, where {odd[0]} differs"
            )
        if told and _note(schema).get(told[0]) != _note(like).get(told[0]):
            raise UserError(
                f"{file} numbers its classes in {told[0]} differently from the first file: write them together"
            )
        columns, sizes = stored.table(k, *told)
        before = stored.ends[-2] if len(stored.ends) > 1 else 0
        labels, *groups = [_values(column, pyarrow) for column in columns] or [[None] * (stored.ends[-1] - before)]
    return shards.Shard(file, split, [f"{start + n:07d}" for n in range(len(labels))], labels, sizes, *groups)


def _values(labels, pyarrow) -> list:
    """Return labels (a chunked array) as numbers or names. ``_columns`` has checked that they can be classes."""
    if pyarrow.types.is_dictionary(labels.type):
        labels = labels.cast(labels.type.value_type)
    values = labels.to_pylist()
    return [str(value) for value in values] if pyarrow.types.is_boolean(labels.type) else values


def _of_the_set(files: list[Path], root: Path) -> list[Path]:
    """Return the files that state.json names, or all where there is none. ``datasets`` keeps other arrow files too."""
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
        raise UserError(f"{root} holds only internal files of datasets: a folder by Dataset.save_to_disk is expected")
    return kept


def _one_configuration(listed: list, root: Path) -> None:
    for split in {split for _, split in listed}:
        folders = dict.fromkeys(file.parent for file, each in listed if each == split)
        if len(folders) > 1:
            what = "files" if split is None else f"files of {SPLITS[split]}"
            places, first = ", ".join(map(str, folders)), next(iter(folders))
            raise UserError(f"{root} has {what} in several folders ({places}): name one configuration, hf:{first}")


def _features(schema, root: Path) -> dict[str, str | list[str]]:
    """Return "image" or the class names by column, from the file's own note, dataset_info.json or README.md."""
    if found := _note(schema):
        return found
    for folder in (root, root.parent):
        if found := _by_column(_json(folder / "dataset_info.json").get("features")) or _readme(folder):
            return found
    return {}


def _note(schema) -> dict[str, str | list[str]]:
    note = (schema.metadata or {}).get(b"huggingface", b"{}")
    with contextlib.suppress(ValueError, RecursionError, KeyError, TypeError):
        return _by_column(json.loads(note)["info"]["features"])
    return {}


def _by_column(features) -> dict[str, str | list[str]]:
    found = {}
    for column, what in features.items() if isinstance(features, dict) else ():
        kind = what.get("_type") if isinstance(what, dict) else None
        if kind == "Image":
            found[column] = "image"
        elif kind == "ClassLabel" and isinstance(what.get("names"), list):
            found[column] = [str(name) for name in what["names"]]
    return found


def _readme(folder: Path) -> dict[str, str | list[str]]:
    """Read ``dataset_info`` from a README.md. Of several configurations, ``folder``'s own or the default is taken."""
    import yaml

    head = re.match(r"---\n(.*?)\n---", _text(folder / "README.md"), re.DOTALL)
    if not head:
        return {}
    try:
        info = yaml.safe_load(head[1])["dataset_info"]
        several = {each.get("config_name", "default"): each for each in (info if isinstance(info, list) else [info])}
        alone = next(iter(several)) if len(several) == 1 else "default"
        chosen = several.get(folder.name) or several.get(alone)
        found = {}
        for each in chosen["features"] if chosen else ():
            if each["dtype"] == "image":
                found[each["name"]] = "image"
            elif isinstance(each["dtype"], dict) and "class_label" in each["dtype"]:
                names = each["dtype"]["class_label"]["names"]
                found[each["name"]] = [str(names[key]) for key in sorted(names, key=int)]
    except (yaml.YAMLError, LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{folder / 'README.md'}: its dataset_info can't be read ({error})") from error
    return found


def _columns(schema, features: dict, given: shards.Given, *, labelled: bool) -> list[str]:
    """Choose the columns of images, of classes and, where asked for, of groups. Raises UserError listing all.

    Where ``labelled`` is False, that of classes is chosen only where there is just one.
    """
    import pyarrow

    def can(column, test):
        return column in schema.names and test(schema.field(schema.names.index(column)).type, pyarrow.types)

    declared = [c for c in features if features[c] == "image" and can(c, _images)]
    structs = [c for c in schema.names if can(c, lambda kind, t: _images(kind, t) and t.is_struct(kind))]
    images = declared or structs or [c for c in schema.names if can(c, _images)]
    classes = [c for c in features if isinstance(features[c], list) and can(c, _classes)]
    classes = classes or [c for c in LABELS if can(c, _classes)]
    classes = ["label"] if "label" in classes else classes
    chosen, faults = [], []
    for key, what, found, test in (("image", "images", images, _images), ("label", "classes", classes, _classes)):
        if key in given.options:
            found = [given.options[key]]
            if not can(found[0], test):
                faults.append(f"{found[0]!r} is no column of {what}. Columns: {_described(schema)}")
        elif key == "label" and not labelled:
            found = found if len(found) == 1 else []
        elif len(found) != 1:
            which = (
                f"{len(found)} columns of {what} ({', '.join(found)})" if found else f"no column known to hold {what}"
            )
            faults.append(f"there is {which}: choose by hf:{given.path}?{key}=COLUMN. Columns: {_described(schema)}")
        chosen += found[:1]
    if "group" in given.options:
        chosen.append(given.options["group"])
        if not can(chosen[-1], _classes):
            faults.append(f"{chosen[-1]!r} is no column of groups. Columns: {_described(schema)}")
    if faults:
        raise UserError(*(f"hf:{given.path}: {fault}" for fault in faults))
    return chosen


def _images(kind, types) -> bool:
    if types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _images(kind.field("bytes").type, types)
    return types.is_binary(kind) or types.is_large_binary(kind)


def _classes(kind, types) -> bool:
    if types.is_dictionary(kind):
        kind = kind.value_type
    return any(test(kind) for test in (types.is_integer, types.is_boolean, types.is_string, types.is_large_string))


def _described(schema) -> str:
    return ", ".join(f"{shards.clean(field.name)} ({shards.clean(str(field.type))})" for field in schema)


def _text(path: Path) -> str:
    """Read a small text file; "" where that isn't possible."""
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
        raise UserError(f"{file} is damaged, or no {file.suffix} file ({reason}). Get it again") from error
