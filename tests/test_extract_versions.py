"""What a feature file was made with: told in its identity, and an unfinished one goes on with nothing else."""

import PIL
import pytest
import torch

from backbench import version
from backbench.cache import schema
from backbench.extract import plan
from backbench.extract import versions as made
from backbench.extract.engine import Engine
from backbench.extract.versions import versions
from tests.conftest import ROOT
from tests.test_extract_run import extract, images  # noqa: F401


def test_all_that_decides_pixels_and_features_is_told():
    told = versions(torch.device("cpu"))
    libraries = {"timm", "torch", "torchvision", "Pillow", "libjpeg-turbo", "simplejpeg"}
    assert set(told) == {"backbench", "code", *libraries, "device"}
    assert told["Pillow"] == PIL.__version__
    assert told["torch"] == torch.__version__
    assert told["backbench"] == version()
    assert told["device"] == "cpu"
    assert "device" not in versions()


def test_the_code_is_known_by_what_is_in_it(tmp_path, monkeypatch):
    for name in made.DECIDING:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
        assert (ROOT / name).exists()
    monkeypatch.setattr(made, "__file__", str(tmp_path / "extract" / "versions.py"))
    first = made.code.__wrapped__()
    (tmp_path / "extract" / "cli.py").write_text("a command line decides no feature")
    (tmp_path / "README.md").write_text("nor do words")
    assert made.code.__wrapped__() == first
    (tmp_path / "data" / "listing.py").write_text("nor does a listing")
    assert made.code.__wrapped__() == first
    (tmp_path / "data" / "decode.py").write_text("another way to decode")
    assert made.code.__wrapped__() != first


@pytest.mark.parametrize(
    ("name", "value", "refused"),
    [("Pillow", "9.0", True), ("device", "cuda", True), ("code", "0" * 12, True), ("backbench", "0.1.0+gabc", False)],
)
def test_an_unfinished_file_goes_on_with_what_it_was_begun_with(extract, images, monkeypatch, name, value, refused):  # noqa: F811
    """A finished one answers whatever it was made with. A commit alone is no reason to refuse, for the code is told."""
    broken = images / "cat" / "11.png"
    content = broken.read_bytes()
    size = len(content)
    with monkeypatch.context() as patch:
        patch.setattr(plan, "versions", lambda device: versions(device) | {name: value})
        broken.write_bytes(bytes(size))
        assert "can't be read" in extract("--precision", "float32", code=1).output
    broken.write_bytes(content)
    said = extract("--precision", "float32", code=1 if refused else 0).output
    assert (f"versions.{name}: the file has '{value}'" in said) is refused
    with monkeypatch.context() as patch:
        patch.setattr(plan, "versions", lambda device: versions(device) | {name: value})
        extract("--precision", "float32")
    assert "already complete" in extract("--precision", "float32").output


def test_a_version_that_is_not_asked_for_is_no_difference():
    file = {"versions": {"torch": "2.0", "device": "cuda"}}
    assert schema.differences({"versions": {"torch": "2.0"}}, file, versions=True) == []
    assert schema.differences({"versions": {"torch": "2.0", "Pillow": "9"}}, file, versions=True) == [
        "versions.Pillow: the file has None, this run '9'"
    ]


def test_float32_on_cuda_is_float32():
    """As far as can be seen without a GPU: TF32 is off while the model runs, and as it was afterwards."""
    seen = []

    class Model(torch.nn.Module):
        def forward(self, x):
            seen.append((torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32))
            return x

    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    Engine(Model(), torch.device("cuda"), "float32")(torch.zeros(2, 3))
    assert seen == [(False, False)]
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == before
