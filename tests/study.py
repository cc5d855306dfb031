"""A small study for the report's tests: real pictures, features made up by class, real probes, hostile names."""

from pathlib import Path

import numpy as np
from PIL import Image

from backbench import details, rows
from backbench.cache import writer
from backbench.data import registry
from backbench.probe.run import Settings
from backbench.probe.study import probe_all
from tests.conftest import IDENTITY

HOSTILE = "<img src=x onerror=hacked=1>"
"""As a class, a backbone and, with an ending, a file."""

CLASSES = (HOSTILE, "b&b", "plain", "$x^2$")

MODELS = {"good": 3.0, "fair": 1.6, f"poor {HOSTILE}": 0.9}
"""How far apart the classes' features lie, in standard deviations."""


class Big:
    """An image set's listing: 60,000 images of 200 classes."""

    name = slug = "big"
    digest = "b" * 64
    ids = tuple(f"{i:05d}.png" for i in range(60_000))
    labels = np.arange(60_000) % 200
    split = np.repeat([0, 1, 2], [50_000, 5_000, 5_000])
    class_names = tuple(f"class {k}" for k in range(200))

    def __len__(self):
        return len(self.ids)


def pictures(folder: Path) -> Path:
    """{train,val,test}/<class>/ of small pictures, one of a hostile name in each."""
    rng = np.random.default_rng(0)
    for split, n in (("train", 12), ("val", 6), ("test", 10)):
        for k, name in enumerate(CLASSES):
            inside = folder / split / name
            inside.mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(0, 256, (20, 30, 3), np.uint8)
                pixels[..., k % 3] = 255
                Image.fromarray(pixels).save(inside / (f"{HOSTILE}.png" if i == 0 else f"{i:02d}.png"))
    return folder


def extracted(imageset, cache_dir: Path, model: str, apart: float, dim: int = 12) -> Path:
    """A feature file as ``extract`` writes it, of features around one centre a class."""
    rng = np.random.default_rng(len(model))
    centres = apart * rng.normal(size=(len(imageset.class_names), dim)) / np.sqrt(dim / 4)
    return writer.write(
        cache_dir / imageset.slug / f"{apart}.h5",
        features=(centres[imageset.labels] + rng.normal(size=(len(imageset), dim))).astype("f4"),
        labels=imageset.labels,
        split=imageset.split,
        ids=imageset.ids,
        class_names=imageset.class_names,
        identity=IDENTITY
        | {"model": model, "dataset": imageset.name, "dataset_digest": imageset.digest}
        | {"transform": {"input_size": [3, 224, 224], "exif": "ignore"}},
    )


def tuned(results: Path, stage: str, model: str, method: str) -> dict:
    """A row of another stage, of a head that mends half of the errors of ``model``'s logistic head on the pictures."""
    row = next(r for r in rows.read(results) if (r["model"], r["method"]) == (model, "logistic"))
    content = details.of(results, row)
    wrong = [i for i, (a, b) in enumerate(zip(content["predicted"], content["labels"], strict=True)) if a != b]
    for i in wrong[::2]:
        content["predicted"][i] = content["labels"][i]
    content |= {"method": method, "curve": None}
    top1 = float(np.mean(np.equal(content["predicted"], content["labels"])))
    figures = {"top1": top1, "top1_low": top1 - 0.1, "top1_high": min(1.0, top1 + 0.1), "val_top1": top1}
    figures |= {"n_train": row["n_train"], "n_val": row["n_val"], "n_test": row["n_test"], "shots": None}
    figures |= {"details": details.write(results, content)}
    made = rows.make(
        stage, dataset=row["dataset"], model=model, method=method, seed=42, figures=figures, protocol={"epochs": 3},
        features=None, device="cpu", seconds=60.0,
    )  # fmt: skip
    rows.append(results, made)
    return made


def build(folder: Path) -> dict[str, Path]:
    """The study in ``folder``: results, cache and the folder of pictures."""
    results, cache_dir = folder / "results", folder / "cache"
    root = pictures(folder / f"set {HOSTILE[:8]}")
    shown, digits = registry.load(f"folder:{root}", data_root=folder), registry.load("digits", data_root=folder)
    paths = [extracted(shown, cache_dir, model, apart) for model, apart in MODELS.items()]
    paths += [extracted(digits, cache_dir, model, apart) for model, apart in list(MODELS.items())[:2]]
    settings = Settings(curve=(0.3, 1.0))
    probe_all(paths[:3], ["logistic", "centroid"], results_dir=results, settings=settings, jobs=1)[1].stop()
    probe_all(paths[3:], ["centroid"], results_dir=results, settings=settings, jobs=1)[1].stop()
    tuned(results, "finetune", "good", "full")
    tuned(results, "cnn", "fair", "small")
    source = rows.read(results)[0]
    elsewhere = {"source": "here", "target": "there <b>", "source_top1": 0.9, "top1": 0.6, "drop": 0.3}
    elsewhere |= {"top1_low": 0.5, "top1_high": 0.7}
    made = rows.make(
        "generalize", dataset="there", model="good", method="logistic", seed=42, protocol={}, figures=elsewhere,
        features=source["features"], device="cpu", seconds=0.1,
    )  # fmt: skip
    rows.append(results, made)
    corruptions = {"source": "here", "source_top1": 0.9, "source_top1_low": 0.8, "source_top1_high": 0.95}
    for kind, strength, level, top1 in (("resolution", 3, 64, 0.8), ("resolution", 4, 32, 0.5), ("blur", 1, 1, 0.7)):
        figures = corruptions | {
            "target": f"here+{kind}-{level}",
            "corruption": kind,
            "strength": strength,
            "level": level,
        }
        figures |= {"top1": top1, "top1_low": top1 - 0.1, "top1_high": top1 + 0.1, "drop": 0.9 - top1}
        made = rows.make(
            "generalize", dataset=figures["target"], model="good", method="logistic", seed=42, protocol={},
            figures=figures, features=source["features"], device="cpu", seconds=0.1,
        )  # fmt: skip
        rows.append(results, made)
    return {"results": results, "cache": cache_dir, "pictures": root}
