"""Copies of images in class folders. Nothing that is there is overwritten, and the same command goes on.

Class names come from a head, and names of images in shards from their files. Both may be a stranger's: each becomes one
plain folder or file name, and no link below the folder is followed.
"""

import contextlib
import hashlib
import io
import os
import re
import shutil
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from PIL import Image

from backbench import UsageError, UserError, printable
from backbench.data import decode, formats
from backbench.files import sha256
from backbench.predict import output
from backbench.predict.predictions import Predictions
from backbench.progress import progress

LONGEST = 255
"""Largest number of bytes in a file's name, on the file systems in use."""

FOLDER = 120
"""Largest number of bytes in the name of a class folder."""

RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
"""Names that Windows keeps for devices, with any ending."""

FORBIDDEN = re.compile(r'[/\\:*?"<>|]')
"""Characters that no file name may hold on Linux, macOS or Windows, besides those that don't print."""

PART = ".{}.backbench-part"
"""The name of a copy that is being written, by the process. It takes its own name when it is whole."""


def copy_to(folder: Path, found: Predictions, source_of: Callable[[str], str | bytes | Image.Image]) -> list[str]:
    """Copy each image of ``found`` to ``<folder>/<class>/<name>``, unknown ones to the folder ``none of these``.

    ``source_of`` gives for an image's id its file, the bytes that are stored of it, or in memory the PIL image, which
    is written as PNG. A file of the same name and content is passed over. Beside one of the same name and other content
    the copy gets a number: ``a (2).jpg``. A file keeps its times and permissions.

    Returns sentences for people on what was done. Raises UserError naming what stands in the way; what was copied
    before is whole.
    """
    folder = Path(folder)
    names = folders([output.NONE, *found.classes])
    said = [names[0] if _unknown(found, i) else names[1 + k] for i, k in enumerate(found.top[:, 0].tolist())]
    counts, there, renamed = Counter(said), 0, []
    places = {name: _Place(folder / name) for name in counts}
    done = 0
    try:
        for place in places.values():
            place.make()
        with progress(len(said), f"copying to {folder}") as advance:
            for id, name in zip(found.ids, said, strict=True):
                wanted, source = _named(id, source_of(id))
                written = places[name].put(wanted, source)
                there += written is None
                if written not in (None, wanted):
                    renamed.append(f"{name}/{written}")
                done += 1
                advance(1)
    except OSError as error:
        raise UserError(
            f"{error.filename or folder}: {error.strerror}. {done:,} of {len(said):,} images are copied. The same "
            "command goes on."
        ) from error
    shown = ", ".join(f"{printable(name)} {n:,}" for name, n in counts.most_common(10))
    more = f" and {len(counts) - 10} more" if len(counts) > 10 else ""
    new = len(said) - there
    also = f", and {there:,} {'is' if there == 1 else 'are'} there already" if there else ""
    lines = [
        f"{new:,} {'image was' if new == 1 else 'images were'} copied to {printable(folder)}{also}: {shown}{more}."
    ]
    if renamed:
        as_in = printable(renamed[0])
        lines.append(f"For {len(renamed):,} of them the name was taken, and a number was added, as in {as_in}.")
    return lines


def check(folder: Path, places: Iterable[str]) -> None:
    """Raise UsageError where the copies would lie in one of the ``places``, whose images are classified."""
    for place in places:
        if Path(place).is_dir() and Path(folder).resolve().is_relative_to(Path(place).resolve()):
            raise UsageError(
                f"--copy-to {folder} lies in {place}: the next time its copies would be classified as well. Name a "
                "folder outside of it."
            )


def folders(names: Iterable[str]) -> list[str]:
    """Return a folder name for each of ``names``, no two of them alike on a file system that ignores case."""
    taken, made = set(), []
    for name in names:
        plain = _plain(name, FOLDER)
        tried, n = plain, 1
        while _alike(tried) in taken:
            n += 1
            tried = f"{plain} ({n})"
        taken.add(_alike(tried))
        made.append(tried)
    return made


