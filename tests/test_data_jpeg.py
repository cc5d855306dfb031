"""Plain JPEG files by libjpeg-turbo itself: PIL's pixels to the bit. Everything unusual is left to PIL."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from backbench.data import decode, jpeg


def encoded(image, **options):
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def picture(width, height, mode="RGB"):
    noise = np.random.default_rng(0).integers(0, 256, (max(1, height // 5), max(1, width // 5), 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height)).convert(mode)


def pils(content):
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    quality=st.integers(5, 100),
    subsampling=st.sampled_from(["4:4:4", "4:2:2", "4:2:0"]),
    progressive=st.booleans(),
    mode=st.sampled_from(["RGB", "L"]),
)
def test_the_pixels_are_pils(width, height, quality, subsampling, progressive, mode):
    options = {"subsampling": subsampling} if mode == "RGB" else {}
    content = encoded(picture(width, height, mode), quality=quality, progressive=progressive, **options)
    assert np.array_equal(jpeg.decode(content, exif="ignore"), pils(content))


def test_the_pixels_of_real_photos_are_pils(shared_data):
    for path in sorted((shared_data / "caltech101").rglob("*.jpg"))[::40]:
        content = path.read_bytes()
        found = jpeg.decode(content, exif="ignore")
        assert found is None or np.array_equal(found, pils(content)), path


def test_colours_kept_as_red_green_and_blue(tmp_path):
    content = encoded(picture(40, 30), keep_rgb=True)
    assert np.array_equal(jpeg.decode(content, exif="ignore"), pils(content))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xd8\xff",
        encoded(picture(40, 30, "CMYK")),
        encoded(picture(40, 30))[:-200],
        encoded(picture(40, 30))[:-2],
        encoded(picture(40, 30))[:100] + b"\0" * 600,
        b"\x89PNG\r\n\x1a\n" + encoded(picture(40, 30)),
    ],
    ids=["empty", "start", "cmyk", "short", "no end", "damaged", "other"],
)
def test_what_is_unusual_is_left_to_pil(content):
    assert jpeg.decode(content, exif="ignore") is None


def test_a_damaged_file_has_pils_pixels_or_pils_reason():
    whole = encoded(picture(40, 30))
    assert np.array_equal(decode.pixels(whole[:-2], id="a"), np.asarray(decode.read(whole[:-2], id="a")))
    with pytest.raises(decode.UnreadableImage, match="truncated"):
        decode.pixels(whole[:-200], id="a")


def test_a_huge_image_is_refused_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(decode.UnreadableImage, match="more than PIL's limit of 1,000"):
        decode.pixels(encoded(picture(40, 30)), id="a")


def test_a_turned_photo_is_turned_on_demand():
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded(picture(40, 30), exif=exif)
    assert decode.pixels(content, id="a").shape == (30, 40, 3)
    assert decode.pixels(content, id="a", exif="apply").shape == (40, 30, 3)
    assert jpeg.decode(content, exif="apply") is None
