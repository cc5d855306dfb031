"""``backbench doctor``: what is said of a machine, with and without a hub, a writable folder and every library."""

import http.server
import json
import socket
import threading

import numpy as np
import pytest
from click.testing import CliRunner

from backbench import doctor
from backbench.cli import main


@pytest.fixture
def hub(monkeypatch):
    """A server on this machine in the hub's place. It answers every request with 403, as hubs do to strangers."""

    class Refuses(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_error(403)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuses)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield server
    server.shutdown()
    server.server_close()


def told(tmp_path, *words):
    result = CliRunner().invoke(main, ["doctor", "--cache-dir", str(tmp_path / "new" / "cache"), *words])
    assert result.exit_code == 0, result.output
    return result


def by_name(tmp_path) -> dict:
    return {one["about"]: one for one in json.loads(told(tmp_path, "--json").stdout)}


def test_versions_devices_and_room_are_told(tmp_path, hub):
    found = by_name(tmp_path)
    assert found["numpy"]["found"] == np.__version__
    assert found["room for feature files"]["found"].endswith(f"GB in {tmp_path / 'new' / 'cache'}")
    assert {"processor cores", "GPUs", "image decoders"} <= set(found)
    assert found["pretrained weights"]["found"].endswith("answers")
    assert told(tmp_path).stderr == ""


def test_a_hub_out_of_reach_is_told_with_the_way_on(tmp_path, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
        result = told(tmp_path)
    assert "can't be reached" in result.stdout
    assert "backbench[offline]" in result.stderr


def test_a_library_that_is_missing_is_told(tmp_path, hub, monkeypatch):
    monkeypatch.setattr(doctor, "LIBRARIES", ("numpy", "no-such-library"))
    assert by_name(tmp_path)["no-such-library"]["found"] == "not installed"
    assert "no-such-library: Install it with: pip install 'no-such-library'" in told(tmp_path).stderr
