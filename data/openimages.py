"""Choosing images of Open Images for classes, from the official files or from a frozen list.

The official files come from https://storage.googleapis.com/openimages/web/download.html. For each split they hold the
labels that people verified, the boxes, and each image's licence, author, addresses and rotation. Those of the train
split are gigabytes, so they are read line by line, and only candidates are kept in memory.
"""

import csv
import hashlib
import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from backbench import UserError
from backbench.data import maps
from backbench.data.fetch import fetch
from backbench.files import write_whole

BASE = "https://storage.googleapis.com/openimages"

IMAGES = "https://open-images-dataset.s3.amazonaws.com"
"""Public bucket of the CVDF foundation: ``<split>/<id>.jpg``, with at most 1,024 pixels a side."""

FILES = {
    "train": {
        "labels": "v5/train-annotations-human-imagelabels-boxable.csv",
        "boxes": "v6/oidv6-train-annotations-bbox.csv",
        "images": "2018_04/train/train-images-boxable-with-rotation.csv",
    },
    **{
        split: {
            "labels": f"v5/{split}-annotations-human-imagelabels-boxable.csv",
            "boxes": f"v5/{split}-annotations-bbox.csv",
            "images": f"2018_04/{split}/{split}-images-with-rotation.csv",
        }
        for split in ("validation", "test")
    },
}
"""Official files under BASE, by split."""

COLUMNS = {
    "labels": ("ImageID", "LabelName", "Confidence"),
    "boxes": ("ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax", "IsDepiction", "IsInside"),
    "images": (
        "ImageID", "License", "Author", "AuthorProfileURL", "OriginalURL", "OriginalLandingURL", "Title", "Rotation",
    ),
}  # fmt: skip
"""Columns that are read from each official file."""

TURNED = ("90", "180", "270")
"""Rotations by which an image lies on its side or head. Such images are not taken."""

SPARE = 4
"""How many times the wanted number of images per class is looked up, since some are rotated and some are gone."""


@dataclass(frozen=True)
class ImageRecord:
    """One image of a class. The box, in shares of width and height, is the largest of that class in the image."""

    image_id: str
    split: str
    class_name: str
    mid: str
    xmin: float
    xmax: float
    ymin: float
    ymax: float
    rotation: str = ""
    """Rotation in degrees; empty where it is unknown."""
    license: str = ""
    author: str = ""
    author_profile: str = ""
    original_url: str = ""
    landing_url: str = ""
    title: str = ""
    md5: str = ""
    """MD5 of the bucket's file; empty until it is downloaded."""

    @property
    def share(self) -> float:
        """Share of the image that the box takes, 0..1."""
        return (self.xmax - self.xmin) * (self.ymax - self.ymin)


def wanted(sources: Iterable[str], file: Path | None = None) -> dict[str, str]:
    """Return names by id of the target classes in the sources' maps, or in the user's ``file``.

    Raises UserError with all errors at once.
    """
    known, names, faults = maps.openimages(), {}, []
    paths = {source: maps.shipped(source, "openimages") for source in sources} | ({"": file} if file else {})
    for source, path in paths.items():
        if path is None:
            faults.append(f"backbench has no class map from {source} to openimages: give one with --map")
        else:
            names |= dict.fromkeys(target for _, target in maps.read(path))
    faults += [f"{file}: Open Images has no boxable class {name!r}" for name in names if name not in known]
    if faults:
        raise UserError(*faults)
    return {known[name]: name for name in sorted(names)}


def frozen(sources: Iterable[str]) -> Path | None:
    """Return the list that ships with backbench for that one data set, so that all have one subset; else None."""
    names = list(sources)
    path = maps.FOLDER.parent / f"openimages-{names[0]}.csv" if len(names) == 1 else None
    return path if path and path.is_file() and maps.shipped(names[0], "openimages") else None


def digest(path: Path) -> str:
    """Compute the SHA-256 (hex) of a list's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def candidates(home: Path, classes: dict[str, str], splits, *, per_class: int, min_area: float, seed: int, base=BASE):
    """Return candidate images by class name, in seeded order, at most SPARE times as many as are wanted.

    People have verified that an image shows the class, and it shows no other wanted class. A box of the class takes at
    least ``min_area`` of the image, and is neither a drawing nor an inside view. The image is not known to be rotated.
    Official files are kept in ``home``. Raises UserError where one can't be downloaded or is not as expected.
    """
    found: dict[str, list[ImageRecord]] = {name: [] for name in classes.values()}
    for split in splits:
        files = {}
        for kind, place in FILES[split].items():
            files[kind] = fetch(f"{base}/{place}", home / place.rpartition("/")[2])
        verified = _verified(files["labels"], classes)
        for record in _boxed(files["boxes"], classes, verified, split):
            if record.share >= min_area:
                found[record.class_name].append(record)
    for name, some in found.items():
        order = sorted(some, key=lambda one: hashlib.sha256(f"{seed}:{one.image_id}".encode()).digest())
        found[name] = order[: SPARE * per_class]
    about = {}
    for split in splits:
        ids = {one.image_id for some in found.values() for one in some if one.split == split}
        about |= _described(home / FILES[split]["images"].rpartition("/")[2], ids)
    return {
        name: [
            ImageRecord(**asdict(one) | about[one.image_id])
            for one in some
            if one.image_id in about and about[one.image_id]["rotation"] not in TURNED
        ]
        for name, some in found.items()
    }


def _lines(path: Path, kind: str) -> Iterator[list[str]]:
    """Yield the COLUMNS of a file's lines. Raises UserError where it lacks one, or a line is cut short."""
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        lines = csv.reader(file)
        head = next(lines, [])
        if missing := [name for name in COLUMNS[kind] if name not in head]:
            raise UserError(
                f"{path} is not Open Images' file: it lacks {', '.join(missing)} and begins {','.join(head)[:60]!r}. "
                "Remove it, and run the same command again"
            )
        at = [head.index(name) for name in COLUMNS[kind]]
        try:
            for line in lines:
                yield [line[i] for i in at]
        except (IndexError, csv.Error):
            raise UserError(
                f"{path}:{lines.line_num} is cut short or damaged. Remove it, and run the same command again"
            ) from None


