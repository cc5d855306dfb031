"""A brake for processes that a test stops: they wait once they have marked so many rows, on a machine of any speed."""

import os

from tests.conftest import ROOT

CODE = """
import os, time
from backbench.cache import writer

def commit(self, commit=writer.Writer.commit):
    commit(self)
    while os.path.exists({flag!r}) and (self.done > 0).sum() >= int(open({flag!r}).read() or 0):
        time.sleep(0.02)

writer.SYNC_EVERY, writer.Writer.commit = 0, commit
"""


class Brake:
    """Works in every Python process that is started with ``environment``; every batch is marked at once there."""

    def __init__(self, folder):
        self.flag = folder / "brake"
        (folder / "site").mkdir()
        (folder / "site" / "sitecustomize.py").write_text(CODE.format(flag=str(self.flag)))
        path = os.pathsep.join(map(str, (folder / "site", ROOT)))
        self.environment = {**os.environ, "PYTHONPATH": path}

    def at(self, rows: int) -> None:
        """Stop writers of files with so many rows done."""
        new = self.flag.with_suffix(".new")
        new.write_text(str(rows))
        new.replace(self.flag)

    def release(self) -> None:
        self.flag.unlink()
