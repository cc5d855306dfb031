"""The registered data sets: where each lies under a data root, and how it is listed and split."""

import functools
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backbench import SPLITS, UserError
from backbench.data import imageset, listing, notes, splits
from backbench.data.imageset import ImageSet

CIFAR_RULE = "class folders in train/ and test/ are expected; an eighth of train becomes val"

CALTECH_HOW = "by the rule of Caltech-256"
CIFAR_HOW = "by its own train and test, with an eighth of train as val"
"""How the registered data sets are split, in a note."""

OFFICE = ("amazon", "dslr", "webcam")


@dataclass(frozen=True)
class Source:
    """A registered data set."""

    load: Callable[..., ImageSet]
    """``load(name, found, *, seed, exif)``."""
    places: tuple[str, ...]
    """Paths under the data root, tried in order: the data set is present when one exists. Empty: it is in a package."""
    classes: int
    images: int
    """Number of images in the full data set, by which missing ones are noticed."""
    has_download: bool = True
    made_by: str = ""
    """Command that builds it, where there is one."""

    def find(self, data_root: Path) -> Path | None:
        """Return the first of ``places`` that exists under ``data_root``. Raises UserError where it can't be read."""
        try:
            return next((data_root / place for place in self.places if (data_root / place).is_dir()), None)
        except OSError as error:
            raise UserError(f"can't look into {data_root}: {error.strerror}") from error


def caltech(name: str, found: Path, *, seed: int, exif: str, leave_out: str) -> ImageSet:
    """Load class folders, without the class ``leave_out``, and split them by the Caltech rule."""
    listed = listing.class_folders(found, leave_out=frozenset({leave_out}))
    split = splits.caltech_rule(listed.ids, listed.labels, seed=seed)
    return on_disk(name, listed, split, rule=splits.CALTECH_RULE, how=CALTECH_HOW, exif=exif)


def cifar(name: str, found: Path, *, seed: int, exif: str) -> ImageSet:
    """Load CIFAR as torchvision keeps it, or as images in ``{train,test}/<class>/``, split by the CIFAR rule."""
    if found.name != "train":
        return _cifar_batches(name, found, seed=seed, exif=exif)
    listed = listing.class_folders(found.parent, prefixes=("train/", "test/"))
    split = splits.cifar_rule(_split_of(listed.ids), seed=seed)
    return on_disk(name, listed, split, rule=CIFAR_RULE, how=CIFAR_HOW, exif=exif)


def office(name: str, found: Path, *, seed: int, exif: str) -> ImageSet:
    """Load one source, or all three where ``found`` is their parent. All images are test, to measure a shift."""
    prefixes = ("",)
    if name == "office_shift":
        prefixes = tuple(f"{source}/" for source in OFFICE)
        if missing := [prefix for prefix in prefixes if not (found / prefix).is_dir()]:
            raise UserError(f"{found} lacks {', '.join(missing)}: name the others alone, as in office_shift/dslr")
    listed = listing.class_folders(found, prefixes=prefixes)
    return on_disk(name, listed, np.full(len(listed.ids), splits.TEST, np.int8), rule="", exif=exif)


def test_only(name: str, found: Path, *, seed: int, exif: str) -> ImageSet:
    """Load class folders, even of one class, in which all images are test, for heads of other data sets."""
    listed = listing.class_folders(found)
    if not listed.ids:
        raise UserError(f"{name} in {found}: there are no images in class folders")
    return on_disk(name, listed, np.full(len(listed.ids), splits.TEST, np.int8), rule=None, exif=exif)


def unknown(name: str, found: Path, *, seed: int, exif: str) -> ImageSet:
    """Load the images of the one folder ``found``, whose class the rest of its data set lacks. All are test."""
    siblings = frozenset(listing.folders(found.parent)) - {found.name}
    listed = listing.class_folders(found.parent, leave_out=siblings)
    return on_disk(name, listed, np.full(len(listed.ids), splits.TEST, np.int8), rule=None, exif=exif)


