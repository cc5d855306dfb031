"""How fast extraction is beside the plain way, and beside what this machine allows.

    python benchmarks/extract.py [--quick] [--json] --data-root DIR

The plain way: a timm model in float32, torch's DataLoader with the best number of workers, timm's transform, each run
in a process of its own. Ours: the command, in a process of its own; its rate leaves out what comes before the first row
(loading, timing, compiling). ``_whole`` counts all of it, and ``_whole_known`` the same where a run before has timed
and compiled the backbone. Median of three, sides in turn. The bound is what the machine would do if reading and
computing each took all cores and nothing else were to be done.

The study's way is five epochs through the backbone for a linear head: its seconds are those of reading and computing
train and val five times at the plain way's rate, extrapolated from ``PLAIN`` images, the head's own work left out. Ours
is both commands, extract and probe (45 penalties), from start to end.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from backbench.data import registry
from backbench.extract import trials
from benchmarks import bound, reading

ASKED = {
    "speedup_lite0_caltech101": 9,
    "speedup_resnet50_caltech101": 12,
    "speedup_lite0_cifar10": 9,
    "bound_fraction": 0.9,
    "cache_share": 0.01,
    "again_seconds": 3,
    "startup_again_seconds": 6,
    "first_line_seconds": 1,
    "workers_speedup": 1.8,
    "reading_scaling": 1.9,
    "main_process_us_photo": 40,
    "main_process_us_small": 15,
    "reading_a_core_over_before": 1.35,
    "memory_60000_over_5000": 1.1,
    "study_speedup": 25,
}
"""What the project set out for."""

AT_MOST = (
    "cache_share", "again_seconds", "startup_again_seconds", "first_line_seconds", "memory_60000_over_5000",
    "main_process_us_photo", "main_process_us_small",
)  # fmt: skip
"""Of these; the others: at least."""

CASES = {
    "lite0_caltech101": ("tf_efficientnet_lite0", "auto", "caltech101"),
    "resnet50_caltech101": ("resnet50", "random", "caltech101"),
    "lite0_cifar10": ("tf_efficientnet_lite0", "auto", "cifar10"),
}
"""Model, weights, data set. Ours is measured on all of its images, the plain way on ``PLAIN``."""

PARTS = ("memory", "workers", "bound", "reading")
"""What is measured besides."""

PLAIN = 640
"""Images: twenty batches. The plain way doesn't get faster with more."""


