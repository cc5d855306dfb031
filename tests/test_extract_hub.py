"""Weights from the Hugging Face hub, against a local server that answers as the hub does."""

import os
import subprocess
import sys
import threading
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
from extract import backbones
try:
    backbone = backbones.create("test_resnet")
    print(backbone.weights, float(backbone.model.state_dict()["conv1.0.weight"].sum()))
except UserError as error:
    print(error)
"""


def create(tmp_path, **environment) -> str:
    environment = os.environ | {"HF_HOME": str(tmp_path / "hub"), "NO_PROXY": "127.0.0.1"} | environment
    command = [sys.executable, "-c", CREATE, str(ROOT)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def hub():
    """A hub with test_resnet's weights, random but known. ``hub.asked`` lists the paths it was asked for."""
    torch.manual_seed(5)
    state_dict = timm.create_model("test_resnet", num_classes=1000).state_dict()
    content = save(state_dict)

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            server.asked.append(self.path)
            found = self.path.endswith("/resolve/main/model.safetensors")
            self.send_response(200 if found else 404)
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("ETag", '"' + "a" * 40 + '"')
            self.send_header("Content-Length", str(len(content) if found else 0))
            self.end_headers()
            return found

        def do_GET(self):
            if self.do_HEAD():
                self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked = []
    server.total = float(state_dict["conv1.0.weight"].sum())
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_weights_come_from_the_hub_and_then_from_its_cache(tmp_path, hub):
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    tag, total = create(tmp_path, HF_ENDPOINT=endpoint).split()
    assert tag == "test_resnet.r160_in1k"
    assert float(total) == pytest.approx(hub.total, rel=1e-6)
    assert any("timm/test_resnet.r160_in1k" in path for path in hub.asked)
    assert create(tmp_path, HF_ENDPOINT=endpoint, HF_HUB_OFFLINE="1").split() == [tag, total]


def test_no_hub_and_nothing_cached_is_a_message_with_three_ways_on(tmp_path):
    said = create(tmp_path, HF_HUB_OFFLINE="1")
    assert "the weights of test_resnet" in said
    for way in ("--weights FILE", "go online", "pip install '.[offline]'"):
        assert way in said
