"""The ten digits of the demo's last command: they are new, and made as docs/new_digits.py says."""

import importlib.util
import zipfile

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from backbench.data import registry
from tests.conftest import ROOT

FOLDER = ROOT / "docs" / "new-digits"


def script():
    spec = importlib.util.spec_from_file_location("new_digits", ROOT / "docs" / "new_digits.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_there_is_one_of_each_and_none_is_in_the_set(tmp_path):
    known = {pixels.tobytes() for pixels in registry.load("digits", data_root=tmp_path).pixels}
    files = sorted(path.name for path in FOLDER.iterdir())
    assert files == [f"{digit}.png" for digit in range(10)]
    for name in files:
        image = Image.open(FOLDER / name)
        assert (image.size, image.mode) == ((8, 8), "L")
        assert np.asarray(image.convert("RGB")).tobytes() not in known
        assert np.asarray(image).max() == 255  # the set's scale: 16 is white
        assert (FOLDER / name).stat().st_size < 200


def test_the_first_of_each_class_that_is_new_is_taken(tmp_path):
    bunch = load_digits()
    known = [[*levels, digit] for levels, digit in zip(bunch.data.astype(int), bunch.target, strict=True)]
    new = [[digit] * 63 + [shade, digit] for shade in (16, 15) for digit in range(10)]
    lines = ["@relation optdigits", "@data", *(",".join(map(str, row)) for row in known[:50] + new)]
    with zipfile.ZipFile(tmp_path / "keel.whl", "w") as wheel:
        wheel.writestr(script().TABLE, "\n".join(lines))
    made = script().new_digits(tmp_path / "keel.whl")
    for digit, image in enumerate(made):
        assert (image.shape, image.dtype) == ((8, 8), np.uint8)
        assert (image[0, 0], image[7, 7]) == ((digit * 255 + 8) // 16, 255)
