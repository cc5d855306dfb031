"""Images handed over in a list are read as they would be from files."""

import numpy as np
import pytest
from PIL import Image

from backbench import UserError
from backbench.data.given import images


def given(*some, exif="ignore"):
    n = len(some)
    told = {"ids": [f"{i}" for i in range(n)], "labels": np.zeros(n, int), "split": np.full(n, 2), "class_names": ["a"]}
    return images(some, **told, exif=exif)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I", "I;16", "F", "LAB"])
def test_every_mode_keeps_its_pixels(mode):
    grey = np.random.default_rng(0).integers(0, 256, (9, 7), dtype=np.uint8)
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 257)
    elif mode == "LAB":
        image = Image.frombytes("LAB", (7, 9), np.random.default_rng(0).bytes(189))
    else:
        image = Image.fromarray(grey).convert("RGB").convert(mode)
    found = np.asarray(given(image).read(0)).astype(int)
    assert found.shape == (9, 7, 3)
    expected = {"I;16": Image.fromarray(grey)}.get(mode, image)
    if mode not in ("F", "I", "LA", "RGBA"):
        assert np.abs(found - np.asarray(expected.convert("RGB")).astype(int)).max() <= 2
    if mode in ("LA", "RGBA"):  # opaque
        assert np.abs(found - grey[..., None]).max() == 0


def test_transparency_is_laid_on_white_and_orientation_applied_where_it_is_asked_for():
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    assert np.asarray(given(clear).read(0)).min() == 255
    turned = Image.new("RGB", (8, 4))
    turned.getexif()[0x0112] = 6
    assert given(turned).read(0).size == (8, 4)
    assert given(turned, exif="apply").read(0).size == (4, 8)


def test_the_digest_is_of_what_is_seen(tmp_path):
    black, white = Image.new("RGB", (4, 4)), Image.new("RGB", (4, 4), "white")
    assert given(black).images_digest == given(black.copy()).images_digest != given(white).images_digest
    of_colours = [Image.new("P", (4, 4)) for _ in range(2)]
    for image, palette in zip(of_colours, ([0, 0, 0], [255, 0, 0]), strict=True):
        image.putpalette(palette)
    assert given(of_colours[0]).images_digest != given(of_colours[1]).images_digest
    black.save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes())
    assert given(tmp_path / "a.png").images_digest == given(str(tmp_path / "b.png")).images_digest


def test_what_is_no_image_is_named():
    with pytest.raises(UserError, match=r"0 is a ndarray: a PIL image or the path of one is expected"):
        given(np.zeros((3, 3)))
    with pytest.raises(UserError, match=r"nowhere\.png is no file"):
        given("nowhere.png")
    with pytest.raises(UserError, match="exif='turn'"):
        given(Image.new("RGB", (4, 4)), exif="turn")
