"""What to install where a package that setup.cfg names is not there: the light way has only some of them."""

import re
from importlib import metadata, util

from backbench import UserError

MODULES = {
    "pil": "pillow",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
    "umap": "umap-learn",
    "distributed": "dask",
}
"""Packages whose modules have another name, by the module's in small letters."""


class MissingPackageError(UserError):
    """A command needs a package that is not installed."""


def has(module: str) -> bool:
    """Whether a module can be imported, found out without importing it."""
    return util.find_spec(module) is not None


def missing(error: ImportError) -> MissingPackageError | None:
    """What to install after ``error``; None where another fault than a missing package of setup.cfg's caused it."""
    module = (error.name or "").split(".")[0]
    if not module or has(module):
        return None
    package, (base, extras) = _normal(MODULES.get(module.lower(), module)), _required()
    if package in base:
        # torch alone would only lead to the next such message: all that the light way leaves out comes together.
        lacking = {name: wanted for name, wanted in base.items() if not _installed(name)}
        wanted = list(({package: base[package]} | lacking).values())
    elif package in extras:
        wanted = [extras[package]]
    else:
        return None
    words = " ".join(f"'{one}'" for one in wanted)
    return MissingPackageError(
        f"this needs {package}, which is not installed here. Install it with: pip install {words}"
    )


def requirement(name: str) -> str:
    """The requirement on a package as setup.cfg has it; the name alone where it has none."""
    base, extras = _required()
    return (extras | base).get(_normal(name), name)


def _required() -> tuple[dict[str, str], dict[str, str]]:
    """Requirements by package: those of every installation, and those of the extras."""
    base, extras = {}, {}
    for line in metadata.requires("backbench") or ():
        wanted, _, condition = (part.strip() for part in line.partition(";"))
        name = _normal(re.split(r"[^\w.-]", wanted)[0])
        (extras if "extra" in condition else base).setdefault(name, wanted)
    return base, extras


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True
