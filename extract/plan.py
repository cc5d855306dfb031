"""What is to be extracted: the settings, and each feature file with its backbone, content and path, before any work."""

from dataclasses import dataclass
from pathlib import Path

from backbench import UsageError
from backbench.cache import schema, shards
from backbench.extract import views
from backbench.extract.versions import versions


@dataclass(frozen=True)
class Settings:
    """How to run: ``precision`` and ``compile`` auto take what is fastest, if its features agree with float32's."""

    device: object
    precision: str = "auto"
    compile: str = "auto"  # auto, on, off
    batch_size: int | None = None  # 32, on a GPU 128
    threads: int | None = None  # for decoding: one a core, at most 8
    dtype: str = "float32"
    input_guard: bool = True
    skip_unreadable: bool = False
    overwrite: bool = False
    wait: bool = False  # for another run on the same file, or refuse
    seed: int = 42
    views: int = 1
    views_as: str = "mean"  # or rows, see extract.views

    @property
    def images_a_batch(self) -> int:
        """Rows computed side by side; the same whatever runs beside them."""
        return self.batch_size or batch_size(self.device.type)


def batch_size(device_type: str) -> int:
    """Images a forward pass where nothing is asked for."""
    return 128 if device_type == "cuda" else 32


def identity(imageset, backbone, settings: Settings, *, views: str = "plain") -> dict:
    """What the features will be. ``precision`` and ``compiled`` are None while that is left open, and the versions are
    left out for a backbone without its model (``extract.known.Card``)."""
    shard = {}
    if imageset.span:
        start, stop, n = imageset.span
        shard = {schema.SHARD: {"rows": [start, stop], "of": n, "batch_size": settings.images_a_batch}}
    return {
        "schema": schema.SCHEMA,
        "model": backbone.name,
        "weights": backbone.weights,
        "weights_sha256": backbone.weights_sha256,
        "transform": {k: list(v) if isinstance(v, tuple) else v for k, v in backbone.config.items()}
        | {"exif": imageset.exif},
        "pooling": backbone.pooling,
        "layer": backbone.layer,
        "pool": backbone.pool,
        "views": views,
        "dtype": settings.dtype,
        "precision": None if settings.precision == "auto" else settings.precision,
        "compiled": False if settings.compile == "off" else None,
        "dataset": imageset.name,
        "dataset_digest": imageset.digest,
        "images_digest": imageset.images_digest,
        "test_digest": imageset.test_digest,
        "seed": settings.seed,
        "input_scale": backbone.scale,
        "versions": versions(settings.device) if backbone.model else {},
        **shard,
    }


@dataclass(frozen=True)
class Planned:
    """A feature file that is asked for: of which images and backbone, what its identity will be, and where it lies.

    The backbone may be a ``backbone_info.BackboneInfo``, which stands for one that has not been created yet.
    """

    imageset: object
    backbone: object
    wanted: dict
    path: Path

    @property
    def label(self) -> str:
        """The backbone's name with what tells its features from its usual ones."""
        return schema.label(self.wanted)

    def part(self, number: int, count: int, settings: Settings) -> "Planned":
        """The shard ``number`` (from 1) of ``count`` of it, in a file of its own.

        Raises UsageError where there are fewer batches than shards: some shard would be empty.
        """
        size, n = settings.images_a_batch, len(self.imageset)
        if count > -(-n // size):
            raise UsageError(f"{n:,} images in batches of {size} can't be cut into {count} shards. Take fewer.")
        rows = self.imageset.part(*shards.span(n, number, count, batch_size=size))
        return planned(rows, self.backbone, settings, shards.path_of(self.path, number, count))


def planned(imageset, backbone, settings: Settings, path: Path | None = None, *, cache_dir=Path()):
    """The feature file of ``backbone`` on ``imageset``: at ``path``, or at its usual place in ``cache_dir``."""
    named = views.rows(imageset, settings.views, settings.views_as).name
    wanted = identity(imageset, backbone, settings, views=named)
    path = path or schema.default_path(cache_dir, imageset.name, schema.label(wanted))
    return Planned(imageset, backbone, wanted, Path(path))
