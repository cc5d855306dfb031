"""Which model is asked, on which weights: what can't be, and that no weights are fetched because a head says so."""

# ruff: noqa: F401, F811 - fixtures come from other modules

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

import backbench as bb
from backbench.predict import find
from tests.conftest import ROOT
from tests.test_extract_hub import hub
from tests.test_predict_run import as_json, ask, heads, home


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "no head or run is named"),
        (["HEAD"], 2, "no images are named"),
        (["gone", "flat"], 2, "gone does not exist"),
        (["heads", "flat"], 2, "These lie below:"),
        (["HEAD", "empty"], 1, "holds no image that can be read"),
        (["HEAD", "gone"], 1, "gone does not exist"),
        (["HEAD", "flat", "--csv", "--json"], 2, "exclude each other"),
        (["HEAD", "HEAD2", "flat", "--sets", "0.9", "--unknown", "0.1"], 2, "--unknown keeps its promise"),
    ],
)
def test_what_cannot_be_asked(home, monkeypatch, words, code, said):
    monkeypatch.chdir(home)
    (home / "empty").mkdir(exist_ok=True)
    named = dict(zip(("HEAD", "HEAD2"), heads(home, "logistic", "ridge"), strict=True))
    assert said in ask(home, *(named.get(word, word) for word in words), code=code).stderr


def test_models_of_other_classes_are_not_taken_together(home, tmp_path):
    (folder,) = heads(home, "logistic")
    saved = find.at(folder).saved
    saved.head.save(
        tmp_path / "other", classes=["ant", "bee", "dog"], identity=saved.identity, method="ridge", row=saved.row
    )
    done = ask(home, folder, tmp_path / "other", home / "flat", code=1)
    assert "know different classes: cat, dog" in done.stderr


def test_weights_of_ones_own_are_named(home, tmp_path):
    (folder,) = heads(home, "logistic")
    saved = find.at(folder).saved
    identity = saved.identity | {"weights": "file mine.pth"}
    saved.head.save(tmp_path / "own", classes=saved.classes, identity=identity, method="logistic", row=saved.row)
    (home / "few").mkdir(exist_ok=True)
    shutil.copy(home / "flat" / "ant-03.png", home / "few")
    done = ask(home, tmp_path / "own", home / "few", code=1)
    assert "weights of your own, file mine.pth" in done.stderr
    assert "--weights FILE" in done.stderr
    from safetensors.torch import save_file

    backbone, _ = find.at(folder).backbone(run_device())
    save_file(backbone.model.state_dict(), tmp_path / "renamed.safetensors")
    found = as_json(ask(home, tmp_path / "own", home / "few", "--json", "--weights", tmp_path / "renamed.safetensors"))
    assert found.keys() == {"ant-03.png"}


def run_device():
    from backbench.devices import pick_device

    return pick_device("cpu")


CREATE = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from dataclasses import replace
import torch
from backbench import UserError
from backbench.predict import find, predictors
head = replace(find.at(Path(sys.argv[2])), trust=sys.argv[3] == "trust")
try:
    print(head.backbone(torch.device("cpu"))[0].weights)
except UserError as error:
    print(error)
"""


def test_a_heads_weights_are_fetched_only_where_that_is_allowed(home, tmp_path, hub):
    """The head says that it stands on the hub's weights. Then they are in the hub's cache, which may be used."""
    (folder,) = heads(home, "logistic")
    saved = find.at(folder).saved
    identity = saved.identity | {"weights": "test_resnet.r160_in1k", "weights_sha256": "?"}
    saved.head.save(tmp_path / "theirs", classes=saved.classes, identity=identity, method="logistic", row=saved.row)
    environment = os.environ | {
        "HF_HOME": str(tmp_path / "hub"), "NO_PROXY": "127.0.0.1", "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
    }  # fmt: skip

    def create(word, head="theirs"):
        command = [sys.executable, "-c", CREATE, str(ROOT), str(tmp_path / head), word]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    said = create("no")
    assert "--trust fetches them" in said
    assert hub.asked == []
    weights = identity | {"model": "hf-hub:someone/theirs", "weights": "random, seed 1"}
    saved.head.save(tmp_path / "named", classes=saved.classes, identity=weights, method="logistic", row=saved.row)
    assert "--trust fetches them" in create("no", "named")  # its config.json would be fetched
    assert hub.asked == []
    assert "weights_sha256: the head was fitted with '?'" in create("trust")
    assert hub.asked
    hub.asked.clear()
    assert "weights_sha256" in create("no")  # now they are here
    assert hub.asked == []


def test_a_head_on_features_of_ones_own_sees_no_images(home, tmp_path):
    x, labels = np.random.default_rng(0).normal(size=(60, 4)).astype("f4"), np.arange(60) % 3
    bb.probe(bb.Features(x, labels), "ridge").head.save(tmp_path / "own")
    done = ask(home, tmp_path / "own", home / "flat", code=1)
    assert "features of your own" in done.stderr
    assert "probe predict --head" in done.stderr
