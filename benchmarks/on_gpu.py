"""Everything that is measured on a card, in one call of at most 8 minutes; on_gpu.sh prepares the machine and calls it.

    benchmarks/on_gpu.sh [--dry] [--only PART] [--results DIR]

Each part of ``PARTS`` is a process of its own with a limit of its own (benchmarks/gpu_parts.py), so that one that fails
or hangs takes nothing from the others. Figures are written as they come: a run that is cut short leaves what it had.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent

PARTS = {"machine": 45, "tests": 100, "extraction": 140, "probe": 220, "finetune": 45, "cnn": 45}
"""Most seconds of each part, in order of worth."""

WHOLE = 470
"""Most seconds of all parts together, with on_gpu.sh's preparations. What comes last may get less than its limit."""

KEPT_BACK = {"probe": 75}
"""Seconds that a part leaves for those after it."""

DRY = 120
"""Most seconds of each part on the CPU in small, on one thread: tiny products on several cost more than they gain."""

ASKED = {
    "tests_failed": ("most", 0),
    "lite0_photos_per_second": ("least", 5000),
    "share_resnet50_photos": ("least", 0.85),
    "share_vit_base_photos": ("least", 0.85),
    "share_lite0_cifar100": ("least", 0.85),
    "speedup_lite0_photos": ("least", 3),
    "fit_gap_imagenet": ("most", 1e-4),
    "fit_seconds_imagenet": ("most", 20),
    "path_seconds_imagenet": ("most", 180),
    "step_share": ("least", 0.9),
    "seconds_over_reference": ("most", 0.6),
    "share_of_peak": ("least", 0.3),
    "input_share": ("most", 0.05),
}
"""What the project set out for on an H100 with 16 cores."""

LAST = 30
"""Lines of a part's output that tell why it failed."""


class Record:
    """What was measured so far, and its file. The file's name is known once the part ``machine`` has named the card."""

    def __init__(self, folder: Path, *, dry: bool):
        self.folder, self.dry, self.path = folder, dry, None
        self.started = datetime.now(timezone.utc)
        self.found = {
            "date": self.started.isoformat(timespec="seconds"),
            "dry": dry,
            "asked": {name: f"at {way} {value:g}" for name, (way, value) in ASKED.items()},
            "machine": {},
            "figures": {},
            "parts": {},
        }

    def write(self) -> Path:
        """Write the file, whole or not at all; raises OSError."""
        about = self.found["machine"]
        if self.path is None:
            names = [about.get("card") or "no-card", f"torch{about.get('torch')}", f"timm{about.get('timm')}"]
            names = [*(["dry"] if self.dry else []), *names, self.started.strftime("%Y-%m-%d-%H%M%S")]
            self.path = self.folder / f"{re.sub(r'[^A-Za-z0-9.+-]+', '-', '-'.join(names)).lower()}.json"
        self.folder.mkdir(parents=True, exist_ok=True)
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(self.found, indent=2) + "\n")
        new.replace(self.path)
        if os.environ.get("OUT"):
            shutil.copy(self.path, os.environ["OUT"])
        return self.path


def read(file: Path) -> dict:
    """Return the figures in a part's file, which holds one JSON object a line. A line cut short doesn't count."""
    found = {}
    for line in file.read_text().splitlines() if file.exists() else ():
        try:
            found |= json.loads(line)
        except ValueError:
            break
    return found


