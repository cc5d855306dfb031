"""Images of one's own in folders, ``folder:PATH``: which folders are splits and which are classes."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backbench import SPLITS, UsageError, UserError, grouped
from backbench.data import groups, notes, shards, sources, splits
from backbench.data.imageset import ImageSet
from backbench.data.listing import Found, Listing

OPTIONS = ("test", "layout", "group")
"""``?test=val`` tests on val. ``?layout=splits`` and ``?layout=classes`` choose where folders can be read in both ways.
``?group=REGEX`` finds each image's group in its id, see data.groups."""

LAYOUTS = ("splits", "classes")

NEUTRAL = frozenset(
    {
        *("set", "sets", "data", "dataset", "image", "images", "img", "imgs"),
        *("photo", "photos", "split", "folder", "final", "labeled", "labelled"),
    }
)
"""Words that may stand beside a split's word in the name of a folder that is a split for certain."""

RULE = (
    "class folders in train/, val/ and test/, or in folders with such words in their names, are expected; "
    f"{splits.VAL_RULE}; ?test=val after the path tests on val"
)


@dataclass(frozen=True)
class Top:
    """A folder directly in the data set's folder, with images in it or below."""

    name: str
    word: splits.Word
    home: tuple[str, ...]
    """The folder with its classes: itself, or of ``seg_train/seg_train/<class>`` the inner one."""
    loose: int
    """Number of images directly in ``home``."""
    classes: frozenset[str]
    """Folders in ``home`` that hold images."""


def folder(given: str, *, seed: int, exif: str) -> ImageSet:
    """Load ``folder:PATH``, which holds ``<split>/<class>/``, ``<class>/`` or ``<class>/<split>/``.

    The words of ``splits.WORDS`` in folders' names, in any case, tell the splits. Without val an eighth of each
    class's train images becomes val; there may be only test. Classes alone, or train alone, are split by
    ``splits.folder_rule``.
    Raises UsageError for options that aren't known, and UserError, also where both readings are possible.
    """
    asked = shards.parse(given, known=OPTIONS)
    path, layout = Path(asked.path).expanduser(), asked.options.get("layout")
    shards.check_test(asked)
    if layout not in (None, *LAYOUTS):
        raise UsageError(f"?layout={layout}: ?layout=splits or ?layout=classes is expected")
    try:
        if not path.is_dir():
            raise UserError(f"folder:{path} {'is a file' if path.exists() else 'does not exist'}: a folder is expected")
    except OSError as error:
        raise UserError(f"can't look into folder:{path}: {error.strerror}") from error
    found = Found(path)
    folders = found.inside()
    for each in folders:
        found.walk(each)
    if not found.images:
        raise _nothing(found, folders)
    tops = _tops(found)
    codes = _codes(top.name for top in tops)
    named = [top for top in tops if top.name in codes]
    test = "test" in asked.options
    if not named and _splits_inside(path, tops, layout):
        listed, split, how = _read_splits_inside(found, folders, tops, test=test)
    elif (layout or _choose(path, tops, named)) == "splits":
        listed, split, how = _read_splits(found, folders, named, test=test)
    else:
        found.note_empty(folders)
        listed, split, how = _read_classes(path, found, tops, layout), None, ""
    rule, group = RULE, groups.asked(listed.ids, asked.options)
    if split is None:
        how = f"drawn with seed {seed}" if group is None else f"drawn by whole groups with seed {seed}"
        if group is None:
            split, rule = splits.folder_rule(listed.ids, listed.labels, seed=seed), splits.FOLDER_RULE
        else:
            split, rule = grouped.draw(listed.labels, group, seed=seed), groups.RULE
        if test:
            raise UserError(f"{path} has no val/ to test on: class folders in train/ and val/ are expected")
    elif not (split == splits.VAL).any() and (split == splits.TRAIN).any():
        split = groups.val_from_train(listed.ids, listed.labels, group, split, seed=seed)
        how += ", val taken from train"
    return sources.on_disk(
        shards.name_of(asked, path.resolve().name), listed, split, rule=rule, how=how, exif=exif, groups=group
    )


def _tops(found: Found) -> list[Top]:
    below: dict[str, list[list[str]]] = {}
    for id, _, _ in found.images:
        name, *parts = id.split("/")
        below.setdefault(name, []).append(parts)
    return [_top(name, parts) for name, parts in sorted(below.items())]


