"""An Open Images subset as class folders: fetched in parallel, checked, resumable, listed with licence and author."""

import io
import json
from collections import deque
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path

from backbench import UserError
from backbench.data import decode
from backbench.data.fetch import Refused, fetch, md5_of, writing
from backbench.data.openimages import IMAGES, Picture, write_list
from backbench.files import write_whole
from backbench.progress import progress

LIST, MADE = "images.csv", ".made.json"

QUALITY = 95
"""JPEG's, of pictures cropped to their box."""

NAMED = 10
"""Faults that are listed one by one."""


def build(
    out: Path, wanted: dict[str, list[Picture]], *, per_class: int | None, how: dict, crop=False, jobs=8, base=IMAGES
) -> list[Picture]:
    """Bring ``out`` to hold the first ``per_class`` pictures of each class that the bucket has, or with None all of
    them, as ``<class>/<id>.jpg``; and images.csv, once all are there. Gives those listed.

    A picture that the bucket lacks (404) is replaced by the next of its class, or with None a fault. ``how`` says in
    what the subset may differ from another: a folder built otherwise is refused. Raises UserError with what could not
    be fetched: all else is kept, and the same command goes on.
    """
    _claim(out, how | {"crop": crop})
    total = sum(min(len(some), per_class or len(some)) for some in wanted.values())
    had: dict[str, list[Picture]] = {name: [] for name in wanted}
    waiting = deque(
        name for name, some in sorted(wanted.items()) for _ in range(min(len(some), per_class or len(some)))
    )
    queues = {name: iter(some) for name, some in wanted.items()}
    faults, in_a_row = [], 0
    with (
        writing(out),
        ThreadPoolExecutor(jobs) as pool,
        progress(total, f"{out.name} pictures", unit="pictures") as advance,
    ):
        running = {}
        try:
            while waiting or running:
                while waiting and len(running) < 2 * jobs and in_a_row <= 2 * jobs:
                    if (picture := next(queues[waiting.popleft()], None)) is not None:
                        running[pool.submit(_get, out, picture, crop=crop, base=base)] = picture
                if not running:
                    break
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    picture = running.pop(future)
                    try:
                        had[picture.class_name].append(future.result())
                        in_a_row = 0
                        advance(1)
                    except Refused as error:
                        if per_class is None or error.code not in (404, 410):
                            faults.append(str(error))
                            in_a_row += 1
                        else:
                            waiting.append(picture.class_name)
                    except UserError as error:
                        faults.append(str(error))
                        in_a_row += 1
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    if faults:
        shown = sorted(faults)[:NAMED] + ([f"and {len(faults) - NAMED:,} more"] if len(faults) > NAMED else [])
        rest = f"; {len(waiting):,} were not tried any more" if waiting else ""
        n = sum(map(len, had.values()))
        raise UserError(
            f"{len(faults):,} pictures could not be fetched{rest}:\n  "
            + "\n  ".join(shown)
            + f"\n{n:,} of {total:,} are "
            "in place, and the same command goes on from there."
        )
    listed = sorted((one for some in had.values() for one in some), key=lambda one: (one.class_name, one.image_id))
    with writing(out / LIST):
        write_list(out / LIST, listed)
    return listed


def _claim(out: Path, how: dict) -> None:
    """Raise UserError where ``out`` was built otherwise, or holds what was not built here."""
    path = out / MADE
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        if out.is_dir() and any(out.iterdir()):
            raise UserError(f"{out} holds something else: name another folder with --out") from None
        with writing(path):
            write_whole(path, json.dumps(how).encode())
        return
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be read ({error}): remove {out}, or name another folder with --out") from None
    if lines := [
        f"{key}: there it was {found.get(key)!r}, now {how[key]!r}" for key in how if found.get(key) != how[key]
    ]:
        raise UserError(
            f"{out} was built otherwise:\n  " + "\n  ".join(lines) + "\nName another folder with --out, or remove it."
        )


def _get(out: Path, picture: Picture, *, crop: bool, base: str) -> Picture:
    """One picture in its place, with its md5. Raises UserError."""
    place = out / picture.class_name / f"{picture.image_id}.jpg"
    original = out / ".originals" / place.name if crop else place
    new = original.with_name(f".{original.name}")  # until it has been looked at
    if not original.exists():
        url = f"{base}/{picture.split}/{picture.image_id}.jpg"
        new.unlink(missing_ok=True)
        fetch(url, new, md5=picture.md5 or None, quiet=True)
        try:
            decode.read(new, id=url)
        except UserError:
            new.unlink()
            raise
        new.replace(original)
    if crop and not place.exists():
        image, file = decode.read(original, id=picture.image_id), io.BytesIO()
        sides = zip((picture.xmin, picture.ymin, picture.xmax, picture.ymax), image.size * 2, strict=True)
        left, top, right, bottom = (round(share * side) for share, side in sides)
        image.crop((left, top, max(right, left + 1), max(bottom, top + 1))).save(file, "JPEG", quality=QUALITY)
        write_whole(place, file.getvalue())
    return replace(picture, md5=md5_of(original))


def totals(listed: Iterable[Picture], classes: Iterable[str], per_class: int | None) -> list[dict]:
    """By class: ``class``, ``n`` and ``short``, how many fewer than were wanted."""
    listed = list(listed)
    counts = {name: sum(one.class_name == name for one in listed) for name in classes}
    return [{"class": name, "n": n, "short": max(0, (per_class or n) - n)} for name, n in sorted(counts.items())]
