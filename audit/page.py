"""The page of an audit: one HTML file with the findings, to be decided on by a key each, opened from disk.

Names come from files, and files may come from strangers: the template escapes them, and the script puts no text into
the page as HTML. A content security policy allows this script and style by their digests, images that are part of the
file, and nothing else.
"""

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import astuple
from datetime import datetime, timezone
from itertools import zip_longest
from pathlib import Path

from PIL import Image

from backbench import SPLITS, UserError, __version__, printable
from backbench.data.thumbnails import shared, thumbnails
from backbench.files import write_whole
from backbench.findings import Finding, is_copy

FOLDER = Path(__file__).parent

TEST = SPLITS[2]

MOST = 1500
"""Largest number of findings on the page. The CSV that it saves holds all."""

SIDE = 160
"""Longest side of a thumbnail, in pixels."""

BYTES = 12 << 20
"""Largest size of all thumbnails."""

GROUPS = {
    "leaks": "Copies between test and train or val",
    "classes": "Copies in two classes",
    "copies": "Other copies",
    "labels": "Labels",
    "outliers": "Outliers",
}


def write(
    path: Path,
    findings: list[Finding],
    about: dict[str, tuple[str, str]],
    image_of: Callable[[str], Image.Image] | None,
    *,
    title: str,
    csv_name: str,
) -> None:
    """Write the page to ``path``, replacing a file that is there. Findings are shown in their order.

    ``about`` has the class and the split of each id. ``image_of`` reads an image by its id as PIL RGB and must be
    thread safe; None where there are no images. ``csv_name`` is the file that the page saves the decisions as. Raises
    UserError where the file can't be written.
    """
    import jinja2
    from markupsafe import Markup

    script, style = ((FOLDER / name).read_text(encoding="utf-8") for name in ("page.js", "page.css"))
    held = {"findings": [astuple(one) for one in findings], "csv": csv_name}
    held["key"] = hashlib.sha256(json.dumps([one[:3] for one in held["findings"]]).encode()).hexdigest()[:16]
    environment = jinja2.Environment(
        autoescape=True, loader=jinja2.FileSystemLoader(FOLDER), trim_blocks=True, lstrip_blocks=True
    )
    html = environment.get_template("page.html").render(
        csv=printable(csv_name),
        title=f"Audit of {printable(title)}",
        policy=f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'",
        style=Markup(style),
        script=Markup(script),
        # "<" is escaped, since it could end the script element or begin a comment in it.
        data=Markup(json.dumps(held).replace("<", "\\u003c")),
        made=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        version=__version__,
        n=len(findings),
        groups=_groups(findings, about, image_of),
        with_images=image_of is not None,
    )
    try:
        write_whole(Path(path), html.encode("utf-8", "replace"))
    except OSError as error:
        raise UserError(f"{path} can't be written: {error.strerror}. Name another file with --page.") from error


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _groups(findings, about, image_of) -> list[dict]:
    """Return the groups that have findings, each with its cards, which share the room of the page."""
    parts = {name: [] for name in GROUPS}
    for i, line in enumerate(findings):
        parts[_group(line, about)].append(i)
    limit = shared([len(part) for part in parts.values() if part], MOST)
    groups = [
        {"name": name, "title": title, "n": len(parts[name]), "shown": parts[name][:limit]}
        for name, title in GROUPS.items()
        if parts[name]
    ]
    # The surest of all groups come first, since thumbnails end where the room does.
    ranks = zip_longest(*(group["shown"] for group in groups))
    wanted = list(dict.fromkeys(id for rank in ranks for i in rank if i is not None for id in _images(findings[i])))
    made = dict(zip(wanted, thumbnails(wanted, image_of, side=SIDE, most=BYTES), strict=True)) if image_of else {}
    for group in groups:
        group["cards"] = [_card(i, findings[i], about, made) for i in group["shown"]]
    return groups


def _group(line: Finding, about) -> str:
    if not is_copy(line):
        return "labels" if line.kind == "label" else "outliers"
    (one, split), (other, other_split) = (about.get(id, ("", "")) for id in _images(line))
    if split != other_split and TEST in (split, other_split):
        return "leaks"
    return "classes" if one != other else "copies"


def _images(line: Finding) -> list[str]:
    return [line.id, line.partner] if is_copy(line) else [line.id]


def _card(i: int, line: Finding, about, made) -> dict:
    images = [
        {"id": printable(id), "of": tuple(map(printable, about.get(id, ("", "")))), "thumb": made.get(id)}
        for id in _images(line)
    ]
    kind = f"{line.kind}; " if len(images) == 2 else ""
    return {
        "i": i,
        "images": images,
        "suggested": printable(line.partner) if line.kind == "label" else "",
        "evidence": printable(f"{kind}{line.evidence}"),
        "words": _words(line),
    }


def _words(line: Finding) -> dict[str, str]:
    """What each decision says about this finding."""
    if is_copy(line):
        return {"right": "not the same", "wrong": "the first's label is wrong", "same": "the same, the first may go"}
    wrong = f"wrong, it is {printable(line.partner)}" if line.kind == "label" else "the label is wrong"
    return {"right": "nothing is wrong", "wrong": wrong}