def run(part: str, limit: float, record: Record, folder: Path) -> None:
    """Run one part for at most ``limit`` seconds, and enter its figures, its seconds and its error, None for none."""
    figures, log = folder / f"{part}.jsonl", folder / f"{part}.log"
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu_parts.py"), part, str(figures)]
    started, entry, error = time.monotonic(), {"limit_s": round(limit), "error": "it was cut short"}, None
    record.found["parts"][part] = entry
    into = record.found["machine" if part == "machine" else "figures"]
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, *(["--dry"] if record.dry else [])],
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env=os.environ | ({"OMP_NUM_THREADS": "1"} if record.dry else {}),
        )
        try:
            seen = None
            while process.poll() is None and time.monotonic() - started < limit:
                time.sleep(0.2)
                if part != "machine" and (now := read(figures)) != seen:
                    seen = now
                    into |= now
                    record.write()
            if process.poll() is None:
                error = f"it was stopped at its limit of {limit:.0f} s"
        finally:
            end(process)
    if error is None and process.returncode:
        error = f"exit code {process.returncode}"
    if error:
        error += ":\n" + "\n".join(log.read_text(errors="replace").splitlines()[-LAST:])
    into |= read(figures)
    entry |= {"seconds": round(time.monotonic() - started, 1), "error": error}
    if os.environ.get("OUT"):
        shutil.copy(log, os.environ["OUT"])
    record.write()


def end(process) -> None:
    """End a part and every process that it started."""
    for word, seconds in ((signal.SIGTERM, 3), (signal.SIGKILL, 10)):
        try:
            os.killpg(process.pid, word)
        except ProcessLookupError:
            break
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def table(found: dict) -> str:
    """Return the figures beside what is asked of them, and the parts' errors, for people."""
    lines = []
    for name, value in (found["machine"] | found["figures"]).items():
        shown = f"{value:14,.4g}" if isinstance(value, int | float) else f"{value!s:>14}"
        mark = ""
        if name in ASKED and isinstance(value, int | float):
            way, limit = ASKED[name]
            mark = "reached" if (value <= limit if way == "most" else value >= limit) else "missed"
            mark = f"   asked: at {way} {limit:g}" + ("" if found["dry"] else f", {mark}")
        lines.append(f"{name:36} {shown}{mark}")
    for name, part in found["parts"].items():
        error = f" FAILED: {part['error']}" if part["error"] else ""
        lines.append(f"{name}: {part.get('seconds', 0):.0f} of {part['limit_s']} s{error}")
    return "\n".join(lines)


@click.command()
@click.option("--dry", is_flag=True, help="The same code on the CPU in small, about a minute.")
@click.option("--only", "parts", multiple=True, type=click.Choice(list(PARTS)), help="Repeat.  [default: all parts]")
@click.option(
    "--results", type=click.Path(path_type=Path), help="The folder of the JSON.  [default: benchmarks/results]"
)
@click.option("--since", type=float, hidden=True, help="When on_gpu.sh began, in seconds since 1970.")
def main(dry, parts, results, since):
    """Measure this project on a card, and write one JSON of named figures beside their limits."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a part that runs is ended, too
    earlier = max(0.0, time.time() - since) if since else 0.0
    began = time.monotonic() - min(earlier, WHOLE)
    folder = Path(tempfile.mkdtemp(prefix="backbench-on-gpu-"))
    record = Record(results or (folder if dry else ROOT / "benchmarks" / "results"), dry=dry)
    for part in dict.fromkeys(["machine", *(parts or PARTS)]):
        left = WHOLE - (time.monotonic() - began) - KEPT_BACK.get(part, 0)
        limit = min(DRY if dry else PARTS[part], left)
        print(f"{part}: at most {max(0, limit):.0f} s", file=sys.stderr, flush=True)
        if limit < 5:
            record.found["parts"][part] = {"limit_s": 0, "seconds": 0, "error": "no time was left for it"}
            record.write()
            continue
        run(part, limit, record, folder)
        if not dry and part == "machine" and not record.found["machine"].get("card"):
            print(table(record.found))
            raise SystemExit("There is no CUDA device here. On a machine without one: benchmarks/on_gpu.sh --dry")
    record.found["seconds"] = round(time.monotonic() - began, 1)
    path = record.write()
    print(table(record.found))
    print(f"in {path}", file=sys.stderr)
    if failed := [name for name, part in record.found["parts"].items() if part["error"]]:
        raise SystemExit(f"These parts failed, and the others are kept: {', '.join(failed)}")


if __name__ == "__main__":
    main()
