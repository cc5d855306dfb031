"""Digests of data sets, made of what their images are: names, order and places play no part.

An image is known by its content, which is the first ``LENGTH`` hexadecimal digits of the SHA-256 of its file's bytes,
or in memory of its pixels. By them features belong to images, and two data sets are the same if their images are.
"""

import hashlib
import json

import numpy as np

from backbench.split_rule import TEST

LENGTH = 32
"""Number of hexadecimal digits of a content: 128 bits, so that no two of any number of images meet by chance."""

CONTENT = f"S{LENGTH}"
"""The dtype of contents. An empty one means that the image has not been read."""


def content(data) -> bytes:
    """Return the content of an image whose file, or pixels, are the bytes ``data``."""
    return hashlib.sha256(data).hexdigest()[:LENGTH].encode()


def digests(contents, ids, labels, split, class_names) -> dict[str, str]:
    """Compute ``dataset_digest``, ``images_digest`` and ``test_digest`` (SHA-256, hex) of N images.

    The first covers each image with its class and split. The second leaves out the split, so that it doesn't depend on
    the seed. The third covers only the test images, so that it stays the same when images join train. ``contents`` (N,)
    are bytes; an image that could not be read has none and is told by its id. ``labels`` and ``split`` are (N,).
    """
    told = [
        f"{content.decode() or json.dumps(id)} {json.dumps(class_names[label])}"
        for content, id, label in zip(np.asarray(contents).tolist(), ids, np.asarray(labels).tolist(), strict=True)
    ]
    split = np.asarray(split).tolist()
    return {
        "dataset_digest": _of(f"{one} {code}" for one, code in zip(told, split, strict=True)),
        "images_digest": _of(told),
        "test_digest": _of(one for one, code in zip(told, split, strict=True) if code == TEST),
    }


def _of(lines) -> str:
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def difference(old: tuple, new: tuple) -> str:
    """Say how the images of ``new`` differ from those of ``old``, each a pair of ids (N,) and contents (N,).

    An example is "1 image fewer, 2 new, 3 changed, 4 renamed". It is empty where both hold the same images under the
    same names.
    """
    before, now = (dict(zip(*(np.asarray(part).tolist() for part in pair), strict=True)) for pair in (old, new))
    was, now_there = set(before.values()), set(now.values())
    changed = {id for id, one in now.items() if id in before and one not in was and before[id] not in now_there}
    counts = {
        "fewer": sum(one not in now_there and id not in changed for id, one in before.items()),
        "new": sum(one not in was and id not in changed for id, one in now.items()),
        "changed": len(changed),
        "renamed": sum(one in was and before.get(id) != one for id, one in now.items()),
    }
    parts = [f"{n:,} {what}" for what, n in counts.items() if n]
    if parts:
        first, _, rest = parts[0].partition(" ")
        parts[0] = f"{first} image{'' if first == '1' else 's'} {rest}"
    return ", ".join(parts)
