"""Trained models, which are found by themselves: probe heads and checkpoints, and their scores of any data set.

Both use feature files. A head scores the backbone's features; a checkpoint's logits are kept in a file of their own, so
that the same weights never see an image twice. Files of their own are named after the set's view (``+test``, ``+all``)
and, for a checkpoint, its digest.
"""

import re
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from backbench import Faults, UserError
from backbench.cache import schema
from backbench.cache.features import FeatureFileError, open_file
from backbench.cache.schema import default_path
from backbench.data import derived
from backbench.data.imageset import ImageSet
from backbench.extract import backbones, plan
from backbench.extract.run import extract_one
from backbench.probe import head, predict
from backbench.probe.subsets import Subset
from backbench.training import checkpoint, checkpoint_kind


@dataclass(frozen=True)
class Scores:
    """Of N images by K classes: ``scores`` (N, K) float32, ``labels`` (N,) in the image set's classes, ``ids``.

    ``n_skipped`` more couldn't be read.
    """

    scores: np.ndarray
    labels: np.ndarray
    ids: list[str]
    identity: dict = field(repr=False)
    n_skipped: int = 0


@dataclass(frozen=True)
class Predictor:
    """A head or a checkpoint, in ``folder``. ``about`` is what its JSON says; ``identity`` that of its training images
    and, of a head, of the features it takes."""

    folder: Path
    classes: list[str]
    identity: dict
    row: dict
    model: str
    method: str
    seed: int

    @property
    def source(self) -> str:
        return self.identity["dataset"]

    @property
    def exif(self) -> str:
        return (self.identity.get("transform") or {}).get("exif", "ignore")

    @property
    def temperature(self) -> float:
        """Found on the source's val."""
        return predict.temperature_of(self.row)

    def scores_on(
        self, imageset: ImageSet, *, cache_dir: Path, device, test_only: bool = False, skip: bool = False
    ) -> Scores:
        """Scores of every image of the set, or of its test images, by features that are there or are extracted now.

        ``skip`` leaves out images that can't be read. Raises UserError where that isn't possible, or what is there was
        made otherwise.
        """
        path, wanted = self.place(imageset, cache_dir), imageset
        if self.own_view or (test_only and not path.exists()):
            wanted = derived.plain(imageset, "test" if test_only else "all")
            path = self.place(wanted, cache_dir)
        if not (path.exists() and _of_now(path, wanted)):
            backbone, settings = self.backbone(device)
            if getattr(imageset, "change", None):  # noise has another spread, and means to
                settings = replace(settings, input_guard=False)
            try:
                extract_one(wanted, backbone, path, replace(settings, skip_unreadable=skip))
            except FeatureFileError as error:
                again = f"Extract it again: {predict.command(self.identity, imageset.name)} --overwrite"
                again = again if wanted is imageset else "Remove it, and it is made again"
                raise UserError(f"{path} can't be brought to the images of {wanted.name} of now. {again}") from error
        with open_file(path) as file:
            self.check(file)
            asked, ids = (file.split == 2) | (not test_only), file.ids
            rows = np.flatnonzero((file.done == schema.DONE) & asked)
            return Scores(
                self.score(file, rows),
                file.labels[rows],
                [ids[i] for i in rows],
                file.identity | file.measured,
                int((asked & (file.done == schema.SKIPPED)).sum()),
            )


def _of_now(path: Path, imageset: ImageSet) -> bool:
    """Whether a feature file holds the images of the data set as they are now."""
    with open_file(path, check=False) as file:
        return imageset.known_as(file.identity["dataset_digest"])


class Head(Predictor):
    """A probe's."""

    own_view = False

    @cached_property
    def saved(self) -> head.Saved:
        return head.load(self.folder)

    def place(self, imageset, cache_dir: Path) -> Path:
        return default_path(cache_dir, imageset.name, self.model)

    def backbone(self, device):
        """The frozen backbone of the head's features, and how to extract. Raises UserError where it can't be had."""
        from backbench.extract.feature_tap import tap

        identity = self.identity
        weights, drawn = predict.weights_option(identity), re.fullmatch(r"random, seed (\d{1,10})", identity["weights"])
        if identity["weights"].startswith(("file ", "tuned on ")):
            how = predict.command(identity, "THE-OTHER-SET")
            if identity["weights"].startswith("tuned"):
                how = "finetune features --checkpoint ITS-RUN --dataset THE-OTHER-SET"
            raise UserError(f"{self.folder} stands on weights of your own: extract the other images first, with {how}")
        seed = int(drawn[1]) if drawn else identity["seed"]
        scale = identity["input_scale"]
        backbone = replace(backbones.create(identity["model"], weights=weights, seed=seed), scale=scale)
        backbone = tap(backbone, identity["layer"], identity["pool"])
        views = re.fullmatch(r"mean(\d{1,3})", identity["views"])
        settings = plan.Settings(
            device=device,
            precision="auto" if (identity["precision"], device.type) == ("float16", "cpu") else identity["precision"],
            compile="auto" if identity.get("compiled") else "off",  # alike to the last digit, where that can be
            dtype=identity["dtype"],
            input_guard=scale == 1,
            seed=identity["seed"],
            views=int(views[1]) if views else 1,
        )
        transform = {k: list(v) if isinstance(v, tuple) else v for k, v in backbone.config.items()}
        made = {"model": backbone.name, "weights": backbone.weights, "weights_sha256": backbone.weights_sha256}
        made |= {"transform": transform | {"exif": self.exif}, "pooling": backbone.pooling, "input_scale": scale}
        if lines := predict.unlike(identity, made | {"layer": backbone.layer, "pool": backbone.pool}):
            raise UserError(f"the backbone of {self.folder} can't be had as it was:\n  " + "\n  ".join(lines))
        return backbone, settings

    def check(self, file) -> None:
        predict.compare(self.saved, file, self.folder)

    def score(self, file, rows: np.ndarray) -> np.ndarray:
        return self.saved.head.over(Subset(file.features, file.labels[rows], rows))


