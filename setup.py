"""Everything about the package stands in setup.cfg. This only writes the commit into what is built from a checkout."""

import importlib.util
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

ROOT = Path(__file__).parent


def _write(folder: str) -> None:
    """Put the commit, where git knows it, into a copy of the package in ``folder``."""
    spec = importlib.util.spec_from_file_location("commit", ROOT / "backbench" / "commit.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    file = Path(folder) / "backbench" / module.FILE
    if (ROOT / ".git").exists() and (found := module.asked(ROOT)) and file.exists():
        file.unlink()  # it may be a hard link to the file in the checkout
        file.write_text(f"{found}\n")


class BuildPy(build_py):
    """Of a wheel."""

    def run(self):
        super().run()
        if not self.editable_mode:
            _write(self.build_lib)


class Sdist(sdist):
    """Of an archive of the sources."""

    def make_release_tree(self, base_dir, files):
        super().make_release_tree(base_dir, files)
        _write(base_dir)


setup(cmdclass={"build_py": BuildPy, "sdist": Sdist})
