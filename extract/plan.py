"""The plan of an extraction, made before any work: its settings, and each feature file with its identity and path."""

from dataclasses import dataclass
from pathlib import Path

from backbench import UsageError
from backbench.cache import schema, shards
from backbench.extract import openvino, views
from backbench.extract.versions import versions


@dataclass(frozen=True)
class Settings:
    """Settings of an extraction. With auto, ``precision`` and ``compile`` are the fastest that agree with float32."""

    device: object
    precision: str = "auto"
    compile: str = "auto"  # auto, on, off, openvino
    batch_size: int | None = None  # 32, on a GPU 128
    readers: int | None = None  # processes that read images: one per core
    dtype: str = "float32"
    input_guard: bool = True
    skip_unreadable: bool = False
    say_skipped: bool = True  # whether the images that are left out are named here, or by whoever asked
    overwrite: bool = False
    wait: bool = False  # whether to wait for another run on the same file, or to refuse
    seed: int = 42
    views: int = 1
    views_as: str = "mean"  # or rows, see extract.views

    @property
    def images_a_batch(self) -> int:
        """Number of rows that are computed together; the same whatever other backbones run."""
        return self.batch_size or batch_size(self.device.type)


def batch_size(device_type: str) -> int:
    """Default number of images per forward pass."""
    return 128 if device_type == "cuda" else 32


def identity(imageset, backbone, settings: Settings, *, views: str = "plain") -> dict:
    """Return the identity that the features will have.

    ``precision`` and ``compiled`` are None while they are still open, and the digests of the images until the last
    image is read. The versions are empty for a backbone without its
    model (``backbone_info.BackboneInfo``).
    """
    shard = {}
    if imageset.span:
        start, stop, n = imageset.span
        how = {"rows": [start, stop], "of": n, "batch_size": settings.images_a_batch}
        shard = {schema.SHARD: how | {"listing": imageset.listings[0]}}
    return {
        "schema": schema.SCHEMA,
        "model": backbone.name,
        "weights": backbone.weights,
        "weights_sha256": backbone.weights_sha256,
        "transform": {k: list(v) if isinstance(v, tuple) else v for k, v in backbone.config.items()}
        | {"exif": imageset.exif}
        | ({"levels": imageset.levels} if imageset.levels else {})
        | ({"crop_seed": settings.seed} if settings.views > 2 else {}),
        "pooling": backbone.pooling,
        "layer": backbone.layer,
        "pool": backbone.pool,
        "views": views,
        "dtype": settings.dtype,
        "precision": None if settings.precision == "auto" else settings.precision,
        "compiled": {"off": False, "openvino": openvino.kind()}.get(settings.compile),
        "dataset": imageset.name,
        **dict.fromkeys(schema.DIGESTS),
        "seed": settings.seed,
        "input_scale": backbone.scale,
        "versions": versions(settings.device) if backbone.model else {},
        **shard,
    }


@dataclass(frozen=True)
class Planned:
    """A feature file that is asked for: its data set, its backbone, its future identity and its path.

    The backbone may be a ``backbone_info.BackboneInfo``, which stands for one that has not been created yet.
    """

    imageset: object
    backbone: object
    wanted: dict
    path: Path

    @property
    def label(self) -> str:
        """The backbone's name, with the layer, pooling and views where they are not the default."""
        return schema.label(self.wanted)

    def part(self, number: int, count: int, settings: Settings) -> "Planned":
        """Plan shard ``number`` (from 1) of ``count`` of this file, which is a file of its own.

        Raises UsageError where there are fewer batches than shards, since some shard would be empty.
        """
        size, n = settings.images_a_batch, len(self.imageset)
        if count > -(-n // size):
            raise UsageError(f"{n:,} images in batches of {size} can't be cut into {count} shards. Use fewer shards.")
        rows = self.imageset.part(*shards.span(n, number, count, batch_size=size))
        return planned(rows, self.backbone, settings, shards.path_of(self.path, number, count))


def planned(imageset, backbone, settings: Settings, path: Path | None = None, *, cache_dir=Path()):
    """Plan the feature file of ``backbone`` on ``imageset``, at ``path`` or at its default place in ``cache_dir``."""
    named = views.rows(imageset, settings.views, settings.views_as).name
    wanted = identity(imageset, backbone, settings, views=named)
    path = path or schema.default_path(cache_dir, imageset.name, schema.label(wanted))
    return Planned(imageset, backbone, wanted, Path(path))
