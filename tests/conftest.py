"""What tests share: the real images beside the checkout where there are any, small feature files, commands to run."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import uuid
from contextlib import ExitStack
from pathlib import Path

import hypothesis
import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
UNPACK = ROOT.parent / "shared" / "data" / "unpack"

# A shell that starts the tests in the background has them ignore Ctrl-C, and every process that they start with them.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples in every run, however busy the machine is: what fails, fails for all.
hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None)
hypothesis.settings.load_profile("fixed")

# On a GPU's machine, too, tests run on its CPU: runs are compared to the bit, which a GPU doesn't promise, and forked,
# which CUDA doesn't bear. What is about GPUs asks for them.
GPUS = os.environ.get("CUDA_VISIBLE_DEVICES")
os.environ["CUDA_VISIBLE_DEVICES"] = ""

# One thread a test process: tiny products on two threads cost more than they gain.
os.environ.setdefault("OMP_NUM_THREADS", "1")

IDENTITY = {
    "model": "resnet18",
    "weights": "resnet18.a1_in1k",
    "weights_sha256": "0" * 64,
    "transform": {"input_size": [3, 224, 224], "crop_pct": 0.95},
    "pooling": "avg",
    "dtype": "float32",
    "precision": "float32",
    "compiled": False,
    "dataset": "toy",
    "dataset_digest": "d" * 64,
    "seed": 42,
    "input_scale": 1.0,
    "versions": {"backbench": "0.1.0", "timm": "1.0", "torch": "2.0"},
}


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Data root with the real images of ../shared/data; the test is skipped where there are none."""
    if not UNPACK.exists():
        pytest.skip("needs the real images of ../shared/data, which are not beside this checkout")
    done = subprocess.run([UNPACK], check=True, capture_output=True, text=True)
    return Path(done.stdout.split()[-1])


@pytest.fixture
def run(tmp_path):
    """Run a command of this project in ``tmp_path``: ``run("probe", "--features", ...)``."""

    def run(module: str, *args, timeout: float = 300, **settings):
        return subprocess.run(
            [sys.executable, "-m", f"backbench.{module}", *map(str, args)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=timeout,
            **settings,
        )

    return run


@pytest.fixture(scope="session")
def gpu() -> dict[str, str]:
    """The environment in which a process sees the GPUs; the test is skipped where there is none. Mark it ``gpu``."""
    seen = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
    seen |= {"OMP_NUM_THREADS": "2"}  # of what is computed on the CPU beside it
    seen |= {} if GPUS is None else {"CUDA_VISIBLE_DEVICES": GPUS}
    ask = [sys.executable, "-c", "import torch; print(torch.cuda.device_count())"]
    if not shutil.which("nvidia-smi") or subprocess.run(ask, env=seen, capture_output=True).stdout.strip() in (
        b"",
        b"0",
    ):
        pytest.skip("needs a CUDA device")
    return seen


@pytest.fixture(scope="session")
def study(tmp_path_factory) -> dict[str, Path]:
    """A small study, see ``tests.study``: results, cache, pictures. Not to be changed by a test."""
    from tests.study import build

    return build(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium; the test is skipped where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def start_server(monkeypatch):
    """``start_server(server)`` starts a local server, stopped at the end. Downloads try again at once, by no proxy."""
    from backbench.data import fetch

    monkeypatch.setattr(fetch, "WAIT", 0)
    for word in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(word, raising=False)
    with ExitStack() as stack:

        def start_server(server):
            stack.enter_context(server)
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            return server

        yield start_server


@pytest.fixture
def cache_home(tmp_path, monkeypatch):
    """A place of the test's own for what is kept from run to run."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache-home"))
    return tmp_path / "cache-home"


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(autouse=True)
def engines(tmp_path_factory, monkeypatch) -> None:
    """A place of each test's own for what is kept of engines, so that no test depends on another's trial."""
    monkeypatch.setenv("BACKBENCH_ENGINES", str(tmp_path_factory.getbasetemp() / f"engines-{uuid.uuid4().hex}"))
