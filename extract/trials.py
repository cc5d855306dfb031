"""What is kept of engines from run to run: their speeds on this machine, and what was compiled.

A backbone that was timed here before starts with its fastest engine at once. Everything lies in a folder of its own,
named after all that decides it: the backbone and its weights, the batch, the processor and the versions. Losing it
costs time only. It holds libraries that are loaded, so a folder that others can write to is not used.
"""

import contextlib
import hashlib
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from backbench.devices import cores
from backbench.extract.versions import versions
from backbench.files import sha256, write_whole

FILE = "trial.json"

HOME = "BACKBENCH_ENGINES"
"""Environment variable that names another folder than ``~/.cache/backbench/engines``."""

DAYS = 30
"""How long speeds are believed. The machine may have been busy while only some of the engines were timed."""

OFF = 3
"""Speeds are forgotten where a run computes this many times as fast, or as slowly, as its trial said."""

ENOUGH = 20
"""Number of batches after which a run can tell so."""

MOST_BYTES = 4 << 30
"""What all folders together may take. Those used longest ago make room."""

ABANDONED = 86_400
"""Seconds after which what a build left unfinished is removed."""


def key(backbone, settings, batch) -> dict:
    """Return all that decides what engines give, and how fast, for a batch (B, ...) of a backbone, for ``Kept``."""
    module = repr(backbone.from_pixels)
    return {
        "model": [backbone.name, backbone.layer, backbone.pool, backbone.scale],
        "weights_sha256": backbone.weights_sha256,
        "network": hashlib.sha256(repr((backbone.config, backbone.arguments, module)).encode()).hexdigest(),
        "batch": list(batch.shape),
        "precision": settings.precision,
        "machine": machine(settings.device),
        "versions": {name: of for name, of in versions(settings.device).items() if name != "backbench"},  # has the code
    }


def machine(device) -> list[str]:
    """Return what tells a torch device from others that compute otherwise, or at another speed."""
    import torch

    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return [torch.cuda.get_device_name(device), f"{major}.{minor}"]
    lines = {}
    with contextlib.suppress(OSError):  # not Linux
        text = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
        lines = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}
    flags = " ".join(sorted((lines.get("flags") or lines.get("Features") or platform.node()).split()))
    return [device.type, lines.get("model name") or platform.processor(), flags, f"{torch.get_num_threads()}/{cores()}"]


class Kept:
    """Speeds and compiled files of one ``key``. Without a key, or where nothing can be kept, until the process ends.

    ``speeds`` holds images/s by engine, and None for one whose features disagree with float32.
    """

    def __init__(self, key: dict | None = None):
        self.key = json.loads(json.dumps(key))
        self.speeds: dict[str, float | None] = {}
        self.files: dict[str, dict[str, str]] = {}
        self.timed = time.time()
        self.checked: set[str] = set()
        self.folder, self.temporary = None, None
        if key:
            name = hashlib.sha256(json.dumps(self.key, sort_keys=True).encode()).hexdigest()[:32]
            with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: there is no home folder
                folder = _own(home()) / name
                folder.mkdir(exist_ok=True)
                self.folder = folder
                self._read()
        if self.folder is None:
            self.temporary = tempfile.TemporaryDirectory(prefix="backbench-engines-", ignore_cleanup_errors=True)
            self.folder = Path(self.temporary.name)

    def _read(self) -> None:
        path = self.folder / FILE
        try:
            found = json.loads(path.read_bytes())
            if found["key"] != self.key:
                return
            speeds, files = dict(found["speeds"]), {name: dict(of) for name, of in found["files"].items()}
            if all(speed is None or 0 < speed < 1e9 for speed in speeds.values()):
                self.files = files
                if 0 <= time.time() - found["timed"] < DAYS * 86_400:
                    self.speeds, self.timed = speeds, found["timed"]
            os.utime(path)  # so that it is among the last to make room
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass  # it is damaged, or of another version

    def save(self) -> None:
        """Keep what is known. Nothing is raised where that fails, for it only saves time."""
        if self.temporary:
            return
        with contextlib.suppress(OSError):
            content = {"key": self.key, "speeds": self.speeds, "files": self.files, "timed": self.timed}
            write_whole(self.folder / FILE, json.dumps(content, indent=1).encode())
            _make_room(self.folder)

    def forget(self) -> None:
        """Forget the speeds. What was compiled stays."""
        self.speeds, self.timed = {}, time.time()
        self.save()

    def judge(self, name: str, images: int, seconds: float, batch: int) -> bool:
        """Compare a run's speed with its trial's, and forget the trial where they are far apart. Returns whether."""
        speed = self.speeds.get(name)
        if not speed or images < ENOUGH * batch or 1 / OFF < images / seconds / speed < OFF:
            return False
        self.forget()
        return True

    def has(self, name: str) -> bool:
        """Whether the compiled files ``name`` are there, byte for byte as they were built."""
        files = self.files.get(name)
        if name not in self.checked and files:
            try:
                whole = all(sha256(self.folder / name / Path(file).name) == digest for file, digest in files.items())
            except (OSError, TypeError):
                whole = False
            if not whole:
                return False
            self.checked.add(name)
        return name in self.checked

    def built(self, name: str, build: Callable[[Path], None]) -> Path:
        """Return the folder of the compiled files ``name``. Where they aren't there, ``build(folder)`` makes them."""
        assert self.folder
        if self.has(name):
            return self.folder / name
        new = Path(tempfile.mkdtemp(prefix="new-", dir=self.folder))
        try:
            build(new)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
        files = {file.name: sha256(file) for file in new.iterdir()}
        shutil.rmtree(self.folder / name, ignore_errors=True)
        try:
            new.replace(self.folder / name)
        except OSError:  # another process was faster, or Windows still has the old files open
            return new
        self.files[name] = files
        self.checked.add(name)
        self.save()
        return self.folder / name


def home() -> Path:
    """The folder of what is kept of all backbones."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get(HOME) or Path(cache) / "backbench" / "engines")


def _own(folder: Path) -> Path:
    """Make a folder that only this user may write to. Raises OSError where it isn't so."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if hasattr(os, "getuid"):
        status = folder.stat()
        if status.st_uid != os.getuid() or status.st_mode & 0o022:
            raise PermissionError(f"{folder} can be written by others")
    return folder


def _make_room(kept: Path) -> None:
    """Remove what is left of killed builds, then the folders used longest ago, but not ``kept``."""
    folders = []
    for folder in kept.parent.iterdir():
        for new in folder.glob("new-*"):
            if time.time() - new.stat().st_mtime > ABANDONED:
                shutil.rmtree(new, ignore_errors=True)
        used = (folder / FILE).stat().st_mtime if (folder / FILE).exists() else folder.stat().st_mtime
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        folders.append((folder != kept, -used, size, folder))
    total = 0
    for others, _, size, folder in sorted(folders):
        total += size
        if others and total > MOST_BYTES:
            shutil.rmtree(folder, ignore_errors=True)
