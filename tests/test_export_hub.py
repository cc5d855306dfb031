"""Upload, against a local server that speaks the hub's API: what arrives there is what timm loads from it."""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import timm
import torch

from backbench import UsageError, UserError
from backbench.export import hub, run
from backbench.training import onnx
from tests import exportable

FILES = ["model.safetensors", "config.json", "README.md"]


@pytest.fixture
def server(start_server, monkeypatch, tmp_path):
    """A hub that knows the token hf_good, which may write for ``me``. ``repositories`` are their files by name."""
    from huggingface_hub import constants

    repositories, stored = {}, {}

    class Handler(BaseHTTPRequestHandler):
        def answer(self, status, content=b"", **headers):
            content = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for name, value in ({"Content-Length": len(content)} | headers).items():
                self.send_header(name.replace("_", "-"), str(value))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            asked = [json.loads(line) for line in body.splitlines()]
            server.asked.append(self.path)
            if server.answers:
                return self.answer(*server.answers)
            if self.headers["Authorization"] != "Bearer hf_good":
                return self.answer(401, {"error": "Invalid username or password."})
            if self.path == "/api/repos/create":
                name = f"{asked[0].get('organization') or 'me'}/{asked[0]['name']}"
                if not name.startswith("me/"):
                    return self.answer(403, {"error": "You don't have the rights"})
                server.private[name] = asked[0].get("visibility") == "private" or asked[0].get("private") is True
                there = name in repositories
                repositories.setdefault(name, {})
                return self.answer(409 if there else 200, {"url": f"{server.url}/{name}"})
            if self.path == "/api/validate-yaml":
                return self.answer(200, {"errors": [], "warnings": []})
            if "/preupload/" in self.path:
                modes = [
                    {"path": one["path"], "shouldIgnore": False}
                    | {"uploadMode": "lfs" if one["path"].endswith("tensors") else "regular"}
                    for one in asked[0]["files"]
                ]
                return self.answer(200, {"files": modes})
            if self.path.endswith("/info/lfs/objects/batch"):
                objects = [
                    one | {"actions": {"upload": {"href": f"{server.url}/lfs/{one['oid']}"}}}
                    for one in asked[0]["objects"]
                ]
                return self.answer(200, {"transfer": "basic", "objects": objects})
            if match := re.fullmatch(r"/api/models/(\w+/\w+)/commit/main", self.path):
                for line in asked:
                    value = line["value"]
                    if line["key"] == "file":
                        repositories[match[1]][value["path"]] = base64.b64decode(value["content"])
                    if line["key"] == "lfsFile":
                        repositories[match[1]][value["path"]] = stored[value["oid"]]
                done = {"success": True, "commitOid": "0" * 40, "commitUrl": f"{server.url}/{match[1]}/commit/0"}
                return self.answer(200, done)
            return self.answer(404)

        def do_PUT(self):
            content = self.rfile.read(int(self.headers["Content-Length"]))
            assert hashlib.sha256(content).hexdigest() == self.path.rpartition("/")[2]
            stored[self.path.rpartition("/")[2]] = content
            self.answer(200)

        def do_HEAD(self):
            match = re.fullmatch(r"/(\w+/\w+)/resolve/main/(.+)", self.path)
            content = repositories.get(match[1], {}).get(match[2]) if match else None
            if content is None:
                return self.answer(404, X_Error_Code="EntryNotFound")
            digest = hashlib.sha256(content).hexdigest()
            self.answer(200, content, X_Repo_Commit="0" * 40, ETag=f'"{digest}"')

        do_GET = do_HEAD

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{server.server_port}"
    server.repositories, server.asked, server.answers, server.private = repositories, [], None, {}
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # a storage of its own, which is the hub's alone
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return start_server(server)


@pytest.fixture
def folder(tmp_path):
    """What export writes of a small model, and a file that is none of it."""
    torch.manual_seed(0)
    out = tmp_path / "out"
    model = timm.create_model("test_resnet", num_classes=3)
    timm.models.save_for_hf(model, str(out), model_config={"label_names": ["a", "b", "c"]}, safe_serialization=True)
    (out / "README.md").write_text("---\nlicense: mit\n---\n\n# Mine\n")
    (out / "notes.txt").write_text("mine")
    return out