class Images:
    """As torch's Dataset: timm's transform of ``n`` images, evenly spaced."""

    def __init__(self, imageset, transform, n: int):
        self.imageset, self.transform = imageset, transform
        self.which = np.arange(0, len(imageset), max(1, len(imageset) // n))[:n]

    def __len__(self):
        return len(self.which)

    def __getitem__(self, i):
        return self.transform(self.imageset.read(int(self.which[i])))


def load(name: str, data_root: str):
    return registry.load(name, data_root=Path(data_root))


def plain(model: str, weights: str, dataset: str, data_root: str, workers: int) -> float:
    """Images/s after the first batch."""
    import timm
    import torch

    from backbench.extract import backbones

    backbone = backbones.create(model, weights=weights)
    transform = timm.data.create_transform(**backbone.config, is_training=False)
    images = Images(load(dataset, data_root), transform, PLAIN)
    started = None
    with torch.inference_mode():
        for batch in torch.utils.data.DataLoader(images, batch_size=32, num_workers=workers):
            backbone.model(batch).numpy()
            started = started or time.perf_counter()
    return (len(images) - 32) / (time.perf_counter() - started)


def plainly(*case) -> float:
    """The same in a process of its own."""
    code = f"from benchmarks.extract import plain; print(plain(*{case!r}))"
    root = Path(__file__).parent.parent
    return float(subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, check=True).stdout)


def run(command: list[str], **how) -> tuple[float, int, str, str, float]:
    """Seconds and peak memory (bytes) of a command, what it printed on stdout and stderr, and seconds until the first
    line on stderr."""
    how = {"cwd": Path(__file__).parent.parent, "stderr": subprocess.PIPE, "text": True} | how
    with tempfile.TemporaryFile("w+") as out:
        started = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-m", *command], stdout=out, **how)
        err = process.stderr.readline()
        first = time.perf_counter() - started
        err += process.stderr.read()
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        out.seek(0), process.stderr.close()
        if status:
            raise SystemExit(err)
        return seconds, used.ru_maxrss * (1 if sys.platform == "darwin" else 1024), out.read(), err, first


def ours(model: str, weights: str, dataset: str, data_root: str, *more: str) -> dict:
    """Images/s of the pass, and of extract, the same again, and probe: the whole commands' seconds.

    Nothing is kept of engines before (``extract.trials``). ``known`` is the same run where the first one left its own.
    """
    with tempfile.TemporaryDirectory() as folder:
        how = {"env": os.environ | {trials.HOME: f"{folder}/engines"}}
        command = ["extract", "--model", model, "--weights", weights, "--dataset", dataset, "--data-root", data_root]
        command += ["--cache-dir", folder, "--results-dir", folder, "--json", *more]
        seconds, peak, out, err, line = run(command, **how)
        (found,) = json.loads(out)
        say(next((line for line in err.splitlines() if "images/s" in line), "finished before a trial paid"))
        say(f"  {found['n']:,} images, {found['images_per_second']:.1f} images/s, whole {seconds:.1f} s")
        again, *_ = run(command, **how)
        known, _, out, *_ = run([*command, "--cache-dir", f"{folder}/known"], **how)
        startup = known - json.loads(out)[0]["seconds"]
        probed, *_ = run(["probe", "--features", found["path"], "--results-dir", folder, "--json"])
        say(f"  again {again:.2f} s, probe {probed:.1f} s, peak {peak >> 20:,} MB")
        say(f"  first line after {line:.2f} s, a known backbone's run {known:.1f} s, of which start-up {startup:.1f} s")
    times = {"whole": seconds, "again": again, "probe": probed, "known": known, "startup": startup, "line": line}
    return found | times | {"peak": peak}


def by_thingsvision(python: str, model: str, dataset: str, data_root: str) -> float:
    """Images/s of thingsvision's extractor on ``PLAIN`` images of a folder set; see with_thingsvision.py."""
    imageset = load(dataset, data_root)
    with tempfile.TemporaryDirectory() as folder:
        for i in Images(imageset, None, PLAIN).which:
            classes = Path(folder) / str(imageset.labels[i])
            classes.mkdir(exist_ok=True)
            shutil.copy(imageset.path(int(i)), classes)
        script = str(Path(__file__).with_name("with_thingsvision.py"))
        done = subprocess.run([python, script, folder, model], capture_output=True, check=True)
    return float(done.stdout)


def compare(figures: dict, name: str, case: tuple, data_root: str, repeats: int) -> None:
    """Both ways in turn."""
    speeds = {workers: plainly(*case, data_root, workers) for workers in (0, 1, 2)}
    best = max(speeds, key=speeds.get)
    say(f"{name}, plain: " + ", ".join(f"{workers} workers {speed:.1f}" for workers, speed in speeds.items()))
    pairs = [(plainly(*case, data_root, best), ours(*case, data_root)) for _ in range(repeats)]
    seen = 5 * int((load(case[2], data_root).split < 2).sum())
    ratios = {
        "speedup": lambda plain, our: our["images_per_second"] / plain,
        "whole": lambda plain, our: our["n"] / our["whole"] / plain,
        "known": lambda plain, our: our["n"] / our["known"] / plain,
        "study": lambda plain, our: seen / plain / (our["whole"] + our["probe"]),
    }
    found = {ratio: median(of(*pair) for pair in pairs) for ratio, of in ratios.items()}
    figures[f"plain_{name}"] = median(plain for plain, _ in pairs)
    figures[f"ours_{name}"] = median(our["images_per_second"] for _, our in pairs)
    figures[f"speedup_{name}"], figures[f"speedup_{name}_whole"] = found["speedup"], found["whole"]
    figures[f"speedup_{name}_whole_known"] = found["known"]
    figures[f"study_speedup_{name}"] = found["study"]
    figures["again_seconds"] = median(our["again"] for _, our in pairs)
    for figure, of in (("startup_again_seconds", "startup"), ("first_line_seconds", "line")):  # of the slowest case
        figures[figure] = max(figures.get(figure, 0.0), median(our[of] for _, our in pairs))
    if name == "lite0_cifar10":  # of these the one nearest in size to the study's sets
        figures["study_speedup"] = found["study"]


def memory(figures: dict, data_root: str) -> None:
    """Peak memory on cifar10's 60,000 images, beside that on a twelfth of them.

    Both as a folder, which loads the same modules, and uncompiled, since the compiler takes memory of its own.
    """
    with tempfile.TemporaryDirectory() as few:
        for images in Path(data_root).glob("cifar10/*/*"):
            folder = Path(few) / images.relative_to(data_root)
            folder.mkdir(parents=True)
            files = sorted(images.iterdir())
            for image in files[: round(len(files) / 12)]:
                shutil.copy(image, folder)
        for n, root in ((5_000, few), (60_000, data_root)):
            found = ours("mobilenetv3_small_050", "random", f"folder:{root}/cifar10", root, "--compile", "off")
            figures[f"memory_{n}"] = found["peak"]
    figures["memory_60000_over_5000"] = figures["memory_60000"] / figures["memory_5000"]


def workers(figures: dict, data_root: str) -> None:
    """One worker on one core, and two on two; the first two cores here. Linux only."""
    seconds = []
    for count in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            command = ["extract", "--model", "tf_efficientnet_lite0", "--dataset", "caltech101", "--compile", "off"]
            command += ["--data-root", data_root, "--cache-dir", folder, "--results-dir", folder]
            command += ["--workers", str(count)]
            cores = sorted(os.sched_getaffinity(0))[:count]
            seconds.append(run(command, preexec_fn=lambda cores=cores: os.sched_setaffinity(0, cores))[0])
    say(f"workers: one {seconds[0]:.1f} s, two {seconds[1]:.1f} s")
    figures["workers_speedup"] = seconds[0] / seconds[1]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@click.command()
@click.option("--quick", is_flag=True, help="lite0 on caltech101 once, about two minutes.")
@click.option("--json", "as_json", is_flag=True, help="One object of named figures on stdout.")
@click.option("--data-root", default="~/.cache/backbench-data", show_default=True, help="Where the image sets lie.")
@click.option("--repeats", default=3, show_default=True, help="Of either side; the median counts.")
@click.option("--thingsvision", metavar="PYTHON", help="Of an environment that has it: that way too, once.")
@click.option("--only", multiple=True, type=click.Choice([*CASES, *PARTS]), help="Repeat.")
def main(quick, as_json, data_root, repeats, thingsvision, only):
    """Measure extraction beside the plain way and beside this machine's bound."""
    figures, data_root = {}, str(Path(data_root).expanduser())
    for name, case in CASES.items():
        if (only and name not in only) or (quick and name != "lite0_caltech101"):
            continue
        compare(figures, name, case, data_root, 1 if quick else repeats)
        if thingsvision:
            theirs = figures[f"thingsvision_{name}"] = by_thingsvision(thingsvision, case[0], case[2], data_root)
            figures[f"over_thingsvision_{name}"] = figures[f"ours_{name}"] / theirs
    if "memory" in only or not (only or quick):
        memory(figures, data_root)
    if "workers" in only or not (only or quick):
        workers(figures, data_root)
    if not only or "bound" in only:
        bound.measure(figures, data_root)
        if "ours_lite0_caltech101" in figures:
            figures["bound_fraction"] = figures["ours_lite0_caltech101"] / figures["bound"]
    if not only or "reading" in only:
        reading.measure(figures, data_root, repeats=1 if quick else repeats)
    if as_json:
        print(json.dumps(figures, indent=2))
        return
    for name, value in figures.items():
        limit = f"   asked: at {'most' if name in AT_MOST else 'least'} {ASKED[name]}" if name in ASKED else ""
        print(f"{name:36} {value:10.4g}{limit}")


if __name__ == "__main__":
    main()
