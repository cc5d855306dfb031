"""Grey levels of more than 8 bits are read in one range by all images of a data set."""

import io
import json
import struct
import tarfile
import zlib

import numpy as np
import pytest
from PIL import Image

from backbench.data import decode, given, levels, mend, registry

RAMP = np.linspace(0, 1, 256).reshape(16, 16)
RAMP_8 = np.arange(256, dtype=np.uint8).reshape(16, 16)


def tiff(grey, *, order="<", white=1, dtype="u2") -> bytes:
    """An uncompressed grey TIFF, written by hand; ``white`` 0 is WhiteIsZero."""
    pixels = np.asarray(grey).astype(order + dtype)
    height, width = pixels.shape
    form = {"u": 1, "i": 2, "f": 3}[dtype[0]]
    tags = [(256, width), (257, height), (258, 8 * pixels.itemsize), (259, 1), (262, white), (273, 8), (277, 1)]
    tags += [(278, height), (279, pixels.nbytes), (339, form)]
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags)
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", 8 + pixels.nbytes)
    return head + pixels.tobytes() + struct.pack(f"{order}H", len(tags)) + entries + bytes(4)


def encoded(form, grey) -> bytes:
    file = io.BytesIO()
    Image.fromarray(grey).save(file, form)
    return file.getvalue()


def load(folder, files, ending="tif"):
    """The data set of ``files``, in turn, eight in each of two classes."""
    for name in ("ant", "bee"):
        (folder / name).mkdir(parents=True)
        for i in range(8):
            (folder / name / f"{i}.{ending}").write_bytes(files[i % len(files)])
    return registry.load(f"folder:{folder}", data_root=folder)


def first(imageset, i=0):
    return np.asarray(imageset.read(i))[..., 0]


@pytest.mark.parametrize("top", [1 + 3e-7, 1.02, 1.09])
def test_floats_that_overshoot_in_some_images(tmp_path, top):
    sets = load(tmp_path / "a", [tiff(RAMP, dtype="f4"), tiff(RAMP * top, dtype="f4")])
    assert sets.levels == {"floats": [0, 1]}
    assert np.array_equal(first(sets), RAMP_8)
    assert first(sets, 1).max() == 255
    assert abs(first(sets, 1).astype(int) - RAMP_8 * top).max() <= 255 * (top - 1) + 1
    assert sets.notes[1:] == ("Floating-point grey levels are read as 0 to 1 in all images.",)


def test_a_dark_image_of_a_set_of_0_to_255_stays_dark(tmp_path):
    dark = load(tmp_path / "a", [tiff(RAMP * 255, dtype="f4"), tiff(RAMP * 0.9, dtype="f4")])
    assert dark.levels == {"floats": [0, 255]}
    assert first(dark, 1).max() == 1
    assert np.array_equal(first(dark), RAMP_8)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 15, 16])