def _verified(path: Path, classes: dict[str, str]) -> dict[str, str]:
    """Return the one wanted class that people saw in each image, by image id; '' where there are several."""
    found: dict[str, str] = {}
    for image, mid, confidence in _lines(path, "labels"):
        if mid in classes and _number(confidence) == 1:
            found[image] = mid if found.get(image, mid) == mid else ""
    return found


def _boxed(path: Path, classes: dict[str, str], verified: dict[str, str], split: str) -> list[ImageRecord]:
    """Return images with the largest box of their class, where they have no box of another wanted class."""
    largest: dict[str, tuple] = {}
    for image, mid, *ends, depiction, inside in _lines(path, "boxes"):
        if not verified.get(image) or mid not in classes:
            continue
        if verified[image] != mid:
            verified[image] = ""
            continue
        box = tuple(map(_number, ends))
        area = (box[1] - box[0]) * (box[3] - box[2])
        if depiction != "1" and inside != "1" and 0 <= box[0] < box[1] <= 1 and 0 <= box[2] < box[3] <= 1:
            largest[image] = max(largest.get(image, (0.0, ())), (area, box))
    return [
        ImageRecord(image, split, classes[verified[image]], verified[image], *box)
        for image, (_, box) in largest.items()
        if verified[image] and ID.fullmatch(image)
    ]


ID = re.compile("[0-9a-f]{16}")
"""An image's id, which becomes part of an address and of a file name."""


def _described(path: Path, ids: set[str]) -> dict[str, dict]:
    found = {}
    for image, licence, author, profile, original, landing, title, rotation in _lines(path, "images"):
        if image in ids:
            degrees = _number(rotation)
            turned = f"{degrees:.0f}" if degrees >= 0 else ""  # nan where it is unknown
            found[image] = dict(zip(
                ("license", "author", "author_profile", "original_url", "landing_url", "title", "rotation"),
                (licence, author, profile, original, landing, title, turned), strict=True,
            ))  # fmt: skip
    return found


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def write_list(path: Path, records: Iterable[ImageRecord]) -> None:
    """Write the list as CSV, which ``read_list`` reads. Raises OSError."""
    text = io.StringIO()
    lines = csv.DictWriter(text, [field.name for field in fields(ImageRecord)], lineterminator="\n")
    lines.writeheader()
    lines.writerows(map(asdict, records))
    write_whole(path, text.getvalue().encode("utf-8", "backslashreplace"))


def read_list(path: Path) -> list[ImageRecord]:
    """Read a frozen list and check all of its values. Raises UserError with every error."""
    known = maps.openimages()
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"the list {path} can't be read: {getattr(error, 'strerror', None) or error}") from None
    names = [field.name for field in fields(ImageRecord)]
    if not lines or None in lines[0] or list(lines[0]) != names:
        raise UserError(
            f"{path}:1: a list with the columns {','.join(names)} is expected, as data openimages writes it"
        )
    found, faults = [], []
    for number, line in enumerate(lines, 2):
        box = [_number(line[side] or "") for side in ("xmin", "xmax", "ymin", "ymax")]
        wrong = [
            name
            for name, sound in {
                "image_id": ID.fullmatch(line["image_id"] or ""),
                "split": line["split"] in FILES,
                "class_name": line["class_name"] in known,
                "box": 0 <= box[0] < box[1] <= 1 and 0 <= box[2] < box[3] <= 1,
                "md5": re.fullmatch("([0-9a-f]{32})?", line["md5"] or ""),
            }.items()
            if not sound
        ]
        if wrong or None in line or None in line.values():
            faults.append(f"{path}:{number}: {', '.join(wrong) or 'its columns'} can't be used")
        else:
            found.append(ImageRecord(**line | dict(zip(("xmin", "xmax", "ymin", "ymax"), box, strict=True))))
    if faults:
        raise UserError(*faults)
    return found
