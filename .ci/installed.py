"""What .ci/light and .ci/wheel share: a wheel, an environment in a temporary folder, commands run in a folder."""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAIN = ROOT / ".venv" / "bin"
MODEL = "mobilenetv2_100"
FEATURES = Path("cache", "digits", f"{MODEL}.h5")


def wheel(folder: Path) -> Path:
    """The wheel of this checkout, made in ``folder``."""
    shutil.rmtree(ROOT / "build" / "lib", ignore_errors=True)  # else files that were removed since stay in it
    pip(MAIN / "python", "wheel", "--no-deps", "--wheel-dir", folder, ROOT)
    (made,) = folder.glob("*.whl")
    return made


def environment(folder: Path) -> Path:
    """A fresh virtual environment; its folder of commands."""
    venv.create(folder, with_pip=True)
    return folder / "bin"


def pip(python: Path, *words) -> None:
    subprocess.run([python, "-m", "pip", "--quiet", "--quiet", *map(str, words)], check=True)


def features(folder: Path) -> None:
    """A feature file of the digits in ``folder``: the demo's, or made now by the main environment."""
    target = folder / FEATURES
    target.parent.mkdir(parents=True, exist_ok=True)
    if (made := ROOT / FEATURES).exists():
        shutil.copy(made, target)
        return
    where = ["--cache-dir", folder / "cache", "--results-dir", folder.parent / "extracted"]
    subprocess.run([MAIN / "extract", "--model", MODEL, "--dataset", "digits", *where], check=True)


class Commands:
    """Runs the commands of an environment in ``folder``, and stops everything where one does not end as it must."""

    def __init__(self, bin: Path, folder: Path):
        self.bin, self.folder = bin, folder
        self.around = {**os.environ, "PATH": f"{bin}:{os.environ['PATH']}"}
        for name in ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE"):
            self.around.pop(name, None)

    def __call__(self, *words, code: int = 0) -> subprocess.CompletedProcess:
        done = subprocess.run(
            [self.bin / words[0], *map(str, words[1:])],
            cwd=self.folder,
            env=self.around,
            capture_output=True,
            text=True,
            timeout=600,
        )
        if done.returncode != code or "Traceback" in done.stderr:
            sys.exit(f"{' '.join(map(str, words))}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        print("ok:", *words, flush=True)
        return done

    def lacks(self, *words) -> None:
        """The command must end with one sentence that says what to install. Lines before it say what it began."""
        said = self(*words, code=1).stderr.strip()
        *before, last = said.splitlines()
        if any("Error" in line for line in before) or "is not installed here. Install it with: pip install" not in last:
            sys.exit(f"{' '.join(map(str, words))} says:\n{said}")