@pytest.mark.parametrize("form", ["TIFF", "PNG", "PPM", "JPEG2000"])
def test_few_bits_in_files_of_16(tmp_path, form, bits):
    grey = np.rint(RAMP * (2**bits - 1)).astype(np.uint16)
    ending = {"TIFF": "tif", "PNG": "png", "PPM": "pgm", "JPEG2000": "jp2"}[form]
    if ending == "jp2":  # a listing doesn't know this ending
        few = given.images(
            [Image.open(io.BytesIO(encoded(form, grey)))],
            ids=["a"],
            labels=[0],
            split=[2],
            class_names=["a"],
            exif="ignore",
        )
    else:
        few = load(tmp_path / "a", [encoded(form, grey), encoded(form, grey // 4)], ending)
        assert np.abs(first(few, 1).astype(int) - RAMP_8 / 4).max() <= 1
    assert few.levels == {"integers": [0, 2**bits - 1]}
    assert np.array_equal(first(few), RAMP_8)


def test_white_is_zero(tmp_path):
    grey = np.rint((1 - RAMP) * 4095)
    negative = load(tmp_path / "a", [tiff(grey, white=0)])
    assert np.array_equal(first(negative), RAMP_8)
    assert np.array_equal(
        np.asarray(decode.read(tiff((255 - RAMP_8.astype(int)) * 257, white=0), id="x"))[..., 0], RAMP_8
    )


@pytest.mark.parametrize("order", "<>")
def test_signed_16_bits(tmp_path, order):
    signed = load(tmp_path / "a", [tiff(np.rint(RAMP * 32767), dtype="i2", order=order)])
    assert signed.levels == {"integers": [0, 32767]}
    assert np.array_equal(first(signed), RAMP_8)


def test_unsigned_32_bits(tmp_path):
    unsigned = load(tmp_path / "a", [tiff(RAMP_8.astype(np.int64) * 0x01010101, dtype="u4")])
    assert unsigned.levels == {"integers": [0, 2**32 - 1]}
    assert np.array_equal(first(unsigned), RAMP_8)
    alone = tiff([[0, 2**31, 2**32 - 1]], dtype="u4")  # without a set: stretched from its least to its largest
    assert np.asarray(decode.read(alone, id="x"))[0, :, 0].tolist() == [0, 128, 255]


def test_unusual_levels_are_stretched_by_the_set(tmp_path):
    """Hounsfield units: -1024 becomes 0 in all images, and 3071 white."""
    units = load(tmp_path / "a", [tiff([[-1024, 0, 1000]], dtype="i2"), tiff([[0, 1023, 3071]], dtype="i2")])
    assert units.levels == {"integers": [-1024, 3071]}
    # (0 + 1024) / 4095 * 255 = 63.77, (1000 + 1024) / 4095 * 255 = 126.04, (1023 + 1024) / 4095 * 255 = 127.47
    assert [first(units, i)[0].tolist() for i in (0, 1)] == [[0, 64, 126], [64, 127, 255]]


@pytest.mark.parametrize(
    ("kind", "low", "high", "found"),
    [
        ("floats", -0.05, 1.08, [0, 1]),
        ("floats", -0.2, 1.0, [-0.2, 1.0]),
        ("floats", 0.0, 1.2, [0.0, 1.2]),  # of 0..255 it would fill too little
        ("floats", 290.0, 310.0, [290.0, 310.0]),  # kelvin
        ("floats", 0.0, 0.1, [0.0, 0.1]),
        ("floats", 0.0, 0.0, [0.0, 1.0]),
        ("integers", 0, 4096, [0, 4095]),
        ("integers", 0, 4097, [0, 16383]),
        ("integers", 0, 20, [0, 20]),
        ("integers", 7000, 9000, [7000, 9000]),
        ("integers", 7, 7, [7, 8]),
        ("integers", -1, 4095, [0, 4095]),
    ],
)
def test_the_range_is_the_smallest_usual_one(kind, low, high, found):
    assert levels.span(kind, low, high) == found


def test_8_bits_have_no_levels(tmp_path):
    for name, form in (("png", "PNG"), ("tif", "TIFF"), ("pgm", "PPM")):
        plain = load(tmp_path / name, [encoded(form, RAMP_8)], name)
        assert (plain.levels, plain.notes[1:]) == (None, ())
        assert np.array_equal(first(plain), RAMP_8)


def test_no_jpeg_is_opened(tmp_path, monkeypatch):
    monkeypatch.setattr(decode, "deeper", lambda *_, **__: pytest.fail("a JPEG was opened"))
    assert load(tmp_path / "a", [encoded("JPEG", RAMP_8)], "jpg").levels is None


def test_8_bits_beside_floats_and_integers(tmp_path):
    files = [
        encoded("TIFF", RAMP_8),
        tiff(RAMP * 4095),
        tiff(RAMP, dtype="f4"),
        b"",
        b"II*\0",
        b"II*\0\xff\xff\xff\xff",
    ]
    mixed = load(tmp_path / "a", files)
    assert mixed.levels == {"floats": [0, 1], "integers": [0, 4095]}
    assert json.loads(json.dumps(mixed.levels)) == mixed.levels
    assert all(np.array_equal(first(mixed, i), RAMP_8) for i in (0, 2))
    assert len(mixed.notes) == 1 + 2


def deep_png(rgb) -> bytes:
    """A PNG of 16 bits a channel, written by hand: PIL writes none."""
    height, width, _ = rgb.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in rgb)
    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return mend.PNG + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def deep_colour_tiff(rgb) -> bytes:
    pixels = rgb.astype("<u2").tobytes()
    tags = [(256, 4, 1, rgb.shape[1]), (257, 4, 1, rgb.shape[0]), (258, 3, 3, 8), (259, 4, 1, 1), (262, 4, 1, 2)]
    tags += [(273, 4, 1, 14), (277, 4, 1, 3), (278, 4, 1, rgb.shape[0]), (279, 4, 1, len(pixels))]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    head = b"II*\0" + struct.pack("<IHHH", 14 + len(pixels), 16, 16, 16)
    return head + pixels + struct.pack("<H", len(tags)) + entries + bytes(4)


@pytest.mark.parametrize(("encode", "ending"), [(deep_png, "png"), (deep_colour_tiff, "tif")])
def test_few_bits_of_16_bit_colour_are_said(tmp_path, encode, ending):
    """PIL keeps the upper 8 bits of each channel: 4095 >> 8 is 15."""
    colour = np.repeat(RAMP[..., None], 3, axis=2)
    few = load(tmp_path / "few", [encode(np.rint(colour * 4095))], ending)
    assert few.levels is None
    assert few.notes[1:] == (
        "Colour images of 16 bits are read by their upper 8, which reach only 15 of 255 here: save them with 8.",
    )
    assert load(tmp_path / "all", [encode(np.rint(colour * 65535))], ending).notes[1:] == ()
    assert (
        load(tmp_path / "eight", [encoded("PNG", np.repeat(RAMP_8[..., None], 3, axis=2) // 4)], "png").notes[1:] == ()
    )


def test_levels_that_are_not_finite_decide_nothing(tmp_path):
    odd = load(tmp_path / "a", [tiff([[0, 1, np.nan, np.inf]], dtype="f4"), tiff([[np.nan] * 2], dtype="f4")])
    assert odd.levels == {"floats": [0, 1]}
    assert first(odd)[0].tolist() == [0, 255, 0, 0]


def test_shards(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as shard:
        for i in range(16):
            for ending, content in (
                ("png", encoded("PNG", np.rint(RAMP * 4095).astype(np.uint16))),
                ("cls", b"01"[i % 2 :][:1]),
            ):
                member = tarfile.TarInfo(f"{i:02d}.{ending}")
                member.size = len(content)
                shard.addfile(member, io.BytesIO(content))
    packed = registry.load(f"wds:{tmp_path / 'a.tar'}", data_root=tmp_path)
    assert packed.levels == {"integers": [0, 4095]}
    assert np.array_equal(first(packed), RAMP_8)
    assert packed.part(0, 3).levels == packed.levels


@pytest.mark.parametrize("dtype", ["u2", "f4"])
def test_the_orientation_of_deep_images(dtype):
    grey = np.array([[0, 65535]])
    content = bytearray(tiff(grey, dtype=dtype))
    at = content.index(struct.pack("<HHI", 277, 4, 1))  # SamplesPerPixel is 1 anyway
    content[at : at + 12] = struct.pack("<HHII", 274, 4, 1, 6)
    upright = np.asarray(decode.read(bytes(content), id="x", exif="apply"))
    assert upright[..., 0].tolist() == [[0], [255]]
