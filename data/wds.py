"""Tar shards in the webdataset convention, read in place: ``wds:PATH``.

Members of one sample follow each other and share their name up to its first dot: ``cat/1.jpg``, ``cat/1.cls``. A shard
is scanned once to find where its images lie; reading an image is then one seek and one read. Nothing is unpacked, and a
name inside a tar is never used as a path.
"""

import collections
import contextlib
import hashlib
import itertools
import json
import os
import re
import shlex
import tarfile
from dataclasses import astuple, dataclass, field
from pathlib import Path

import numpy as np

from backbench import Faults, UserError
from backbench.data import shards
from backbench.data.formats import endings
from backbench.data.imageset import ImageSet
from backbench.data.notes import files_passed
from backbench.files import write_whole
from backbench.progress import progress

OPTIONS = ("image", "label", "group", "test")
"""``image`` is the ending of the image to take where a sample has several. ``label`` is the ending of the member, or
the field of the .json, that holds the class: by default ``.cls``, else the field ``label``. ``group`` is the same for
what the image belongs to, see data.groups. For ``test`` see data.shards.by_split."""

CLASS_FILES = ("classes.txt", "classnames.txt")
"""Files next to the shards, or in the data set's folder, with the name of class 0, class 1 and so on, one per line."""

LABEL_BYTES, JSON_BYTES, IMAGE_BYTES = 1_000, 1 << 24, 1 << 30
"""Larger members are refused before they are read. No image within PIL's limit of pixels needs a gigabyte."""

MANY = 1_000
"""From so many images on, their positions are kept for the next run: finding 60,000 in six shards takes 3 s."""

VERSION = 3
"""Version of the kept index."""

ENOUGH = 10
"""Number of faulty shards after which no more are scanned, since a thousand shards are mostly made by one program."""


@dataclass
class Index:
    """The images of a shard: name, first byte, size in bytes, class and, where asked for, group of each.

    ``passed`` names a member of each sample without an image.
    """

    names: list[str] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    labels: list[str | None] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    passed: list[str] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Members:
    """Reads images from their shards by ``members(i)``. Thread safe; it holds no open file."""

    paths: list[str]
    stamps: list[tuple[int, ...]]
    shard: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray

    def __call__(self, i: int) -> bytes:
        """Return the bytes of image ``i``. Raises OSError, also where the shard has changed since it was listed."""
        k, size = self.shard[i], int(self.sizes[i])
        if size > IMAGE_BYTES:
            raise OSError(f"{size:,} bytes are too many for an image, of which {IMAGE_BYTES:,} are the limit")
        with open(self.paths[k], "rb") as file:
            if _stamp(os.fstat(file.fileno())) != self.stamps[k]:
                raise OSError(f"{Path(self.paths[k]).name} has changed since the run began: run the command again")
            file.seek(int(self.offsets[i]))
            return file.read(size)

    def places(self) -> list[tuple[str, int]]:
        """Return the shard of each image and its first byte there."""
        return [(self.paths[k], offset) for k, offset in zip(self.shard.tolist(), self.offsets.tolist(), strict=True)]


def load(name: str, *, seed: int, exif: str, labelled: bool = True) -> ImageSet:
    """List and split ``wds:PATH``: a folder of .tar shards, one shard, or a pattern. If not ``labelled``, samples need
    no class, and all are in test. Raises UserError."""
    given = shards.parse(name, known=OPTIONS)
    name, root, files, passed = shards.find(given, (".tar",))
    listed = shards.by_split(files, root, test=given.options.get("test"))
    options = {
        key: given.options.get(key) for key in ("image", "label", "group") if key != "group" or key in given.options
    }
    options |= {} if labelled else {"labelled": False}
    files = [file for file, _ in listed]
    stamps, indices = _indices(files, name, **options)
    labels = [label for each in indices for label in each.labels if label is not None]
    numbers = all(re.fullmatch(r"-?\d{1,9}", label) for label in labels)
    classes = [[label and (int(label) if numbers else label) for label in each.labels] for each in indices]
    parts = [
        shards.Shard(file, split, each.names, named, each.sizes, each.groups or None)
        for (file, split), each, named in zip(listed, indices, classes, strict=True)
    ]
    stored = Members(
        [str(file) for file in files],
        stamps,
        np.repeat(np.arange(len(files), dtype=np.int32), [len(each.names) for each in indices]),
        np.array([offset for each in indices for offset in each.offsets], np.int64),
        np.array([size for each in indices for size in each.sizes], np.int64),
    )
    class_names = _class_names(root, files) if numbers else None
    passed += files_passed([sample for each in indices for sample in each.passed], "sample")
    how = {"class_names": class_names, "seed": seed, "exif": exif, "labelled": labelled}
    return shards.assemble(name, root, parts, stored, notes=passed, **how)


