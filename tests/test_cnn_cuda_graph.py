"""Steps played again from a CUDA graph, against the same steps done as they are. Only where there is a GPU."""

import json
import subprocess
import sys

import pytest
import torch

from backbench.cnn.cuda_graph import Replay
from tests.conftest import ROOT

CODE = """
import json, sys
from pathlib import Path
import torch
from backbench.cnn import job, images as pictures, recipe, train
from backbench.cnn.cuda_graph import Replay
from backbench.data import registry
from backbench.training.setup import accelerator

# Float32 without the GPU's shortcuts, its sums always in one order.
torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = False, True
digits = registry.load("digits", data_root=".")
held, _ = pictures.read(digits, job.network(recipe.make("small"), 2, 0))
graphs, judge, found = Replay.__call__, train.Trainer._judge, {"graph": [], "plain": []}
for name, call in (("graph", graphs), ("plain", lambda self, kind, given: self.work(given.to(self.device)))):
    def seen(self, loss, losses=found[name]):
        losses.append(loss)
        judge(self, loss)
    Replay.__call__, train.Trainer._judge = call, seen
    settings = job.Settings(accelerator("cuda", "float32")[0], "float32", seed=1)
    asked = recipe.make("small", ("epochs=6", "cutout=6", "batch_size=100"))
    job.Job(digits, asked, settings, Path(sys.argv[1]) / name, held=held).row(Path(sys.argv[1]) / "rows" / name)
print(json.dumps(found))
"""


def test_without_a_gpu_every_one_is_done_as_it_is():
    done = []
    replay = Replay(lambda given: done.append(given) or given + 1, torch.device("cpu"))
    assert [replay("kind", torch.tensor(k)).item() for k in range(3)] == [1, 2, 3]
    assert len(done) == 3


@pytest.mark.gpu
def test_a_graph_makes_the_same_steps(tmp_path, gpu):
    """Both sides of the early size and of the first layer's bias: three kinds, with flips, moves and cutout."""
    command = [sys.executable, "-c", CODE, str(tmp_path)]
    found = json.loads(subprocess.run(command, cwd=ROOT, env=gpu, stdout=subprocess.PIPE, check=True).stdout)
    assert len(found["graph"]) == 6
    assert found["graph"] == pytest.approx(found["plain"], rel=1e-4)
