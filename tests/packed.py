"""Small image sets in tars, parquet and arrow files."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image


def png(seed: int = 0) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def shard(path: Path, *members, **options) -> Path:
    """A tar of (name, bytes or str) or TarInfo members."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
                continue
            name, content = member
            content = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def samples(n: int, *, first: int = 0, classes=("cat", "dog")) -> list:
    """n samples of a picture and a class each, the classes by turns."""
    return [
        member
        for i in range(first, first + n)
        for member in ((f"{i:03d}.png", png(i)), (f"{i:03d}.cls", classes[i % len(classes)]))
    ]


def shards(root: Path, **sizes: int) -> str:
    first = 0
    for name, n in sizes.items():
        shard(root / f"{name.replace('_', '-')}.tar", *samples(n, first=first))
        first += n
    return f"wds:{root}"


def image_type():
    """Of a column of pictures, as datasets has it."""
    import pyarrow as pa

    return pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def table(n, *, first=0, image="image", labels=(0, 1), names=("cat", "dog"), label="label", kind=None, **more):
    """n pictures, the classes by turns, with the note that datasets makes of its features."""
    import pyarrow as pa

    cells = [{"bytes": png(i), "path": f"/home/someone/{i}.png"} for i in range(first, first + n)]
    columns = {
        image: pa.array(cells, image_type()),
        label: pa.array([labels[i % len(labels)] for i in range(n)], kind),
        **more,
    }
    features = {image: {"_type": "Image"}, label: {"_type": "ClassLabel", "names": names}} if names else {}
    note = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.table(columns).replace_schema_metadata(note if names else None)


def parquet(path, table, **options):
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)
    return path


def arrow(path, table, *, most=7, new="new_stream"):
    import pyarrow as pa

    path.parent.mkdir(parents=True, exist_ok=True)
    with getattr(pa.ipc, new)(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=most)
    return path


def hub(root, write=parquet, ending="parquet"):
    """A data set of 40 + 8 pictures in two files of train and one of test."""
    for split, sizes in (("train", (24, 16)), ("test", (8,))):
        for n, size in enumerate(sizes):
            write(root / f"data/{split}-{n:05d}-of-{len(sizes):05d}.{ending}", table(size, first=24 * n))
    return f"hf:{root}"


KINDS = [
    (parquet, "parquet"),
    (arrow, "arrow"),
    (lambda path, made: parquet(path, made, row_group_size=5, compression="zstd"), "parquet"),
    (lambda path, made: arrow(path, made, new="new_file"), "arrow"),
]