def _alike(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _plain(name: str, most: int) -> str:
    """Return ``name`` as a single visible name of a file or folder of at most ``most`` bytes."""
    name = unicodedata.normalize("NFC", "".join(c if c.isprintable() else "_" for c in name))
    name = FORBIDDEN.sub("_", name).strip(" ")
    name = name.encode("utf-8", "replace")[:most].decode("utf-8", "ignore").rstrip(" .")
    name = f"_{name[1:]}" if name.startswith(".") else name
    return f"_{name}" if not name or RESERVED.fullmatch(name) else name


def _unknown(found: Predictions, i: int) -> bool:
    return found.unknown is not None and bool(found.unknown[i])


def _named(id: str, source) -> tuple[str, str | bytes]:
    """Return the name that an image's copy should have, and its file or its bytes."""
    if isinstance(source, (str, os.PathLike)):
        return os.path.basename(source), os.fspath(source)
    name = _plain(id.rpartition("/")[2], LONGEST - 20)
    if isinstance(source, Image.Image):
        file = io.BytesIO()
        source.save(file, "PNG")
        return (name if name.lower().endswith(".png") else f"{name}.png"), file.getvalue()
    if name.rpartition(".")[2].lower() in formats.endings():
        return name, source
    return f"{name}.{_ending(source)}", source


def _ending(content: bytes) -> str:
    """Return the usual ending of files of the format that the bytes of an image have."""
    with contextlib.suppress(*decode.PIL_ERRORS):
        kind = Image.open(io.BytesIO(content), formats=list(formats.FORMATS)).format
        return formats.FORMATS.get(kind or "", formats.FORMATS["JPEG"])[0]  # MPO is JPEG
    return "img"


class _Place:
    """A class folder. ``seen`` holds by a name the digests of the files of that name and its numbered ones.

    With them stands the next number, so that each file is read once, however many have one name.
    """

    def __init__(self, path: Path):
        self.path = path
        self.seen: dict[str, tuple[set[str], int]] = {}

    def make(self) -> None:
        if self.path.is_symlink():
            raise UserError(f"{self.path} is a link, which is not followed. Remove it, or name another folder.")
        self.path.mkdir(parents=True, exist_ok=True)

    def put(self, wanted: str, source: str | bytes) -> str | None:
        """Write a copy, and return its name; None where its content is there. Raises OSError."""
        if wanted not in self.seen and self._written(wanted, source):
            return wanted
        digest = hashlib.sha256(source).hexdigest() if isinstance(source, bytes) else sha256(Path(source))
        digests, n = self.seen.get(wanted, (set(), 1))
        written = None
        while written is None:
            name = _numbered(wanted, n)
            if not os.path.lexists(self.path / name):
                if digest in digests:
                    break
                if self._written(name, source):
                    written = name
                    digests.add(digest)
            elif (self.path / name).is_file() and not (self.path / name).is_symlink():
                digests.add(sha256(self.path / name))
            n += 1
        self.seen[wanted] = digests, n
        return written

    def _written(self, name: str, source: str | bytes) -> bool:
        """Write a file, whole or not at all; False where there is something of that name."""
        target, part = self.path / name, self.path / PART.format(os.getpid())
        if os.path.lexists(target):
            return False
        try:
            part.unlink(missing_ok=True)  # it could be a link
            if isinstance(source, bytes):
                part.write_bytes(source)
            else:
                shutil.copyfile(source, part)
                with contextlib.suppress(OSError):  # a disk of a camera has no permissions
                    shutil.copystat(source, part)
            try:
                os.link(part, target)  # unlike a rename this never replaces a file
            except FileExistsError:
                return False
            except OSError:  # a file system without links
                os.rename(part, target)
            return True
        finally:
            part.unlink(missing_ok=True)


def _numbered(name: str, n: int) -> str:
    """Return ``a (2).jpg`` for ``a.jpg`` and 2, and ``name`` for 1, in at most ``LONGEST`` bytes."""
    if n == 1:
        return name
    stem, ending = os.path.splitext(name)
    ending = f" ({n}){ending}"
    room = max(1, LONGEST - len(os.fsencode(ending)))
    return os.fsdecode(os.fsencode(stem)[:room]) + ending
