#!/usr/bin/env bash
# Measures this project on a machine with one NVIDIA card (H100 or H200, 16 cores), in at most 8 minutes:
#
#   benchmarks/on_gpu.sh            all parts, into benchmarks/results/<card>-<versions>-<date>.json
#   benchmarks/on_gpu.sh --dry      the same code on the CPU in small, about a minute
#
# The machine may be bare. It needs Python 3.11 or newer ($PYTHON, else .venv's, else python3) with PyTorch, timm and
# what else setup.cfg names. What it lacks is taken from wheels in the folder .whl, if there is one, else from PyPI.
# MEMORY_GB=128 says how much memory the machine has where that grows as it is used, as virtual machines' may.
# Where $OUT is set, the JSON and the logs are copied there. Each part has its own limit, and none stops the others.
set -u
SINCE=$(date +%s)
cd "$(dirname "$0")/.." || exit 1
PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo "$PWD/.venv/bin/python" || echo python3)}
export PYTHONUNBUFFERED=1 PIP_DISABLE_PIP_VERSION_CHECK=1

lacking() { # says what is not installed of this project and all it needs; the page alone needs plotly
  (cd / && "$PYTHON" -) <<'CODE'
import re
from importlib import metadata, util

try:
    wanted = [line for line in metadata.requires("backbench") if "extra ==" not in line]
    wanted += [] if util.find_spec("backbench.extract") else ["backbench"]
except metadata.PackageNotFoundError:
    wanted = ["backbench"]
names = {re.split(r"[^\w.-]", line)[0] for line in [*wanted, "pytest", "hypothesis"]} - {"plotly"}
have = {re.sub(r"[-_.]+", "-", str(one.metadata["Name"])).lower() for one in metadata.distributions()}
print(*sorted(name for name in names if name == "backbench" or re.sub(r"[-_.]+", "-", name).lower() not in have))
CODE
}

install() { timeout "$1" "$PYTHON" -m pip install -q --retries 0 "${@:2}" || echo "on_gpu: pip install ${*:2} failed" >&2; }

overlay() { # an environment above the one that is there, where nothing can be installed into that
  local made
  made=$(mktemp -d) && "$PYTHON" -m venv "$made" || return
  "$PYTHON" -c 'import sys; print(*(path for path in sys.path[1:] if "-packages" in path or "lib/python3" not in path), sep="\n")' |
    grep -v '[.]zip$' >"$(echo "$made"/lib/python3*/site-packages)/below.pth"
  PYTHON=$made/bin/python
}

if ! "$PYTHON" -c 'import os, sysconfig, sys; sys.exit(not os.access(sysconfig.get_paths()["purelib"], os.W_OK))'; then overlay; fi
if compgen -G '.whl/*.whl' >/dev/null; then install 60 --no-index --no-deps .whl/*.whl; fi
if [ -n "$(lacking)" ]; then install 60 --no-deps --no-build-isolation -e .; fi
if [ -n "$(lacking)" ]; then install 200 -e . $(lacking | sed 's/\bbackbench\b//'); fi
if [ -n "$(lacking)" ]; then echo "on_gpu: going on without $(lacking)" >&2; fi
exec "$PYTHON" benchmarks/on_gpu.py --since "$SINCE" "$@"
