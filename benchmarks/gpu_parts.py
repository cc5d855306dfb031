"""The parts of on_gpu.sh, each in a process of its own: it writes each figure to a file as soon as it has it.

    python benchmarks/gpu_parts.py PART FIGURES.jsonl [--dry]

Weights are random and images are made here, since the machine may reach nothing. With --dry all of it is done on the
CPU in small, and the figures say nothing about any machine.
"""

import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from xml.etree import ElementTree

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

ROOT = Path(__file__).resolve().parent.parent

IMAGENET = (1_281_167, 2048, 1000)
"""Images, features and classes of the largest probe: ImageNet-1k with ResNet-50's features."""

VAL = 50_000
"""Images that its penalty is chosen on."""

OWN = 256
"""Images of each class that the solver's preconditioner keeps on the card (probe/softmax/preconditioner.py)."""


class Figures:
    """Keeps figures in a file, a JSON object a line, each as soon as it is known."""

    def __init__(self, path: Path):
        self.path = path

    def __call__(self, **figures) -> None:
        line = json.dumps(figures)
        print(line, flush=True)
        with self.path.open("a") as file:
            file.write(line + "\n")


def machine(keep: Figures, *, dry: bool) -> None:
    """Name the card, the processor and the versions."""
    from importlib import metadata

    import torch

    names = ("timm", "torchvision", "numpy", "scikit-learn", "Pillow", "simplejpeg")
    there = {name.lower() for one in metadata.distributions() if (name := one.metadata["Name"])}
    keep(torch=torch.__version__, python=platform.python_version())
    keep(**{name.lower(): metadata.version(name) if name.lower() in there else None for name in names})
    keep(
        cores=len(os.sched_getaffinity(0)),
        memory_gb=round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9),
    )
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        keep(card=properties.name, card_memory_gb=round(properties.total_memory / 1e9), cuda=torch.version.cuda)
    if importlib.util.find_spec("backbench"):
        from backbench import version

        keep(backbench=version())


def tests(keep: Figures, *, dry: bool) -> None:
    """Run the tests that need a card. Without one they are skipped, each with its reason."""
    if dry:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    files = [path for path in sorted((ROOT / "tests").glob("test_*.py")) if "pytest.mark.gpu" in path.read_text()]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", f"--junitxml={report}"]
        if importlib.util.find_spec("xdist") and not dry:
            command += ["-n", str(min(8, len(os.sched_getaffinity(0))))]
        done = subprocess.run([*command, *map(str, files)], cwd=ROOT)
        cases = list(ElementTree.parse(report).iter("testcase"))  # made by pytest just now
    said = {kind: [case for case in cases if case.find(kind) is not None] for kind in ("failure", "error", "skipped")}
    failed = said["failure"] + said["error"]
    keep(tests=len(cases), tests_failed=len(failed), tests_skipped=len(said["skipped"]))
    if done.returncode or not cases:
        raise SystemExit("failed: " + ", ".join(str(case.get("name")) for case in failed))


def extraction(keep: Figures, *, dry: bool) -> None:
    """Measure extraction beside the bare forward pass and torch's DataLoader."""
    from benchmarks import gpu_extraction

    gpu_extraction.measure(keep, dry=dry)


