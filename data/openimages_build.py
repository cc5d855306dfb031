"""Building an Open Images subset as class folders: images are downloaded in parallel, checked and listed."""

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
from backbench.data.openimages import IMAGES, ImageRecord, write_list
from backbench.files import write_whole
from backbench.progress import progress

LIST, MADE = "images.csv", ".made.json"

QUALITY = 95
"""JPEG quality of images that are cropped to their box."""

NAMED = 10
"""Number of errors that are listed one by one."""


def build(
    out: Path,
    wanted: dict[str, list[ImageRecord]],
    *,
    per_class: int | None,
    settings: dict,
    crop=False,
    jobs=8,
    base=IMAGES,
) -> list[ImageRecord]:
    """Download the first ``per_class`` images of each class that the bucket has, as ``<class>/<id>.jpg`` in ``out``.

    With None, all images are downloaded. Once all are there, images.csv is written; returns what it lists. An image
    that the bucket lacks (404) is replaced by the next of its class, or with None is an error. ``settings`` are those
    that subsets may differ in: a folder that was built with other settings is refused.

    Raises UserError with what could not be downloaded. The rest is kept, and the same command goes on.
    """
    _claim(out, settings | {"crop": crop})
    total = sum(min(len(some), per_class or len(some)) for some in wanted.values())
    had: dict[str, list[ImageRecord]] = {name: [] for name in wanted}
    waiting = deque(
        name for name, some in sorted(wanted.items()) for _ in range(min(len(some), per_class or len(some)))
    )
    queues = {name: iter(some) for name, some in wanted.items()}
    faults, in_a_row = [], 0
    with (
        writing(out),
        ThreadPoolExecutor(jobs) as pool,
        progress(total, f"{out.name} images", unit="images") as advance,
    ):
        running = {}
        try:
            while waiting or running:
                while waiting and len(running) < 2 * jobs and in_a_row <= 2 * jobs:
                    if (record := next(queues[waiting.popleft()], None)) is not None:
                        running[pool.submit(_get, out, record, crop=crop, base=base)] = record
                if not running:
                    break
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    record = running.pop(future)
                    try:
                        had[record.class_name].append(future.result())
                        in_a_row = 0
                        advance(1)
                    except Refused as error:
                        if per_class is None or error.code not in (404, 410):
                            faults.append(str(error))
                            in_a_row += 1
                        else:
                            waiting.append(record.class_name)
                    except UserError as error:
                        faults.append(str(error))
                        in_a_row += 1
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    if faults:
        shown = sorted(faults)[:NAMED] + ([f"and {len(faults) - NAMED:,} more"] if len(faults) > NAMED else [])
        rest = f", and {len(waiting):,} were not tried any more" if waiting else ""
        n = sum(map(len, had.values()))
        raise UserError(
            f"{len(faults):,} images could not be downloaded{rest}:\n  "
            + "\n  ".join(shown)
            + f"\n{n:,} of {total:,} are "
            "in place, and the same command goes on from there."
        )
    listed = sorted((one for some in had.values() for one in some), key=lambda one: (one.class_name, one.image_id))
    with writing(out / LIST):
        write_list(out / LIST, listed)
    return listed


def _claim(out: Path, settings: dict) -> None:
    """Raise UserError where ``out`` was built with other settings, or holds something else."""
    path = out / MADE
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        if out.is_dir() and any(out.iterdir()):
            raise UserError(f"{out} holds something else: name another folder with --out") from None
        with writing(path):
            write_whole(path, json.dumps(settings).encode())
        return
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be read ({error}). Remove {out}, or name another folder with --out") from None
    if lines := [
        f"{key}: it was {found.get(key)!r} and is now {value!r}"
        for key, value in settings.items()
        if found.get(key) != value
    ]:
        raise UserError(
            f"{out} was built with other settings:\n  "
            + "\n  ".join(lines)
            + "\nName another folder with --out, or remove it."
        )


def _get(out: Path, record: ImageRecord, *, crop: bool, base: str) -> ImageRecord:
    """Put one image in its place and return its record with the MD5. Raises UserError."""
    place = out / record.class_name / f"{record.image_id}.jpg"
    original = out / ".originals" / place.name if crop else place
    new = original.with_name(f".{original.name}")  # until it has been decoded
    if not original.exists():
        url = f"{base}/{record.split}/{record.image_id}.jpg"
        new.unlink(missing_ok=True)
        fetch(url, new, md5=record.md5 or None, quiet=True)
        try:
            decode.read(new, id=url)
        except UserError:
            new.unlink()
            raise
        new.replace(original)
    if crop and not place.exists():
        image, file = decode.read(original, id=record.image_id), io.BytesIO()
        sides = zip((record.xmin, record.ymin, record.xmax, record.ymax), image.size * 2, strict=True)
        left, top, right, bottom = (round(share * side) for share, side in sides)
        image.crop((left, top, max(right, left + 1), max(bottom, top + 1))).save(file, "JPEG", quality=QUALITY)
        write_whole(place, file.getvalue())
    return replace(record, md5=md5_of(original))


def totals(listed: Iterable[ImageRecord], classes: Iterable[str], per_class: int | None) -> list[dict]:
    """Return ``class``, ``n`` and ``short`` (how many fewer than were wanted) for each class."""
    listed = list(listed)
    counts = {name: sum(one.class_name == name for one in listed) for name in classes}
    return [{"class": name, "n": n, "short": max(0, (per_class or n) - n)} for name, n in sorted(counts.items())]