class Checkpoint(Predictor):
    """finetune's or the CNN's: the logits of the whole network are kept."""

    own_view = True

    @property
    def tag(self) -> str:
        """What its feature files have for weights."""
        return f"checkpoint {self.row['sha256']}"

    def place(self, imageset, cache_dir: Path) -> Path:
        return default_path(cache_dir, imageset.name, f"{self.folder.name}-{self.row['sha256'][:12]}")

    def backbone(self, device):
        """The whole network as a backbone whose features are its logits, in the precision it was trained in."""
        tuned = checkpoint.load(self.folder)
        network = logits(checkpoint_kind.scorer(tuned), len(self.classes))
        tuned_to = backbones.Backbone(
            self.model, self.tag, backbones.digest(tuned.model), network, tuned.config, layer="logits", pool="none"
        )
        how = {"precision": tuned.about["precision"], "compile": "off", "seed": self.seed}
        return tuned_to, plan.Settings(device=device, **how)

    def check(self, file) -> None:
        if (file.identity["weights"], file.features.shape[1]) != (self.tag, len(self.classes)):
            raise UserError(f"{file.path} doesn't hold the logits of {self.folder}: remove it.")

    def score(self, file, rows: np.ndarray) -> np.ndarray:
        return np.asarray(file.features[rows], np.float32)


def logits(network, n_classes: int):
    """``network`` as a module that says of itself what ``extract`` asks of a backbone."""
    import torch

    class Logits(torch.nn.Module):
        num_features, global_pool = n_classes, "none"

        def __init__(self):
            super().__init__()
            self.training = False
            self.network = network

        def forward(self, images):
            return self.network(images)

    return Logits()


NEEDED = {
    **dict.fromkeys(("model", "weights", "weights_sha256", "dataset", "dataset_digest"), str),
    **dict.fromkeys(("pooling", *schema.PLAIN), str),
    **{"transform": dict, "seed": int, "input_scale": int | float},
}
"""What a head's identity must hold for other images to be extracted alike."""


KNOWN = {"precision": ("float32", "bfloat16", "float16"), "dtype": ("float32", "float16")}
"""The values of it that there are."""


def find(heads: Path, runs: Path) -> tuple[list[Predictor], Faults]:
    """Every head below ``heads`` and checkpoint below ``runs``, by folder; and why some can't be used."""
    found, faults = [], Faults()
    for path in sorted(heads.rglob(head.ABOUT)):
        with faults.collect():
            found.append(_head(path.parent))
    for path in sorted(runs.rglob(checkpoint.ABOUT)):
        with faults.collect():
            if one := _checkpoint(path.parent):
                found.append(one)
    return found, faults


def _head(folder: Path) -> Predictor:
    saved = head.load(folder)
    identity = {**schema.PLAIN, **saved.identity}
    wrong = [key for key, kind in NEEDED.items() if not isinstance(identity.get(key), kind)]
    wrong += [key for key, known in KNOWN.items() if identity.get(key) not in known]
    if wrong:
        raise UserError(f"{folder / head.ABOUT} is damaged: its identity's {', '.join(wrong)} not as probe writes it.")
    label, seed = schema.label(identity), saved.row.get("seed", identity["seed"])
    return Head(folder, saved.classes, identity, saved.row, label, saved.method, seed)


def _checkpoint(folder: Path) -> Predictor | None:
    about = checkpoint.read_about(folder)
    if about["ended"].startswith("diverged"):
        return None
    identity = {key: about[key] for key in ("dataset", "dataset_digest", "seed", "transform", "model")}
    method = checkpoint_kind.method(checkpoint_kind.stage(about["timm_name"]), about["recipe"])
    row = about["row"] | {"sha256": about["sha256"]}
    return Checkpoint(folder, about["classes"], identity, row, about["model"], method, about["seed"])
