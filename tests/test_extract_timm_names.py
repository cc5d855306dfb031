"""Names of models: timm's, known without importing it, its old ones, and typos told at once."""

import subprocess
import sys

import pytest
import timm
from timm.models import get_deprecated_models

from backbench import UsageError
from backbench.extract import backbones, names, timm_names
from tests.conftest import ROOT

LOADED = """
import sys
from click.testing import CliRunner
from backbench.{module} import main
result = CliRunner().invoke(main, sys.argv[1:])
print(result.exit_code, *(name for name in ("torch", "timm", "accelerate") if name in sys.modules))
print(result.output)
"""


def loaded(module, *args, cwd) -> tuple[str, str]:
    """The exit code and the heavy packages that a command has imported, and its output."""
    line = [sys.executable, "-c", LOADED.format(module=module), *map(str, args)]
    first, _, rest = subprocess.run(line, cwd=cwd, capture_output=True, text=True, check=True).stdout.partition("\n")
    return first, rest


def todays() -> dict[str, str]:
    """timm's own map of old names, but for the tag that it doesn't have: 1.0.31 says sam for sam_in1k."""
    found = {name: now or "" for name, now in get_deprecated_models().items()}
    for size in (16, 32):
        assert f"vit_base_patch{size}_224.sam" not in timm.list_pretrained()
        found[f"vit_base_patch{size}_224_sam"] = f"vit_base_patch{size}_224.sam_in1k"
    return found


def test_the_names_in_timms_sources_are_those_that_it_registers():
    """Of the installed timm, whichever it is: every architecture, every old name, and no valid tag is unknown."""
    read = timm_names.read()
    # Other tests of this process may have registered networks of our own.
    own = {name for name in timm.list_models() if not timm.models.model_entrypoint(name).__module__.startswith("timm.")}
    assert sorted(read.models) == sorted({*timm.list_models()} - own)
    assert read.old == todays()
    assert len(read.old) > 200
    for name in timm.list_pretrained():
        architecture, _, tag = name.partition(".")
        assert not tag or tag in read.tags.get(architecture, [tag]), name
    assert sum(map(len, read.tags.values())) > 1500


def test_sources_that_are_not_understood_make_timm_say_its_names(monkeypatch, tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "one.py").write_text(
        "@register_model\ndef one(): ...\n\n@register_model\nasync def two(): ...\n"
    )
    monkeypatch.setattr(timm_names, "find_spec", lambda _: type("", (), {"submodule_search_locations": [tmp_path]}))
    read = timm_names.read.__wrapped__()
    assert read.models == timm.list_models()
    assert read.old["ssl_resnet18"] == "resnet18.fb_ssl_yfcc100m_ft_in1k"


def test_every_old_name_of_timms_is_taken_for_todays(capsys):
    old = todays()
    assert names.resolve(list(old)) == list(dict.fromkeys(old.values()))
    assert all(timm.models.is_model_pretrained(now) for now in old.values())
    said = capsys.readouterr().err.splitlines()
    assert "vit_base_patch16_224_in21k is now vit_base_patch16_224.augreg_in21k, which is taken." in said
    assert len(said) == len(old)
    with pytest.raises(UsageError, match=r"in timm, ssl_resnet18 is now resnet18\.fb_ssl_yfcc100m_ft_in1k"):
        names.resolve(["ssl_resnet18.a1_in1k"])


def test_an_old_name_is_a_backbone_with_the_identity_of_the_new_one():
    old, new = (
        backbones.create(name, weights="random") for name in ("ssl_resnet18", "resnet18.fb_ssl_yfcc100m_ft_in1k")
    )
    assert old.architecture == new.architecture == "resnet18.fb_ssl_yfcc100m_ft_in1k"
    assert (old.weights_sha256, old.config) == (new.weights_sha256, new.config)


def test_one_spelling_of_a_place():
    asked = ["hf_hub:a/b", "HF-HUB:a/b", "hf-hub:a/b", "local-dir:./tests/", "local-dir:tests"]
    assert names.spelled(asked) == ["hf-hub:a/b", "local-dir:tests"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("someone/theirs", "Did you mean hf-hub:someone/theirs?"),
        ("tests/", "Did you mean local-dir:tests/?"),
        ("local-dir:tests/nowhere", "there is no such folder"),
        ("local-dir:tests", "the folder has no config.json"),
        ("hf-hub:a/b/c", "as in hf-hub:OWNER/NAME"),
        ("mobilenetv2", "Did you mean mobilenetv2_100?"),
        ("convnext_bas", "Did you mean convnext_base"),
        ("resnet18.a1_in1", "resnet18 has no weights tagged 'a1_in1'. timm has: a1_in1k"),
    ],
)
def test_what_is_said_of_a_name(name, said, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UsageError, match=said.replace("?", r"\?")):
        names.resolve([name])


TYPOS = ("--model", "test_resnt", "--model", "test_vit", "--model", "resnet18.nope", "--dataset", "digit")


@pytest.mark.parametrize(
    ("module", "command"), [("extract.cli", ()), ("finetune.cli", ("simple",)), ("finetune.cli", ("full",))]
)
def test_typos_of_all_kinds_are_told_together_before_torch_is_imported(tmp_path, module, command):
    first, rest = loaded(module, *command, *TYPOS, "--weights", "w.pth", "--download", cwd=tmp_path)
    assert first == "2"  # and no torch, timm or accelerate
    for said in (
        "unknown model 'test_resnt'. Did you mean test_resnet",
        "no weights tagged 'nope'",
        "Did you mean digits?",
    ):
        assert said in rest
    assert "--weights w.pth: there is no such file." in rest
    assert not [*tmp_path.iterdir()]


def test_what_generalize_does_not_find_is_told_before_torch_is_imported(tmp_path):
    first, rest = loaded("generalize.cli", "--dataset", "digit", "--corruption", "blur", cwd=tmp_path)
    assert first == "2"
    assert "Did you mean digits?" in rest


def test_a_typo_in_python_imports_no_torch():
    code = """
import sys, backbench as bb
from PIL import Image
try:
    bb.extract("test_resnt", [Image.new("RGB", (9, 9))])
except bb.UsageError:
    print("torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
