"""Asking again for what is finished: answered without torch, and only where nothing has changed."""

import json
import os
import subprocess
import sys

import pytest
import timm
from safetensors.torch import save_file

from backbench.extract import backbone_info, backbones
from tests.conftest import ROOT
from tests.test_extract_run import MODEL, extract, images  # noqa: F401

CODE = """
import sys
from backbench.extract.cli import main
try:
    main(sys.argv[1:])
finally:
    print("imported:", *(name for name in ("torch", "timm") if name in sys.modules), file=sys.stderr)
"""


@pytest.fixture
def again(tmp_path, images):  # noqa: F811
    """``again(...)`` as ``extract(...)``, in a process of its own: what it printed, and what it imported."""

    def again(*args):
        line = ["--dataset", f"folder:{images}", "--weights", "random", "--batch-size", "8", "--model", MODEL]
        line += ["--cache-dir", str(tmp_path / "cache"), "--results-dir", str(tmp_path / "results"), *map(str, args)]
        done = subprocess.run([sys.executable, "-c", CODE, *line], cwd=ROOT, capture_output=True, text=True)
        return done, done.stderr.rpartition("imported:")[2].split()

    return again


def test_finished_features_are_answered_for_without_torch(extract, again):  # noqa: F811
    extract("--layer", "layer2", "--layer", "last")
    done, imported = again("--layer", "layer2", "--layer", "last", "--json")
    assert imported == []
    assert done.returncode == 0, done.stderr
    assert [(one["model"], one["already"]) for one in json.loads(done.stdout)] == [
        (f"{MODEL}.layer2.avg", True),
        (MODEL, True),
    ]


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("--input-scale", "255"), 1, "input_scale: the file has 1.0, this run 255.0"),
        (("--seed", "7"), 1, "weights"),
        (("--precision", "float16"), 1, "precision: the file has 'float32'"),
        (("--device", "cuda:99"), 2, "not on this machine"),
        (("--model", "no_such_model"), 2, "unknown model"),
    ],
)
def test_another_request_goes_the_whole_way(extract, args, code, said):  # noqa: F811
    extract("--precision", "float32")
    assert said in extract(*args, code=code).output


def test_other_images_are_another_request(extract, images):  # noqa: F811
    extract()
    (images / "ant" / "00.png").unlink()
    assert "1 image fewer. 35 features are kept." in extract().output


def test_a_weights_file_that_has_changed_is_read_again(extract, tmp_path):  # noqa: F811
    file = tmp_path / "w.safetensors"
    model = timm.create_model(MODEL, num_classes=0)
    save_file(model.state_dict(), file)
    extract("--weights", file)
    folder, how = tmp_path / "cache", {"weights": str(file), "seed": 42}
    assert backbone_info.lookup(folder, MODEL, "last", "default", scale=1.0, **how).weights_sha256 == backbones.digest(
        model
    )
    state = {k: v + 1 if v.is_floating_point() else v for k, v in model.state_dict().items()}
    before = file.stat()
    save_file(state, file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # as cp -p, rsync -t and tar leave it
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert backbone_info.lookup(folder, MODEL, "last", "default", scale=1.0, **how) is None
    assert "weights_sha256" in extract("--weights", file, code=1).output


def test_a_card_of_other_versions_or_none_costs_only_time(extract, tmp_path):  # noqa: F811
    extract()
    folder, how = tmp_path / "cache", {"weights": "random", "seed": 42, "scale": 1.0}
    kept = json.loads((folder / backbone_info.FILE).read_text())
    assert backbone_info.lookup(folder, MODEL, "last", "default", **how)
    for content in ("", "[]", json.dumps({key: one | {"versions": ["0", "1", "2"]} for key, one in kept.items()})):
        (folder / backbone_info.FILE).write_text(content)
        assert backbone_info.lookup(folder, MODEL, "last", "default", **how) is None
    assert "already complete" in extract().output
    assert json.loads((folder / backbone_info.FILE).read_text()) == kept


def test_the_hub_is_known_by_its_files(extract, tmp_path, monkeypatch):  # noqa: F811
    """A repository in huggingface_hub's own cache layout, which main was moved away from."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = tmp_path / "hub" / "models--timm--x"
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc" / "model.safetensors").write_bytes(b"weights")
    backbone = backbones.create(MODEL, weights="random")
    backbone.model.pretrained_cfg["hf_hub_id"] = "timm/x"
    how = {"weights": "hub", "seed": 42}
    backbone_info.remember(tmp_path / "cards", backbone, "last", "default", **how)
    assert backbone_info.lookup(tmp_path / "cards", MODEL, "last", "default", scale=1.0, **how)
    (folder / "refs" / "main").write_text("abcd")
    assert backbone_info.lookup(tmp_path / "cards", MODEL, "last", "default", scale=1.0, **how) is None


def test_what_is_known_of_a_backbone_is_not_taken_for_its_features(extract):  # noqa: F811
    extract()
    extract.path.unlink()
    extract()
    assert extract.path.exists()