def _indices(files: list[Path], name: str, **options) -> tuple[list[tuple[int, ...]], list[Index]]:
    faults = Faults()
    stamps, found = [], {}
    for file in files:
        with faults.collect(), _readable(file):
            stamps.append(_stamp(file.stat()))
            if kept := _kept(file, stamps[-1], options):
                found[file] = kept
    faults.stop()
    todo = [file for file in files if file not in found]
    if todo:
        with progress(len(todo), f"{name} scanning shards", unit="shards") as advance:
            for file in todo:
                with faults.collect(), _readable(file):
                    found[file] = index(file, **options)
                    _keep(file, stamps[files.index(file)], options, found[file])
                advance(1)
                if len(faults.errors) == ENOUGH:
                    break
    faults.stop()
    return stamps, [found[file] for file in files]


def index(path: Path, *, image: str | None, label: str | None, group: str | None = None, labelled=True) -> Index:
    """Scan the tar at ``path``. Raises UserError with everything that is wrong, OSError and tarfile.TarError."""
    found, seen, wrong = Index(), set(), collections.defaultdict(list)
    with open(path, "rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
        for key, members in itertools.groupby(_members(tar), key=lambda member: member[0]):
            members = [(ending, member) for _, ending, member in members]
            images = [(e, m) for e, m in members if (e == image if image else e.rpartition(".")[2] in endings())]
            if not images:
                if label in dict(members) or "cls" in dict(members):
                    wrong["have a class but no image next to it"].append(key)
                found.passed.append(f"{key}.{members[0][0]}")
                continue
            ending, member = images[0]
            name = f"{key}.{ending}"
            if len(images) > 1:
                ends = ", ".join(end for end, _ in images)
                wrong[f"have several images ({ends}): choose by wds:PATH?image={ending}"].append(key)
            if any(not m.isreg() or m.issparse() for _, m in members):
                wrong["hold a link, a device or a file with holes where a plain file is expected"].append(key)
                continue
            if name in seen:
                wrong["are there twice"].append(name)
            seen.add(name)
            class_name, fault = _told(file, dict(members), [label] if label else ["cls", "label"], "label", "class")
            belongs, lacks = _told(file, dict(members), [group], "group", "group") if group else (None, None)
            for why in filter(None, (fault if labelled else None, lacks)):
                wrong[why].append(f"{key}: {', '.join(ending for ending, _ in members)}")
            found.names.append(name)
            found.offsets.append(member.offset_data)
            found.sizes.append(member.size)
            found.labels.append(class_name)
            if group:
                found.groups.append(belongs)
        _whole(tar, file, path)
    if not found.names and not wrong:
        wanted = f"members that end in .{image}" if image else "images"
        wrong[f"it holds no {wanted}: samples like 1.jpg, 1.cls are expected"] = []
    if wrong:
        raise UserError(*(f"{path}: {_count(keys)}{what}" for what, keys in wrong.items()))
    return found


def _members(tar: tarfile.TarFile):
    """Yield (key, ending, member) of each sample's members. The key is all before the first dot of the file name."""
    end = -1
    while member := tar.next():
        tar.members.clear()  # otherwise a tar of millions would be millions of objects
        if tar.offset <= end:
            raise tarfile.ReadError("its members overlap")
        end = tar.offset
        found = re.fullmatch(r"((?:.*/)?[^./]+)\.([^/]+)", member.name, re.DOTALL)
        if found and not member.isdir():
            yield shards.clean(found[1].removeprefix("./").lstrip("/")), shards.clean(found[2]).lower(), member


def _told(file, members: dict, wanted: list[str], option: str, what: str) -> tuple[str | None, str | None]:
    """Return the class, or whatever ``option`` chooses, that a sample states, and what is wrong with it."""
    fields = None
    for key in wanted:
        text = None
        if key in members:
            text = _content(file, members[key], LABEL_BYTES)
        elif "json" in members:
            if fields is None:
                with contextlib.suppress(ValueError, RecursionError):
                    fields = json.loads(_content(file, members["json"], JSON_BYTES) or "")
                if not isinstance(fields, dict):
                    return None, "have a .json that isn't an object in JSON"
            if key not in fields:
                continue
            text = str(fields[key]) if isinstance(fields[key], (int, str)) else None
        else:
            continue
        text = text and text.strip()
        return text, None if text else f"have a {key} that isn't the number or name of a {what}"
    where = " or ".join(f".{key} or field {key} of .json" for key in wanted)
    return None, f"have no {where}: name the one that holds the {what} by wds:PATH?{option}=ENDING-OR-FIELD"


def _content(file, member: tarfile.TarInfo, most: int) -> str | None:
    """Return a small member's text, or None where it is large or no text. The tar seeks back by itself."""
    if member.size > most:
        return None
    file.seek(member.offset_data)
    try:
        return file.read(member.size).decode()
    except UnicodeDecodeError:
        return None


def _whole(tar: tarfile.TarFile, file, path: Path) -> None:
    """Raise where the members end before the tar does. There tarfile silently stops at a damaged header or a cut."""
    file.seek(tar.offset)
    block = file.read(tarfile.BLOCKSIZE)
    if block.strip(b"\0"):
        raise tarfile.ReadError(f"there is no member after {tar.offset:,} bytes")
    if len(block) < tarfile.BLOCKSIZE:
        end = f"head -c 1024 /dev/zero >> {shlex.quote(str(path))}"
        raise UserError(f"{path} lacks the end of a tar: get it again, or, if it is whole, add it with: {end}")


@contextlib.contextmanager
def _readable(file: Path):
    try:
        yield
    except tarfile.TarError as error:
        raise UserError(f"{file} is damaged, or no tar ({error}). Get it again") from error
    except OSError as error:
        raise UserError(f"can't read {file}: {error.strerror or error}") from error


def _class_names(root: Path, files: list[Path]) -> list[str] | None:
    """Read the lines of the first of CLASS_FILES that is next to the shards or in ``root``."""
    for folder in dict.fromkeys([root, *(file.parent for file in files)]):
        for path in (folder / name for name in CLASS_FILES):
            if path.is_file():
                with _readable(path):
                    try:
                        return [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
                    except UnicodeDecodeError as error:
                        raise UserError(f"{path} is not UTF-8: one class name per line is expected") from error
    return None


def _stamp(stat: os.stat_result) -> tuple[int, ...]:
    """What changes whenever a shard does: nobody can set back the time of a file's last change of any kind."""
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


def _sidecar(file: Path, options: dict) -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    key = hashlib.sha256(json.dumps([VERSION, os.path.realpath(file), options]).encode()).hexdigest()
    return home / "backbench" / "shards" / f"{key[:32]}.json"


def _kept(file: Path, stamp: tuple[int, ...], options: dict) -> Index | None:
    """Return the index that an earlier run kept, where the shard's size, times and inode are unchanged."""
    try:
        kept = json.loads(_sidecar(file, options).read_bytes())
        return Index(*kept["index"]) if tuple(kept["stamp"]) == stamp else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _keep(file: Path, stamp: tuple[int, ...], options: dict, found: Index) -> None:
    if len(found.names) >= MANY:
        with contextlib.suppress(OSError):  # it is a convenience only
            content = json.dumps({"stamp": stamp, "index": astuple(found)})
            write_whole(_sidecar(file, options), content.encode())


def _count(keys: list[str]) -> str:
    return "" if not keys else f"{len(keys):,} samples ({'; '.join(keys[:3])}{'; ...' if len(keys) > 3 else ''}) "