def probe(keep: Figures, *, dry: bool) -> None:
    """Fit one head, and then the whole path of penalties, on features that are made on the card.

    The seconds of the fit count all that comes after the features lie in memory: their mean and deviation, their
    standardised copy, the copy on the card, and the solver's own work, which ``solve_seconds`` counts alone.
    """
    import torch

    from backbench.allocator import keep_freed_memory
    from backbench.devices import memory, pick_device
    from backbench.probe.logistic import GRID, PATH_TOLERANCE, path
    from backbench.probe.softmax.objective import Rows
    from backbench.probe.softmax.solver import Solver
    from backbench.probe.softmax.torch_objective import TorchObjective
    from backbench.probe.subsets import Subset, moments
    from benchmarks.on_gpu import ASKED

    keep_freed_memory()
    device = pick_device("cpu" if dry else "cuda")
    n, d, k = (3000, 64, 10) if dry else IMAGENET
    if not dry:
        of_machine = float(os.environ.get("MEMORY_GB", 0)) * 1e9 or memory(torch.device("cpu"))
        room = min(0.8 * memory(device) / 4 - k * OWN * (d + OWN), 0.6 * of_machine / 8)  # the latter holds them twice
        n = min(n, int(room / (d + 2)))
    keep(probe_n=n, probe_d=d, probe_k=k)
    started = time.perf_counter()
    x, labels = clusters(n + (300 if dry else VAL), d, k, device=device)
    keep(probe_features_seconds=time.perf_counter() - started)
    train, val = Subset(x[:n], labels[:n]), Subset(x[n:], labels[n:])
    started = time.perf_counter()
    mean, scale = moments(train)
    keep(probe_moments_seconds=time.perf_counter() - started)
    rows = Rows(train, mean, scale, limit=1 << 40)
    keep(probe_prepare_seconds=time.perf_counter() - started)
    solver = Solver(TorchObjective(rows, k, device=device))
    ready = time.perf_counter()
    gap = ASKED["fit_gap_imagenet"][1]
    found = solver.solve(1 / n, gap)
    ended = time.perf_counter()
    keep(
        fit_seconds_imagenet=ended - started, solve_seconds_imagenet=ended - ready, fit_gap_imagenet=found["gap_bound"]
    )
    keep(fit_passes_imagenet=found["evaluations"])
    val = Rows(val, mean, scale, limit=1 << 40)
    covariance = solver.preconditioner.covariance
    solver = None  # its copy of the rows leaves the card
    started = time.perf_counter()
    tried, best = path(
        Solver(TorchObjective(rows, k, device=device), covariance), val, grid=GRID, tolerance=PATH_TOLERANCE
    )
    keep(
        path_seconds_imagenet=time.perf_counter() - started, path_values_imagenet=len(tried), path_top1=best["val_top1"]
    )
    keep(path_gap_imagenet=max(one["gap_bound"] for one in tried))


def clusters(n: int, d: int, k: int, *, device, spread: float = 0.2, at_once: int = 1 << 16):
    """As ``benchmarks.synthetic.clusters``, made on the device: (n, d) float32 and (n,) int64 in memory."""
    import numpy as np
    import torch

    make = torch.Generator(device).manual_seed(0)
    normal = lambda *shape: torch.randn(*shape, generator=make, device=device)  # noqa: E731
    scale = torch.arange(1, d + 1, device=device) ** -0.55
    turn, centres = torch.linalg.qr(normal(d, d))[0], spread * normal(k, d)
    labels = torch.randint(k, (n,), generator=make, device=device)
    x, spread_of_all = np.empty((n, d), np.float32), None
    for start in range(0, n, at_once):
        own = labels[start : start + at_once]
        block = ((centres[own] + normal(len(own), d)) * scale) @ turn.T
        spread_of_all = block.std() if spread_of_all is None else spread_of_all
        x[start : start + at_once] = (block / spread_of_all + 0.3).clamp(min=0).cpu().numpy()
    return x, labels.cpu().numpy()


def finetune(keep: Figures, *, dry: bool) -> None:
    """Measure fine-tuning's step beside the bare forward and backward pass (benchmarks/finetune.py)."""
    from benchmarks import finetune as benchmark

    figures: dict = {}
    if dry:
        benchmark.speeds(figures, "test_resnet", 1, fed=False)
    else:
        benchmark.speeds(figures, "resnet50", 20, batch_size=128, fed=False)
    keep(**figures)


def cnn(keep: Figures, *, dry: bool) -> None:
    """Measure the CIFAR network's training beside the reference's (benchmarks/cnn.py)."""
    from backbench.allocator import keep_freed_memory
    from backbench.training.setup import accelerator
    from benchmarks import cnn as benchmark

    keep_freed_memory()
    place, _ = accelerator("cpu" if dry else "cuda", "auto")
    sides = (benchmark.Side(one, place, compiled=False, batch=8 if dry else None) for one in ("base", "reference"))
    keep(**benchmark.compare(*sides, 1 if dry else 7))


if __name__ == "__main__":
    part, path, *more = sys.argv[1:]
    globals()[part](Figures(Path(path)), dry="--dry" in more)
