"""Image files that Pillow refuses for what lies beside their pixels, without that.

This is tried only after Pillow has refused a file, so that the pixels of sound files can't change. What decides pixels
is kept as it is: where that is damaged, Pillow refuses the file again.
"""

import random
import re
import zlib
from collections.abc import Callable, Iterator

LARGEST = 1 << 28
"""Bytes of the largest file that is mended. A larger one is refused as Pillow refuses it."""

PNG, JPEG, END = b"\x89PNG\r\n\x1a\n", b"\xff\xd8", b"\xff\xd9"

_RANDOM = bytes(random.Random(0).choices(range(255), k=4096))

FILLERS = (
    _RANDOM,
    *(
        b"".join(bytes((0xFF, 0xD0 + k % 8)) + _RANDOM[64 * k : 64 * k + 64] for k in range(first, first + 60))
        for first in (0, 4)
    ),
)
"""Bytes to put before a JPEG's missing end marker. A decoder that still lacks pixels takes them for these, so that they
differ; one that has all skips them. Where restart markers are expected, it skips to the expected one, except past those
one or two numbers ahead (libjpeg, jpeg_resync_to_restart), so that markers begin at two numbers."""


def mended(content: bytes, load: Callable) -> bytes | None:
    """Return the file ``content`` without what Pillow may have refused it for, or None where that changes nothing.

    Of a PNG, WebP and JPEG, only the parts that decide the pixels are kept, and the orientation. A JPEG without its end
    marker gets one, where its pixels are complete. ``load(content)`` decodes a file to a PIL image, and may raise.
    """
    if len(content) > LARGEST:
        return None
    if content.startswith(PNG):
        found = _png(content)
    elif content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        found = _webp(content)
    elif content.startswith(JPEG):
        found = _jpeg(content, load)
    else:
        return None
    return None if found == content else found


def _png(content: bytes) -> bytes:
    """Keep the critical chunks, the transparency, and the orientation where its checksum is right (PNG, section 5)."""
    kept, at = [PNG], len(PNG)
    while at < len(content):
        stop = at + 12 + int.from_bytes(content[at : at + 4], "big")
        chunk = content[at:stop]
        kind = chunk[4:8]
        critical = not kind or kind[0] & 32 == 0
        if (
            critical
            or kind == b"tRNS"
            or (kind == b"eXIf" and zlib.crc32(chunk[4:-4]).to_bytes(4, "big") == chunk[-4:])
        ):
            kept.append(chunk)
        at = stop
    return b"".join(kept)


def _webp(content: bytes) -> bytes:
    """Keep the frames, and the orientation where it is whole (RFC 9649, section 2.7)."""
    chunks, at = {}, 12
    while at + 8 <= len(content):
        kind, length = content[at : at + 4], int.from_bytes(content[at + 4 : at + 8], "little")
        stop = at + 8 + length
        if kind in (b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF") or (kind == b"EXIF" and stop <= len(content)):
            chunks.setdefault(kind, []).append(content[at:stop] + bytes(length % 2))
        at = stop + length % 2
    if head := chunks.get(b"VP8X"):
        flags = head[0][8] & ~0x24 & (0xFF if b"EXIF" in chunks else ~0x08)  # no profile, no XMP
        head[0] = head[0][:8] + bytes((flags,)) + head[0][9:]
    body = b"WEBP" + b"".join(chunk for of in chunks.values() for chunk in of)
    return b"RIFF" + len(body).to_bytes(4, "little") + body


def _jpeg(content: bytes, load: Callable) -> bytes | None:
    """Keep the segments that decide the pixels, and the orientation; add an end marker where only that is missing."""
    kept, sent, components, marker = [JPEG], {}, b"", 0
    for marker, segment, whole in _segments(content):
        extra = (0xE1 <= marker <= 0xEF and marker != 0xEE) or marker == 0xFE  # APP0 and APP14 decide the colours
        if not extra or segment.startswith(b"Exif\0\0"):
            kept.append(whole)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # the frame's header
            components = segment[6::3]
        if marker == 0xDA:
            names, (first, last, bits) = segment[1:-3:2], segment[-3:] if len(segment) > 5 else (0, -1, 0)
            sent |= {(name, k): bits & 15 for name in names for k in range(first, last + 1)}
    found = b"".join(kept)
    if marker == 0xD9:
        return found
    # Every coefficient must have come down to its last bit (ITU T.81, G.1.2), and what follows must change no pixel.
    if not components or any(sent.get((name, k)) != 0 for name in components for k in range(64)):
        return None
    found = found.rstrip(b"\xff")
    pixels = load(found + END).tobytes()
    return found + END if all(load(found + filler + END).tobytes() == pixels for filler in FILLERS) else None


def _segments(content: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield each segment's marker, its parameters, and all its bytes; of a scan with its data. EOI is the last."""
    at = len(JPEG)
    while at + 4 <= len(content) and content[at] == 0xFF:
        marker, length = content[at + 1], int.from_bytes(content[at + 2 : at + 4], "big")
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        stop = at + 2 + length
        if marker == 0xDA:
            following = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]").search(content, stop)
            stop = following.start() if following else len(content)
        yield marker, content[at + 4 : at + 2 + length], content[at:stop]
        at = stop
    if content[at : at + 2] == END:
        yield 0xD9, b"", END
