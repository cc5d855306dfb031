"""Every kind of picture file as the RGB a person sees, and every damaged one as one named fault."""

import contextlib
import io
import pickle
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from backbench import UserError
from backbench.data import decode

RNG = np.random.default_rng(0)
PHOTO = Image.fromarray(RNG.integers(0, 256, (24, 31, 3), dtype=np.uint8))
RAMP = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)  # 16 bits: 0, 257, ... 65535
RAMP_8 = np.arange(256, dtype=np.uint8).reshape(16, 16)  # the same in 8 bits: a multiple of 257 is v / 257 exactly


def saved(tmp_path, image, name, **options):
    path = tmp_path / name
    image.save(path, **options)
    return path


def pixels(path, **options):
    image = decode.read(path, id="x", **options)
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize(
    ("mode", "name", "options"),
    [
        ("RGB", "a.jpg", {}),
        ("RGB", "a.jpg", {"progressive": True, "quality": 60}),
        ("L", "a.jpg", {}),
        ("CMYK", "a.jpg", {}),
        ("RGB", "a.png", {}),
        ("L", "a.png", {}),
        ("1", "a.png", {}),
        ("P", "a.png", {}),
        ("P", "a.gif", {}),
        ("RGB", "a.bmp", {}),
        ("RGB", "a.webp", {}),
        ("RGB", "a.tif", {"compression": "tiff_lzw"}),
        ("CMYK", "a.tif", {}),
        ("1", "a.tif", {"compression": "group4"}),
        ("RGB", "a.ppm", {}),
        ("L", "a.pgm", {}),
    ],
)
def test_plain_files_equal_pils_convert(tmp_path, mode, name, options):
    path = saved(tmp_path, PHOTO.convert(mode), name, **options)
    with Image.open(path) as image:
        assert np.array_equal(pixels(path), np.asarray(image.convert("RGB")))


def test_grey_has_three_equal_channels(tmp_path):
    got = pixels(saved(tmp_path, Image.fromarray(RAMP_8), "a.png"))
    assert np.array_equal(got, np.repeat(RAMP_8[..., None], 3, axis=2))


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path, name):
    assert np.array_equal(pixels(saved(tmp_path, Image.fromarray(RAMP), name))[..., 0], RAMP_8)


def test_big_endian_16_bit_tiff(tmp_path):
    path = saved(tmp_path, Image.frombytes("I;16B", (16, 16), RAMP.astype(">u2").tobytes()), "a.tif")
    assert np.array_equal(pixels(path)[..., 0], RAMP_8)


def test_32_bit_integers(tmp_path):
    in_16_bits = saved(tmp_path, Image.fromarray(RAMP.astype(np.int32)), "a.tif")
    assert np.array_equal(pixels(in_16_bits)[..., 0], RAMP_8)
    beyond = saved(tmp_path, Image.fromarray(np.array([[-1000, 0, 1_000_000]], np.int32)), "b.tif")
    assert pixels(beyond)[0, :, 0].tolist() == [0, 0, 255]  # stretched: 1000/1001000 * 255 = 0.25


@pytest.mark.parametrize("top", [1.0, 255.0, 65535.0])
def test_float_tiff(tmp_path, top):
    path = saved(tmp_path, Image.fromarray((RAMP_8 / 255 * top).astype(np.float32)), "a.tif")
    assert np.array_equal(pixels(path)[..., 0], RAMP_8)


def test_float_tiff_out_of_range_or_not_finite(tmp_path):
    values = np.array([[-1.0, 0.0, 1.0, np.nan]], np.float32)  # -1..1 fits no range: stretched; nan counts as 0
    assert pixels(saved(tmp_path, Image.fromarray(values), "a.tif"))[0, :, 0].tolist() == [0, 128, 255, 128]
    flat = np.full((2, 2), -3.0, np.float32)
    assert (pixels(saved(tmp_path, Image.fromarray(flat), "b.tif")) == 0).all()


def test_transparency_is_laid_on_white(tmp_path):
    # One row: opaque red, half transparent black, fully transparent black.
    rgba = np.array([[[255, 0, 0, 255], [0, 0, 0, 128], [0, 0, 0, 0]]], np.uint8)
    got = pixels(saved(tmp_path, Image.fromarray(rgba), "a.png"))
    assert got.tolist() == [[[255, 0, 0], [127, 127, 127], [255, 255, 255]]]


def test_grey_with_alpha(tmp_path):
    grey_alpha = Image.merge("LA", [Image.fromarray(np.array([[10, 10]], np.uint8)) for _ in range(2)])
    grey_alpha.putalpha(Image.fromarray(np.array([[255, 0]], np.uint8)))
    assert pixels(saved(tmp_path, grey_alpha, "a.png")).tolist() == [[[10, 10, 10], [255, 255, 255]]]


@pytest.mark.parametrize("name", ["a.png", "a.gif"])
def test_transparent_palette_entry(tmp_path, name):
    image = Image.fromarray(np.array([[0, 1]], np.uint8), mode=None).convert("P")
    image.putpalette([0, 0, 0, 0, 0, 200])
    path = saved(tmp_path, image, name, transparency=0)
    assert pixels(path).tolist() == [[[255, 255, 255], [0, 0, 200]]]


def test_transparent_grey_level_and_colour(tmp_path):
    grey = saved(tmp_path, Image.fromarray(np.array([[7, 8]], np.uint8)), "a.png", transparency=7)
    assert pixels(grey)[0, :, 0].tolist() == [255, 8]
    colour = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    assert pixels(saved(tmp_path, colour, "b.png", transparency=(1, 2, 3))).tolist() == [[[255] * 3, [4, 5, 6]]]