def digits(name: str, found: None, *, seed: int, exif: str) -> ImageSet:
    """Load scikit-learn's 1,797 digits of 8x8 pixels, rescaled from 0..16 to 0..255, split by the Caltech rule."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    grey = ((bunch.images.astype(np.int64) * 255 + 8) // 16).astype(np.uint8)
    labels = bunch.target.astype(np.int64)
    ids = [f"digits/{i:04d}" for i in range(len(labels))]
    split = splits.caltech_rule(ids, labels, seed=seed)
    pixels = np.repeat(grey[..., None], 3, axis=3)
    return _in_memory(name, ids, labels, split, [str(n) for n in range(10)], pixels, exif, CALTECH_HOW)


def _cifar_batches(name: str, found: Path, *, seed: int, exif: str) -> ImageSet:
    # torchvision checks every file's md5 before it unpickles one, so that only the published bytes are ever unpickled.
    from torchvision import datasets
    from torchvision.datasets.utils import check_integrity

    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    md5s = dict([*kind.train_list, *kind.test_list, (kind.meta["filename"], kind.meta["md5"])])
    try:
        train, test = kind(found.parent, train=True), kind(found.parent, train=False)
    except RuntimeError as error:
        damaged = [file for file, md5 in md5s.items() if not check_integrity(found / file, md5)]
        data_root = found.parent.parent if found.parent.name == name else found.parent
        raise UserError(
            f"{name} in {found} lacks, or has with another md5, {', '.join(damaged)}: remove that folder, then get it "
            f"again with: backbench data download {name} --data-root {shlex.quote(str(data_root))}"
        ) from error
    parts = (("test", test), ("train", train))  # in the order of the sorted ids
    ids = [f"{part}/{i:05d}" for part, images in parts for i in range(len(images))]
    labels = np.concatenate([np.array(images.targets, np.int64) for _, images in parts])
    pixels = np.concatenate([images.data for _, images in parts])
    split = splits.cifar_rule(_split_of(ids), seed=seed)
    return _in_memory(name, ids, labels, split, train.classes, pixels, exif, CIFAR_HOW)


def _split_of(ids: list[str]) -> np.ndarray:
    return np.array([SPLITS.index(id.partition("/")[0]) for id in ids], np.int8)


def on_disk(
    name: str, listed: listing.Listing, split: np.ndarray, *, rule: str | None, how: str = "", exif: str, groups=None
) -> ImageSet:
    """Make a data set of listed files. ``how`` says in its notes how it was split.

    Raises UserError as ``splits.check`` does, which takes ``rule``; with None nothing is checked.
    """
    try:
        if rule is not None:
            splits.check(listed.labels, split, listed.class_names, rule=rule)
    except UserError as error:
        raise UserError(*(f"{name} in {listed.root}: {fault}" for fault in error.faults)) from error
    names, details = listed.class_names, {"root": listed.root, "files": listed.files}
    details["listings"] = imageset.listings(listed.ids, listed.labels, split, names, sizes=listed.sizes)
    details["notes"] = (notes.taken(names, split, how), *notes.passed_over(listed.found))
    return ImageSet(name, listed.ids, listed.labels, split, names, exif=exif, groups=groups, **details)


def _in_memory(name, ids, labels, split, class_names, pixels, exif, how) -> ImageSet:
    told = imageset.listings(ids, labels, split, class_names, pixels=pixels)
    said = (notes.taken(class_names, split, how),)
    return ImageSet(name, ids, labels, split, class_names, exif=exif, pixels=pixels, listings=told, notes=said)


SETS = {
    "caltech256": Source(
        functools.partial(caltech, leave_out="257.clutter"),
        ("caltech256/256_ObjectCategories", "256_ObjectCategories"),
        classes=256,
        images=29_780,
    ),
    "cifar100": Source(cifar, ("cifar100/cifar-100-python", "cifar-100-python", "cifar100/train"), 100, 60_000),
    "caltech101": Source(
        functools.partial(caltech, leave_out="BACKGROUND_Google"),
        ("caltech101/101_ObjectCategories", "101_ObjectCategories"),
        classes=101,
        images=8_677,
    ),
    "cifar10": Source(cifar, ("cifar10/cifar-10-batches-py", "cifar-10-batches-py", "cifar10/train"), 10, 60_000),
    "office_shift": Source(office, ("office_shift",), 10, 1_410, has_download=False),
    "office_shift/amazon": Source(office, ("office_shift/amazon",), 10, 958, has_download=False),
    "office_shift/dslr": Source(office, ("office_shift/dslr",), 10, 157, has_download=False),
    "office_shift/webcam": Source(office, ("office_shift/webcam",), 10, 295, has_download=False),
    "openimages": Source(
        test_only, ("openimages",), 0, 0, has_download=False, made_by="backbench data openimages --for caltech256"
    ),
    "caltech256/clutter": Source(
        unknown,
        ("caltech256/256_ObjectCategories/257.clutter", "256_ObjectCategories/257.clutter"),
        classes=1,
        images=827,
        has_download=False,
        made_by="backbench data download caltech256",
    ),
    "caltech101/background": Source(
        unknown,
        ("caltech101/101_ObjectCategories/BACKGROUND_Google", "101_ObjectCategories/BACKGROUND_Google"),
        classes=1,
        images=467,
        has_download=False,
        made_by="backbench data download caltech101",
    ),
    "digits": Source(digits, (), 10, 1_797, has_download=False),
}
"""The registered data sets. Their sizes come from facts.md's totals, torchvision's Caltech101, CIFAR's page and the ten
Office classes. Open Images' subset has no fixed size."""
