"""timm's names, read from its source files. Importing timm would load torch, which takes some ten seconds.

A test compares what is read here with what the installed timm registers.
"""

import re
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

REGISTERED = re.compile(r"^@register_model\b", re.MULTILINE)
"""A model's registration in timm/models/*.py."""

MODEL = re.compile(r"^@register_model\n(?:@.*\n)*def (\w+)", re.MULTILINE)
"""The same with the model's name."""

TAG = re.compile(r"""^ {4}['"](\w+)\.([^'"*]+)\*?['"]:""", re.MULTILINE)
"""A key of a module's ``default_cfgs``: an architecture and the tag of its weights."""

OLD = re.compile(r"^register_model_deprecations\(__name__, \{(.*?)^\}\)", re.MULTILINE | re.DOTALL)
"""A module's map from old names to those of today, and ``PAIR`` one entry of it."""

PAIR = re.compile(r"""['"]([\w.]+)['"]\s*:\s*(?:['"]([\w.]+)['"]|None)""")


class Names(NamedTuple):
    """``models`` are all architectures; ``tags`` those of their weights that are written out in the source; ``old``
    maps former names to today's, or to an empty string where there is none."""

    models: list[str]
    tags: dict[str, list[str]]
    old: dict[str, str]


@cache
def read() -> Names:
    """Return the names of the installed timm. It is imported only where its source files can't be understood."""
    models, tags, old, whole = [], {}, {}, True
    spec = find_spec("timm")
    for folder in (spec and spec.submodule_search_locations) or []:
        for path in sorted(Path(folder, "models").glob("*.py")):
            text = path.read_text(encoding="utf-8")
            found = MODEL.findall(text)
            whole = whole and len(found) == len(REGISTERED.findall(text))
            models += found
            for architecture, tag in TAG.findall(text):
                tags.setdefault(architecture, []).append(tag)
            for block in OLD.findall(text):
                old |= dict(PAIR.findall(block))
    if models and whole:
        return Names(models, tags, {name: _tagged(now, tags) for name, now in old.items()})
    import timm
    from timm.models import get_deprecated_models

    return Names(timm.list_models(), {}, {key: value or "" for key, value in get_deprecated_models().items()})


def _tagged(now: str, tags: dict[str, list[str]]) -> str:
    """Complete a tag that there isn't where one tag begins so: timm 1.0.31 says sam for sam_in1k of two old names."""
    architecture, _, tag = now.partition(".")
    known = tags.get(architecture, [])
    longer = [one for one in known if one.startswith(f"{tag}_")]
    return f"{architecture}.{longer[0]}" if tag and tag not in known and len(longer) == 1 else now


def known(architecture: str) -> bool:
    """Whether timm has the architecture, or a program that runs now has registered it with timm."""
    return architecture in read().models or ("timm" in sys.modules and sys.modules["timm"].is_model(architecture))
