"""The contact sheet: one HTML file with thumbnails of images by predicted class, opened from disk.

Names come from files, and files may come from strangers: the template escapes them. There is no script, and a content
security policy allows none. It allows one style sheet by its digest, and images that are part of the file.
"""

import base64
import hashlib
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from PIL import Image

from backbench import UserError, __version__, printable
from backbench.data.thumbnails import shared, thumbnails
from backbench.files import write_whole
from backbench.predict import output
from backbench.predict.predictions import Predictions

FOLDER = Path(__file__).parent

SIDE = 144
"""Longest side of a thumbnail, in pixels."""

MOST = 1500
"""Largest number of images on a sheet. Classes share it so that small ones are shown whole."""

BYTES = 12 << 20
"""Largest size of all thumbnails. A photo's takes some 5 KB, so that only noise and drawings reach it."""

NAMED = 500
"""Largest number of unreadable images that are named."""

IN_SET = 3
"""Largest number of classes of a prediction set that are named besides the two most probable ones."""


def write(
    path: Path, found: Predictions, image_of: Callable[[str], Image.Image], *, title: str, heads: Sequence[str]
) -> None:
    """Write the sheet to ``path``, replacing a file that is there.

    Images are grouped by their most probable class, and those that are called unknown come first, in a group of their
    own. In a group the least certain come first. ``image_of`` reads an image of ``found.ids`` as PIL RGB and must be
    thread safe. ``heads`` are the names of the models. Raises UserError where the file can't be written.
    """
    import jinja2
    from markupsafe import Markup

    style = (FOLDER / "contact_sheet.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    environment = jinja2.Environment(
        autoescape=True, loader=jinja2.FileSystemLoader(FOLDER), trim_blocks=True, lstrip_blocks=True
    )
    html = environment.get_template("contact_sheet.html").render(
        title=printable(title),
        policy=f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'",
        style=Markup(style),
        made=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        version=__version__,
        heads=list(map(printable, heads)),
        n=len(found.ids),
        n_classes=len(found.classes),
        accuracy=output.accuracy(found),
        groups=_groups(found, image_of),
        unreadable=[tuple(map(printable, one)) for one in list(found.unreadable.items())[:NAMED]],
        n_unreadable=len(found.unreadable),
    )
    try:
        write_whole(Path(path), html.encode("utf-8", "replace"))
    except OSError as error:
        raise UserError(f"{path} can't be written: {error.strerror}. Name another file.") from error


def _groups(found: Predictions, image_of) -> list[dict]:
    """Return the groups as the template takes them, those of unknown images first, then by the order of classes."""
    certain = found.probability[:, 0]
    unknown = np.zeros(len(found.ids), bool) if found.unknown is None else found.unknown
    parts = [(output.NONE, np.flatnonzero(unknown))]
    parts += [(name, np.flatnonzero(~unknown & (found.top[:, 0] == k))) for k, name in enumerate(found.classes)]
    parts = [(name, rows) for name, rows in parts if len(rows)]
    limit = shared([len(rows) for _, rows in parts], MOST)
    groups = []
    for name, rows in parts:
        none = bool(unknown[rows[0]])
        # The least certain to be none of these is the one that is most like the known images.
        order = rows[np.argsort(-found.p_known[rows] if none and found.p_known is not None else certain[rows])]
        groups.append({"name": printable(name), "none": none, "n": len(rows), "mean": float(certain[rows].mean())})
        groups[-1]["rows"] = order[:limit].tolist()
        groups[-1]["wrong"] = sum(_wrong(found, i) for i in rows.tolist())
    shown = [i for group in groups for i in group["rows"]]
    thumbs = dict(zip(shown, thumbnails([found.ids[i] for i in shown], image_of, side=SIDE, most=BYTES), strict=True))
    for group in groups:
        group["tiles"] = [_tile(found, i, *thumbs[i]) for i in group["rows"]]
    return groups


def _wrong(found: Predictions, i: int) -> bool:
    if found.truth is None or found.truth[i] < 0:
        return False
    return bool(found.truth[i] != found.top[i, 0] or (found.unknown is not None and found.unknown[i]))


def _tile(found: Predictions, i: int, uri: str, tiny: bool) -> dict:
    names = [printable(found.classes[k]) for k in found.top[i]]
    tile = {"id": printable(found.ids[i]), "uri": uri, "tiny": tiny, "truth": None, "set": None, "p": None}
    tile["first"], tile["next"] = [*zip(names, found.probability[i].tolist(), strict=True), None][:2]
    if _wrong(found, i):
        tile["truth"] = printable(found.classes[found.truth[i]])
    if found.sets is not None:
        others = [printable(found.classes[k]) for k in found.sets[i] if k not in found.top[i, :2]]
        more = f" and {len(others) - IN_SET} more" if len(others) > IN_SET else ""
        also = f", also with {', '.join(others[:IN_SET])}{more}" if others else ""
        tile["set"] = f"Set of {len(found.sets[i])}{also}"
    if found.unknown is not None and found.unknown[i] and found.p_known is not None:
        tile["p"] = float(found.p_known[i])
    if found.votes is not None:
        tile["votes"] = int(found.votes[i])
    return tile
