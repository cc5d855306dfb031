"""Extraction on a card, beside the bare forward pass of the same engine and beside timm with torch's DataLoader.

Photos have caltech101's usual size, 300 x 200 pixels, and are crops of the two photos that scikit-learn brings, as JPEG
of quality 85 to 95. Each file has a comment of its own, since equal files would be decoded only once. Small images are
crops of 32 x 32 pixels in memory, as CIFAR-100's batches are. The rate is that of the pass, without the start.
"""

import io
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

PHOTOS, CROPS, SMALL = 40_000, 512, 50_000
"""Photos, different crops among them, and small images."""

CASES = {
    "lite0_photos": ("tf_efficientnet_lite0", "photos"),
    "resnet50_photos": ("resnet50", "photos"),
    "vit_base_photos": ("vit_base_patch16_224", "photos"),
    "lite0_cifar100": ("tf_efficientnet_lite0", "small"),
}
"""Backbones, all with random weights, and the images that each sees."""

WORKERS, PLAIN = 16, 100
"""Processes of the DataLoader, and the batches of 128 images that it is timed on; as many as 2 a worker come before."""

BARE = 100
"""Batches of the bare forward pass, after 5 to warm up."""


def measure(keep, *, dry: bool) -> None:
    """Give ``keep`` the figures of every case."""
    from backbench.data import registry
    from backbench.devices import cores, pick_device

    n, crops, small = (48, 8, 64) if dry else (PHOTOS, CROPS, SMALL)
    cases = {name: case for name, case in CASES.items() if not dry or case[0] == CASES["lite0_photos"][0]}
    device = pick_device("cpu" if dry else "cuda")
    with tempfile.TemporaryDirectory(prefix="backbench-photos-") as folder:
        started = time.perf_counter()
        write_photos(Path(folder) / "photos", n, crops, threads=cores())
        keep(photos=n, photos_written_seconds=time.perf_counter() - started)
        images = {"photos": registry.load(f"folder:{folder}/photos", data_root=folder), "small": in_memory(small)}
        workers = 2 if dry else min(WORKERS, cores())
        theirs = None
        for name, (model, kind) in cases.items():
            model = "test_resnet" if dry else model
            if theirs is None:
                theirs = dataloader(images["photos"], model, device, workers=workers, batches=2 if dry else PLAIN)
                keep(plain_lite0_photos=theirs, plain_workers=workers)
            ours = extracted(images[kind], model, device, Path(folder) / f"{name}.h5", bare=2 if dry else BARE)
            keep(**{f"{key}_{name}": value for key, value in ours.items()})
            if name == "lite0_photos":
                keep(lite0_photos_per_second=ours["ours"], speedup_lite0_photos=ours["ours"] / theirs)


def extracted(imageset, model: str, device, path: Path, *, bare: int) -> dict:
    """Images/s of extracting ``imageset`` and of the bare forward pass of the engine that was chosen for it."""
    import torch

    from backbench.cache.features import summary
    from backbench.extract import backbones
    from backbench.extract.plan import Settings, planned
    from backbench.extract.run import extract

    backbone, settings = backbones.create(model, weights="random"), Settings(device=device)
    started = time.perf_counter()
    (run,) = extract([planned(imageset, backbone, settings, path)], settings)
    whole = time.perf_counter() - started
    if run.fault:
        raise run.fault
    found = summary(path)
    path.unlink()
    backbone.from_pixels.to(device)
    size = backbone.config["input_size"][1:]
    batch = torch.randint(0, 256, (settings.images_a_batch, 3, *size), dtype=torch.uint8, device=device)
    batch = batch.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        for _ in range(1 if bare < 5 else 5):
            run.engine(batch)
        wait(device)
        begun = time.perf_counter()
        for _ in range(bare):
            features = run.engine(batch)
        features.cpu()
        wait(device)
        alone = bare * len(batch) / (time.perf_counter() - begun)
    rate = found["images_per_second"]
    return {"ours": rate, "bare": alone, "share": rate / alone, "whole_seconds": whole, "engine": str(run.engine)}


def dataloader(imageset, model: str, device, *, workers: int, batches: int) -> float:
    """Images/s of a timm model fed by torch's DataLoader with timm's own transform, as its users write it."""
    import timm
    import torch

    from backbench.extract import backbones
    from benchmarks.extract import Images

    backbone = backbones.create(model, weights="random")
    network = backbone.model.to(device, memory_format=torch.channels_last)
    transform = timm.data.create_transform(**backbone.config, is_training=False)
    size = 128 if device.type == "cuda" else 16
    ahead = 2 * workers if device.type == "cuda" else 0  # batches that the workers have made before the first is taken
    images = Images(imageset, transform, size * (ahead + batches + 1))
    loader = torch.utils.data.DataLoader(
        images, batch_size=size, num_workers=workers, pin_memory=device.type == "cuda", drop_last=True
    )
    half = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
    with torch.inference_mode(), half:
        for number, batch in enumerate(loader):
            network(batch.to(device, non_blocking=True)).cpu()
            if number == ahead:
                started = time.perf_counter()
    return (number - ahead) * size / (time.perf_counter() - started)


def wait(device) -> None:
    """Until a card has done what it was given."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def sources() -> list[np.ndarray]:
    """Two photos, (427, 640, 3) uint8 each."""
    from sklearn.datasets import load_sample_images

    return load_sample_images().images


def write_photos(folder: Path, n: int, crops: int, *, threads: int) -> None:
    """Write ``n`` JPEG files in 32 class folders (8 where there are few)."""
    from PIL import Image

    rng, photos, made = np.random.default_rng(0), sources(), []
    for i in range(crops):
        photo = photos[i % len(photos)]
        top, left = (int(rng.integers(0, side - kept + 1)) for side, kept in zip(photo.shape, (200, 300), strict=False))
        held = io.BytesIO()
        Image.fromarray(photo[top : top + 200, left : left + 300]).save(held, "JPEG", quality=int(rng.integers(85, 96)))
        made.append(held.getvalue())
    classes = 32 if n > 1000 else 4
    for k in range(classes):
        (folder / f"{k:02d}").mkdir(parents=True)

    def write(i: int) -> None:
        comment = f"{i:08d}".encode()
        jpeg = made[i % crops]
        marked = jpeg[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + jpeg[2:]
        (folder / f"{i % classes:02d}" / f"{i:06d}.jpg").write_bytes(marked)

    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(write, range(n), chunksize=256):
            pass


def in_memory(n: int):
    """A data set of ``n`` crops of 32 x 32 pixels, all different."""
    from backbench.data.imageset import ImageSet

    rng, photos = np.random.default_rng(1), np.stack(sources())
    which, top, left = (rng.integers(0, most, n) for most in (2, photos.shape[1] - 32, photos.shape[2] - 32))
    across = np.arange(32)
    pixels = photos[which[:, None, None], (top[:, None] + across)[:, :, None], (left[:, None] + across)[:, None, :]]
    pixels[:, 0, 0], pixels[:, 0, 1, 0] = np.stack([np.arange(n) >> 16, np.arange(n) >> 8, np.arange(n)], 1) & 255, 0
    names, ids = [str(k) for k in range(10)], [f"{i:05d}" for i in range(n)]
    split = np.arange(n) % 10
    return ImageSet(
        "small", ids, np.arange(n) % 10, np.where(split > 7, split - 7, 0).astype(np.int8), names, pixels=pixels
    )