def _top(name: str, below: list[list[str]]) -> Top:
    word, home = splits.word(name), (name,)
    while True:
        loose = sum(len(parts) == 1 for parts in below)
        classes = frozenset(parts[0] for parts in below if len(parts) > 1)
        inner = next(iter(classes)) if len(classes) == 1 and not loose else ""
        if word.split is None or splits.word(inner).split != word.split:
            return Top(name, word, home, loose, classes)
        home, below = (*home, inner), [parts[1:] for parts in below]


def _codes(names: Iterable[str]) -> dict[str, int]:
    """Return the splits of those names that say a split and nothing of a class.

    ``bullet train`` alone is a class; ``seg_train`` is a split beside ``seg_test``, which has the same other words.
    """
    words = {name: splits.word(name) for name in names}
    return {
        name: word.split
        for name, word in words.items()
        if word.split is not None
        and (
            word.rest <= NEUTRAL
            or any(word.rest == other.rest and other.split not in (None, word.split) for other in words.values())
        )
    }


def _choose(path: Path, tops: list[Top], named: list[Top]) -> str:
    """Return ``splits`` or ``classes``. Raises UserError, with both readings, where names and folders leave it open."""
    others = [top for top in tops if top not in named]
    deep = [top for top in named if top.classes]
    codes = {top.word.split for top in named}
    if not named or (others and not deep and len(codes) == 1):
        return "classes"  # CIFAR-100 has a class train
    shared = len({name for top in deep for name in top.classes}) < sum(len(top.classes) for top in deep)
    if deep and (shared or not others):
        return "splits"
    if not deep and len(tops) == 1:
        raise UserError(
            f"{path} holds images only in {tops[0].name}/, without class folders: one folder a class is expected"
        )
    as_splits = ", ".join(f"{SPLITS[top.word.split]} in {top.name}/" for top in named)
    without = [f"{top.name}/" for top in named if not top.classes]
    lacking = f", of which {' and '.join(without)} {_have(without)} no class folders" if without else ""
    beside = f", with {_some(others)} passed over" if others else ""
    raise UserError(
        f"{path} can be read in two ways. As splits: {as_splits}{lacking}{beside}. As classes: {_some(tops)}. "
        f"Choose with --dataset {_ways(path) if deep else _flat(path)}"
    )


def _read_splits(found: Found, folders: list[str], named: list[Top], *, test: bool):
    """Read ``<split>/<class>/``: the listing, its splits (N,) or None where all is train, and how they were told."""
    path = found.root
    codes, left, how = _tested(path, {top.name: top.word.split for top in named}, test)
    taken = {top.name: top for top in named if top.name in codes}
    faults = [] if taken else [f"{path} has no folders named as splits: {RULE}"]
    for code in sorted({*codes.values()}):
        if len(twice := [f"{name}/" for name in codes if codes[name] == code]) > 1:
            faults.append(f"{path} holds {' and '.join(twice)}, which both say {SPLITS[code]}: rename or join them")
    labelled = [name for name, top in taken.items() if top.classes]
    for name, top in taken.items():
        if not top.classes:
            ways = [f"test on val by folder:{path}?test=val"] if {splits.VAL, splits.TEST} <= {*codes.values()} else []
            ways += [
                f"take {other}/ alone by folder:{path}/{other}" for other in labelled if codes[other] == splits.TRAIN
            ]
            faults.append(
                f"{path}/{name} holds {top.loose:,} images but no class folders, so that nothing says their classes: "
                f"{', or '.join(['put them into class folders', *ways])}"
            )
    if faults:
        raise UserError(*faults)
    found.note_empty([name for name in folders if splits.word(name).split is not None])
    found.empty += found.without_images([name for name in folders if splits.word(name).split is None])
    found.others += [id for id, *_ in found.images if id.partition("/")[0] not in {*taken, *left}]
    found.images = [image for image in found.images if image[0].partition("/")[0] in taken]
    homes = {"/".join(top.home) for top in taken.values()}
    found.note_empty([at for at in found.folders if at.rpartition("/")[0] in homes])
    listed = found.listing(_class_below({name: len(top.home) for name, top in taken.items()}))
    if {*codes.values()} == {splits.TRAIN}:
        return listed, None, ""
    split = np.array([codes[id.partition("/")[0]] for id in listed.ids], np.int8)
    return listed, split, f"by the folders {', '.join(sorted(taken))}{how}"


