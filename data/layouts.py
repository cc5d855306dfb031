"""Images of one's own in folders, ``folder:PATH``: which folders are splits and which are classes."""

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
    named = _named_as_splits(tops)
    chosen = layout or _choose(path, tops, named)
    if chosen == "splits":
        listed, split, how = _read_splits(found, tops, named, test="test" in asked.options)
        found.note_empty(folders)
    else:
        listed, split, how = _read_classes(found, folders, tops, layout)
    rule, group = RULE, groups.asked(listed.ids, asked.options)
    if split is None:
        how = f"drawn with seed {seed}" if group is None else f"drawn by whole groups with seed {seed}"
        if group is None:
            split, rule = splits.folder_rule(listed.ids, listed.labels, seed=seed), splits.FOLDER_RULE
        else:
            split, rule = grouped.draw(listed.labels, group, seed=seed), groups.RULE
        if "test" in asked.options:
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


def _named_as_splits(tops: list[Top]) -> list[Top]:
    """Return the folders whose names say a split and nothing of a class.

    ``bullet train`` alone is a class; ``seg_train`` is a split beside ``seg_test``, which has the same other words.
    """
    return [
        top
        for top in tops
        if top.word.split is not None
        and (
            top.word.rest <= NEUTRAL
            or any(
                top.word.rest == other.word.rest and other.word.split not in (None, top.word.split) for other in tops
            )
        )
    ]


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
        f"Choose with --dataset 'folder:{path}?layout=splits' or '...?layout=classes'"
    )


def _read_splits(found: Found, tops: list[Top], named: list[Top], *, test: bool) -> tuple[Listing, np.ndarray, str]:
    path, how = found.root, ""
    codes = {top.name: top.word.split for top in named}
    if test:
        if splits.VAL not in codes.values():
            raise UserError(f"{path} has no val/ to test on")
        left = [top.name for top in named if top.word.split == splits.TEST]
        how = ", tested on val" + (f", {', '.join(left)} left out" if left else "")
        codes = {name: splits.TEST if code == splits.VAL else code for name, code in codes.items() if name not in left}
    taken = {top.name: top for top in named if top.name in codes}
    faults = [] if taken else [f"{path} has no folders named as splits: {RULE}"]
    for code in {*codes.values()}:
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
    splits_there = {top.name for top in named}
    found.others += [id for id, *_ in found.images if id.partition("/")[0] not in splits_there]
    found.images = [image for image in found.images if image[0].partition("/")[0] in taken]
    homes = {"/".join(top.home) for top in taken.values()}
    found.note_empty([at for at in found.folders if at.rpartition("/")[0] in homes])
    listed = found.listing(_class_below({name: len(top.home) for name, top in taken.items()}))
    if {*codes.values()} == {splits.TRAIN}:
        return listed, None, ""
    split = np.array([codes[id.partition("/")[0]] for id in listed.ids], np.int8)
    return listed, split, f"by the folders {', '.join(sorted(taken))}{how}"


def _read_classes(found: Found, folders: list[str], tops: list[Top], layout: str | None):
    """Read every folder as a class. Folders in all of them that are named as splits tell the splits."""
    found.note_empty(folders)
    listed = found.listing(lambda parts: parts[0])
    inner = {name: splits.word(name).split for top in tops for name in top.classes}
    codes = {*inner.values()}
    if layout or None in codes or len(codes) < 2 or any(top.loose for top in tops):
        return listed, None, ""
    split = np.array([inner[id.split("/")[1]] for id in listed.ids], np.int8)
    return listed, split, f"by the folders {', '.join(sorted(inner))} in each class"


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


def _have(things: list[str]) -> str:
    return "has" if len(things) == 1 else "have"


def _some(tops: list[Top]) -> str:
    names = [f"{top.name}/" for top in tops]
    return ", ".join(names[:5]) + (f" and {len(names) - 5:,} more" if len(names) > 5 else "")