def test_opaque_rgba_keeps_every_value(tmp_path):
    path = saved(tmp_path, PHOTO.convert("RGBA"), "a.png")
    assert np.array_equal(pixels(path), np.asarray(PHOTO))


def test_exif_orientation_is_ignored_unless_asked(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held turned: show it 90 degrees clockwise
    path = saved(tmp_path, PHOTO, "a.png", exif=exif)
    assert np.array_equal(pixels(path), np.asarray(PHOTO))
    assert np.array_equal(pixels(path, exif="apply"), np.rot90(np.asarray(PHOTO), -1))
    upright = saved(tmp_path, PHOTO, "b.png")
    assert np.array_equal(pixels(upright, exif="apply"), np.asarray(PHOTO))


def test_animation_gives_its_first_frame(tmp_path):
    red, blue = (Image.new("RGB", (4, 4), colour) for colour in ("red", "blue"))
    path = saved(tmp_path, red, "a.gif", save_all=True, append_images=[blue])
    assert pixels(path)[0, 0].tolist() == [255, 0, 0]


def test_content_counts_not_the_ending(tmp_path):
    path = saved(tmp_path, PHOTO, "a.png")
    assert np.array_equal(pixels(path.rename(tmp_path / "a.jpg")), np.asarray(PHOTO))


def test_huge_pictures_are_read_without_a_warning_and_bombs_named(tmp_path, monkeypatch):
    path = saved(tmp_path, PHOTO, "a.png")  # 744 pixels
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pixels(path).shape == (24, 31, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    with pytest.raises(decode.UnreadableImage, match="31 x 24 pixels, more than PIL's limit of 600"):
        decode.read(path, id="x")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert pixels(path).shape == (24, 31, 3)


def test_a_real_bomb(tmp_path):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    path = tmp_path / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    with pytest.raises(decode.UnreadableImage, match="60000 x 60000"):
        decode.read(path, id="x")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"not a picture", "it is not an image in a known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "it is not an image in a known format"),
        (b"\xff\xd8\xff\xe0", ""),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, ""),
    ],
)
def test_damaged_files_are_named(tmp_path, content, reason):
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    for look in (decode.read, decode.header):
        with pytest.raises(decode.UnreadableImage) as caught:
            look(path, id="cats/1.jpg")
        assert caught.value.id == "cats/1.jpg"
        assert reason in caught.value.reason
        assert str(tmp_path) not in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(decode.UnreadableImage, match=r"cats/1.jpg: No such file") as caught:
        decode.read(tmp_path / "gone.jpg", id="cats/1.jpg")
    assert isinstance(caught.value, UserError)


def test_truncated_jpeg(tmp_path):
    path = saved(tmp_path, PHOTO, "a.jpg")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(decode.UnreadableImage, match="truncated"):
        decode.read(path, id="x")


def test_the_fault_survives_a_worker_process():
    fault = pickle.loads(pickle.dumps(decode.UnreadableImage("a/1.jpg", "broken")))  # noqa: S301
    assert (fault.id, fault.reason, str(fault)) == ("a/1.jpg", "broken", "a/1.jpg: broken")


def encoded(form, **options):
    stream = io.BytesIO()
    PHOTO.save(stream, form, **options)
    return stream.getvalue()


FILES = [encoded(form) for form in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM")]
FILES += [encoded("TIFF", compression="tiff_deflate"), encoded("JPEG", progressive=True)]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(FILES), st.data())
def test_no_damage_escapes_as_another_exception(tmp_path, content, data):
    damaged = bytearray(content[: data.draw(st.integers(0, len(content)))])
    for at in data.draw(st.lists(st.integers(0, 300), max_size=4)):
        if at < len(damaged):
            damaged[at] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged"
    path.write_bytes(damaged)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.suppress(decode.UnreadableImage):
            assert decode.read(path, id="x", exif="apply").mode == "RGB"


def test_threads(tmp_path):
    paths = [saved(tmp_path, PHOTO.rotate(i), f"{i}.png") for i in range(8)]
    expected = [pixels(path) for path in paths]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            assert all(map(np.array_equal, pool.map(pixels, paths), expected))


def test_header_reads_size_and_mode(tmp_path):
    assert decode.header(saved(tmp_path, PHOTO.convert("L"), "a.jpg"), id="x") == (31, 24, "L")


def test_heic_names_what_it_needs(tmp_path, monkeypatch):
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    for brand in (b"heic", b"heix", b"mif1"):
        path = tmp_path / "a.heic"
        path.write_bytes(b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0mif1heic" + bytes(64))
        for look in (decode.read, decode.header):
            with pytest.raises(decode.UnreadableImage, match="pip install pillow-heif"):
                look(path, id="x")


def test_heic_is_read_where_pillow_heif_is_installed(tmp_path):
    pytest.importorskip("pillow_heif").register_heif_opener()
    path = saved(tmp_path, PHOTO.resize((310, 240)), "a.heic", quality=100)
    got = pixels(path.rename(tmp_path / "a.jpg"))
    assert got.shape == (240, 310, 3)
    assert np.abs(got.astype(int) - np.asarray(PHOTO.resize((310, 240)))).mean() < 6


def test_too_little_memory_is_called_that(tmp_path, monkeypatch):
    def full(*_):
        raise MemoryError

    path = saved(tmp_path, PHOTO, "a.png")
    monkeypatch.setattr(decode, "_rgb", full)
    with pytest.raises(decode.UnreadableImage, match="there is too little memory to decode it"):
        decode.read(path, id="x")