LOAD = """
import sys, timm
model = timm.create_model(sys.argv[1], pretrained=True)
print(model.pretrained_cfg["label_names"], float(model.fc.weight.sum()))
"""


def test_what_is_pushed_is_what_timm_loads_from_there(server, folder, tmp_path):
    address = hub.push(folder, "me/birds", FILES, private=True)
    assert address == f"{server.url}/me/birds"
    assert server.repositories["me/birds"] == {name: (folder / name).read_bytes() for name in FILES}
    assert server.private == {"me/birds": True}
    environment = os.environ | {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "hub")}
    done = subprocess.run(
        [sys.executable, "-c", LOAD, "hf-hub:me/birds"], env=environment, capture_output=True, text=True, check=True
    )
    ours = timm.create_model(f"local-dir:{folder}", pretrained=True)
    assert done.stdout.split() == f"{['a', 'b', 'c']} {float(ours.fc.weight.sum().detach())}".split()


def test_export_pushes_what_it_wrote(server, tmp_path, monkeypatch):
    def none(*_, **__):
        raise onnx.NoGraph("which would take some seconds")

    monkeypatch.setattr(onnx, "write", none)
    head, _ = exportable.head(tmp_path)
    found = run.run(head, tmp_path / "out", push="me/birds", data_root=tmp_path, results_dir=tmp_path)
    assert found["pushed"] == f"{server.url}/me/birds"
    there = server.repositories["me/birds"]
    assert there == {name: (tmp_path / "out" / name).read_bytes() for name in found["files"]}
    assert b'create_model("hf-hub:me/birds", pretrained=True)' in there["README.md"]


def test_a_second_push_is_a_commit_more(server, folder):
    hub.push(folder, "me/birds", FILES, private=False)
    (folder / "config.json").write_text("{}")
    hub.push(folder, "me/birds", FILES, private=False)
    assert server.repositories["me/birds"]["config.json"] == b"{}"
    assert sum(path.endswith("/commit/main") for path in server.asked) == 2


def test_who_is_not_logged_in_is_told_before_any_work(server, monkeypatch):
    hub.check("me/birds")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match=r"no token was found\. Log in with hf auth login, or set HF_TOKEN"):
        hub.check("me/birds")
    assert not server.asked


@pytest.mark.parametrize(
    "name", ["birds", "me/birds/x", "me/", "/birds", "me/b rds", "me/birds..", "me/-b", "hf-hub:me/b"]
)
def test_names_that_are_none(server, name):
    with pytest.raises(UsageError, match="OWNER/NAME is expected"):
        hub.check(name)


@pytest.mark.parametrize(
    ("token", "repository", "says"),
    [
        ("hf_bad", "me/birds", r"doesn't take the token\. Log in again with hf auth login"),
        ("hf_good", "them/birds", "the token may not write there. Take a token with the right to write, of them"),
    ],
)
def test_who_may_not_is_told_what_to_do(server, folder, monkeypatch, token, repository, says):
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(UserError, match=says) as caught:
        hub.push(folder, repository, FILES, private=False)
    assert f"The files stay in {folder}" in str(caught.value)
    assert not server.repositories


def test_other_answers_and_none_are_one_sentence(server, folder, monkeypatch):
    server.answers = 400, {"error": "Invalid metadata in README.md"}
    with pytest.raises(UserError, match=r"answers with 400: .*Invalid metadata"):
        hub.push(folder, "me/birds", FILES, private=False)
    server.answers = 200, b"<html>log in to the hotel's network</html>"
    with pytest.raises(UserError, match=r"doesn't answer as a hub .*Look at the network, and at HF_ENDPOINT"):
        hub.push(folder, "me/birds", FILES, private=False)
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"http://127\.0\.0\.1:9 can't be reached"):
        hub.push(folder, "me/birds", FILES, private=False)
