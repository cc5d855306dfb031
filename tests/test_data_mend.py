"""Damage beside the pixels is passed over, damage to the pixels isn't."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from backbench.data import decode

PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((50, 40))
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
TURNED = Image.Exif()
TURNED[0x0112] = 6

JPEGS = {
    "baseline": {},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 3},
    "progressive restarts": {"progressive": True, "restart_marker_blocks": 4},
    "fine": {"subsampling": 0, "quality": 95},
}


def encoded(form, image=PHOTO, **options):
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def pixels(content, **options):
    return np.asarray(decode.read(content, id="x", **options))


def chunk(kind, data, *, wrong=0):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data) ^ wrong)


def png_with(more, *, before=b"IDAT", **options):
    content = encoded("PNG", **options)
    at = content.index(before) - 4
    return content[:at] + more + content[at:]


@pytest.mark.parametrize("before", [b"IDAT", b"IEND"])
@pytest.mark.parametrize(
    "more",
    [
        chunk(b"zTXt", b"mxfile\0\0" + zlib.compress(b"<mxGraphModel/>" * 100_000)),
        chunk(b"iTXt", b"x\0\1\0\0\0" + zlib.compress(bytes(2_000_000))),
        chunk(b"iCCP", b"icc\0\0" + zlib.compress(bytes(2_000_000))),
        chunk(b"pHYs", bytes(9), wrong=1),
        chunk(b"tEXt", b"a\0b", wrong=1),
        chunk(b"eXIf", b"MM\0*", wrong=1),
    ],
    ids=["zTXt", "iTXt", "iCCP", "pHYs", "tEXt", "eXIf"],
)
def test_side_chunks_of_a_png(more, before):
    content = png_with(more, before=before)
    assert np.array_equal(pixels(content), np.asarray(PHOTO))
    assert decode.header(content, id="x") == (50, 40, "RGB")


def test_a_mended_png_keeps_its_transparency_and_its_orientation():
    bad = chunk(b"pHYs", bytes(9), wrong=1)
    palette = PHOTO.convert("P")
    clear = png_with(bad, image=palette, transparency=palette.getpixel((0, 0)))
    assert pixels(clear)[0, 0].tolist() == [255, 255, 255]
    assert np.array_equal(pixels(png_with(bad, exif=TURNED), exif="apply"), np.rot90(np.asarray(PHOTO), -1))


@pytest.mark.parametrize("kind", [b"IHDR", b"IDAT", b"PLTE", b"tRNS"])
def test_a_wrong_checksum_of_what_decides_pixels_is_refused(kind):
    palette = PHOTO.convert("P")
    content = bytearray(encoded("PNG", image=palette, transparency=0))
    at = content.index(kind)
    length = int.from_bytes(content[at - 4 : at], "big")
    content[at + 4 + (length if kind != b"IDAT" else 20)] ^= 1  # Pillow passes over the checksum of IDAT
    with pytest.raises(decode.UnreadableImage, match=r"broken|truncated|checksum"):
        decode.read(bytes(content), id="x")


@pytest.mark.parametrize("options", JPEGS.values(), ids=JPEGS)
def test_a_jpeg_without_its_end_marker_is_read_and_a_cut_one_refused(options):
    content = encoded("JPEG", **options)
    whole = pixels(content)
    for lost in (1, 2):
        assert np.array_equal(pixels(content[:-lost]), whole)
    for lost in [*range(3, 40), *range(40, len(content), 97)]:
        with pytest.raises(decode.UnreadableImage):
            decode.read(content[:-lost], id="x")


def test_a_progressive_jpeg_that_lacks_whole_scans_is_refused():
    content = encoded("JPEG", progressive=True)
    scans = [at for at in range(len(content)) if content[at : at + 2] == b"\xff\xda"]
    assert len(scans) > 3
    for at in scans[1:]:
        tables = content.rindex(b"\xff\xc4", 0, at) if b"\xff\xc4" in content[scans[0] : at] else at
        for cut in (at, tables):
            with pytest.raises(decode.UnreadableImage):
                decode.read(content[:cut], id="x")


def test_the_orientation_of_a_jpeg_without_its_end_marker():
    content = encoded("JPEG", exif=TURNED, icc_profile=PROFILE, comment=b"holiday")
    assert np.array_equal(pixels(content[:-2], exif="apply"), pixels(content, exif="apply"))
    assert pixels(content[:-2], exif="apply").shape == (50, 40, 3)


def test_what_follows_the_frames_of_a_webp():
    content = encoded("WEBP", lossless=True, icc_profile=PROFILE, xmp=b"<x/>" * 30)
    assert content.index(b"XMP ") > content.index(b"VP8L")
    assert np.array_equal(pixels(content[:-50]), np.asarray(PHOTO))
    cut = content[: content.index(b"XMP ") - 20]
    with pytest.raises(decode.UnreadableImage):
        decode.read(cut, id="x")


@pytest.mark.parametrize("form", ["GIF", "PNG"])
def test_a_missing_end_of_other_formats(form):
    content = encoded(form)
    end = -1 if form == "GIF" else content.index(b"IEND") - 4
    assert np.array_equal(pixels(content[:end]), pixels(content))


@pytest.mark.parametrize("form", ["BMP", "PPM"])
def test_formats_without_anything_beside_their_pixels(form):
    with pytest.raises(decode.UnreadableImage, match="truncated"):
        decode.read(encoded(form)[:-3], id="x")


def test_a_file_larger_than_is_mended(monkeypatch):
    monkeypatch.setattr("backbench.data.mend.LARGEST", 100)
    with pytest.raises(decode.UnreadableImage, match="truncated"):
        decode.read(encoded("JPEG")[:-2], id="x")