def _tested(path: Path, codes: dict[str, int], test: bool) -> tuple[dict[str, int], list[str], str]:
    """Return the splits to use, the names left out, and the words for both, where ``test`` asks to test on val."""
    if not test:
        return codes, [], ""
    if splits.VAL not in codes.values():
        raise UserError(f"{path} has no val/ to test on")
    left = sorted(name for name, code in codes.items() if code == splits.TEST)
    codes = {name: splits.TEST if code == splits.VAL else code for name, code in codes.items() if name not in left}
    return codes, left, ", tested on val" + (f", {', '.join(left)} left out" if left else "")


def _splits_inside(path: Path, tops: list[Top], layout: str | None) -> bool:
    """Whether to read ``<class>/<split>/``. Raises UserError, with both readings, where names leave it open."""
    codes = [_codes(top.classes) for top in tops]
    with_splits = [top for top, each in zip(tops, codes, strict=True) if len({*each.values()}) > 1]
    if not with_splits or layout:
        return bool(with_splits) and layout == "splits"
    if all(each and top.classes == each.keys() for top, each in zip(tops, codes, strict=True)):
        return True
    splits_in = ", ".join(f"{with_splits[0].name}/{name}" for name in sorted(_codes(with_splits[0].classes)))
    raise UserError(
        f"{path} can be read in two ways. As classes that hold their splits: {splits_in} and so on, with all "
        f"that isn't in such folders passed over. As classes without splits: {_some(tops)}. "
        f"Choose with --dataset {_ways(path)}"
    )


def _read_splits_inside(found: Found, folders: list[str], tops: list[Top], *, test: bool):
    """Read ``<class>/<split>/``, as ``_read_splits`` does."""
    named = {name: code for top in tops for name, code in _codes(top.classes).items()}
    codes, _, how = _tested(found.root, named, test)
    found.note_empty(folders)
    inner = {id: parts[1] for id, _, _ in found.images if len(parts := id.split("/")) > 2}
    found.others += [id for id, name in inner.items() if name not in named]
    found.images = [image for image in found.images if inner.get(image[0]) in codes or image[0] not in inner]
    listed = found.listing(lambda parts: parts[0] if len(parts) > 2 else None)
    split = np.array([codes[inner[id]] for id in listed.ids], np.int8)
    return listed, split, f"by the folders {', '.join(sorted(codes))} in each class{how}"


def _read_classes(path: Path, found: Found, tops: list[Top], layout: str | None) -> Listing:
    """Read every folder as a class."""
    if len(tops) == 1 and len(tops[0].classes) > 1 and layout is None:
        top = tops[0]
        inside = ", ".join(sorted(top.classes)[:5]) + (", ..." if len(top.classes) > 5 else "")
        raise UserError(
            f"{path} holds images only in {top.name}/, that is one class, where at least two are expected. If the "
            f"folders in it ({inside}) are the classes, name folder:{path / top.name}"
        )
    return found.listing(lambda parts: parts[0])


def _class_below(depths: dict[str, int]):
    """Return the function from the parts of an id to its class: the folder below the split's, which lies so deep."""

    def class_of(parts: list[str]) -> str | None:
        depth = depths[parts[0]]
        return parts[depth] if len(parts) > depth + 1 else None

    return class_of


def _nothing(found: Found, folders: list[str]) -> UserError:
    """Return the error for a folder without an image below it, with what was passed over."""
    found.note_empty(folders)
    held = "class folders, but no image in them" if folders else "no class folders"
    held = f"images but {held}" if found.loose and not folders else held
    found.loose, found.empty = [], []
    return UserError(
        f"{found.root} holds {held}: one folder a class is expected, or train/, val/ and test/ with class folders in "
        "each",
        *notes.passed_over(found),
    )


def _ways(path: Path) -> str:
    return f"'folder:{path}?layout=splits' or '...?layout=classes'"


def _flat(path: Path) -> str:
    return f"'folder:{path}?layout=classes', or put the images of each split into class folders"


def _have(things: list[str]) -> str:
    return "has" if len(things) == 1 else "have"


def _some(tops: list[Top]) -> str:
    names = [f"{top.name}/" for top in tops]
    return ", ".join(names[:5]) + (f" and {len(names) - 5:,} more" if len(names) > 5 else "")
