"""Trained models: probe heads and checkpoints, found by themselves or by their folder, and their scores of images.

Both use feature files. A head scores the backbone's features; a checkpoint's logits are kept in a file of their own, so
that the same weights never see an image twice. Files of their own are named after the set's view (``+test``, ``+all``)
and, for a checkpoint, its digest.
"""

import re
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from backbench import Faults, UsageError, UserError
from backbench.cache import schema
from backbench.cache.features import open_file
from backbench.cache.schema import default_path
from backbench.data.imageset import ImageSet
from backbench.extract import backbones, plan
from backbench.predict import logits
from backbench.predict.features import extracted
from backbench.predict.trust import offline
from backbench.probe import head, predict
from backbench.probe.subsets import Subset
from backbench.reference import Reference, energy
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
    trust: bool = False
    """Whether weights that aren't here may be fetched, from where the file says: it may come from a stranger."""
    weights: Path | None = None
    """Weights of one's own that the features stand on: a file, or the folder of a run."""

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

    @property
    def reference(self) -> Reference | None:
        """What the source's val says of new images; None of what an earlier version trained."""
        return None

    def strangeness(self, scores: np.ndarray, features: np.ndarray) -> tuple[str, np.ndarray]:
        """How strange each image is (N,), by scores (N, K) and features (N, D), and the name of that in ``reference``.

        A head's is the distance in the features, where it has that, and a checkpoint's the energy.
        """
        return "energy", energy(scores / self.temperature)

    def scores_on(
        self, imageset: ImageSet, *, cache_dir: Path, device, test_only: bool = False, skip: bool = False
    ) -> Scores:
        """Scores of every image of the set, or of its test images, by features that are there or are extracted now.

        ``skip`` leaves out images that can't be read. Raises UserError where that isn't possible, or what is there was
        made otherwise.
        """
        how = {"cache_dir": cache_dir, "device": device, "test_only": test_only, "skip": skip}
        (path,) = extracted([self], imageset, **how)
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


class Head(Predictor):
    """A probe's."""

    own_view = False

    @cached_property
    def saved(self) -> head.Saved:
        return head.load(self.folder)

    @property
    def reference(self) -> Reference | None:
        return self.saved.reference

    def strangeness(self, scores: np.ndarray, features: np.ndarray) -> tuple[str, np.ndarray]:
        outliers = self.saved.outliers
        return ("distance", outliers.distance(features)) if outliers else super().strangeness(scores, features)

    def place(self, imageset, cache_dir: Path) -> Path:
        return default_path(cache_dir, imageset.name, self.model)

    def backbone(self, device):
        """The frozen backbone of the head's features, and how to extract. Raises UserError where it can't be had."""
        from backbench.extract.feature_tap import tap

        identity = self.identity
        scale = identity["input_scale"]
        backbone = tap(replace(self._as_fitted(), scale=scale), identity["layer"], identity["pool"])
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

    def _as_fitted(self) -> backbones.Backbone:
        """The backbone with the weights that the features were made with. Only ``trust`` lets the network be asked."""
        identity = self.identity
        weights, drawn = predict.weights_option(identity), re.fullmatch(r"random, seed (\d{1,10})", identity["weights"])
        seed = int(drawn[1]) if drawn else identity["seed"]
        tuned, own = identity["weights"].startswith("tuned on "), identity["weights"].startswith("file ")
        if (tuned or own) and self.weights is None:
            how = predict.command(identity, "THE-OTHER-SET")
            how = "finetune features --checkpoint ITS-RUN --dataset THE-OTHER-SET" if tuned else how
            raise UserError(
                f"{self.folder} stands on weights of your own, {identity['weights']} (SHA-256 of the tensors "
                f"{identity['weights_sha256'][:12]}): extract the other images first, with {how}. For predict and "
                f"export name {'the run' if tuned else 'the file'} with --weights {'RUN' if tuned else 'FILE'}"
            )
        if tuned:
            return checkpoint.as_backbone(checkpoint.load(self.weights))
        if self.weights is not None:  # known by its tensors' digest, whatever the file is called now
            made = backbones.create(identity["model"], weights=str(self.weights), seed=seed)
            return replace(made, weights=identity["weights"])
        if weights != "hub" or self.trust:
            return backbones.create(identity["model"], weights=weights, seed=seed)
        try:
            with offline():
                return backbones.create(identity["model"], weights=weights, seed=seed)
        except UserError as error:
            raise UserError(
                f"{self.folder} stands on {identity['model']} with the weights {identity['weights']}, which are not on "
                "this machine. A head may come from a stranger, so nothing is downloaded by itself. If you trust it, "
                "--trust fetches them from the Hugging Face hub, or from where timm has them."
            ) from error

    def check(self, file) -> None:
        predict.compare(self.saved, file, self.folder)

    def score(self, file, rows: np.ndarray) -> np.ndarray:
        return self.saved.head.over(Subset(file.features, file.labels[rows], rows))


class Checkpoint(Predictor):
    """finetune's or the CNN's: the logits of the whole network are kept."""

    own_view = True

    @cached_property
    def reference(self) -> Reference | None:
        return checkpoint.reference(checkpoint.read_about(self.folder))

    @property
    def tag(self) -> str:
        """What its feature files have for weights."""
        return f"checkpoint {self.row['sha256']}"

    def place(self, imageset, cache_dir: Path) -> Path:
        return default_path(cache_dir, imageset.name, f"{self.folder.name}-{self.row['sha256'][:12]}")

    def backbone(self, device):
        """The whole network as a backbone whose features are its logits, in the precision it was trained in."""
        tuned = checkpoint.load(self.folder)
        network = logits.module(checkpoint_kind.scorer(tuned), len(self.classes))
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


def _folder(path: Path) -> Path:
    return path.parent if path.name in (head.ABOUT, head.TENSORS, checkpoint.ABOUT, checkpoint.TENSORS) else path


def is_one(path: Path) -> bool:
    """Whether ``path`` names a head or a checkpoint, as ``at`` takes it."""
    return any((_folder(path) / name).is_file() for name in (head.ABOUT, checkpoint.ABOUT))


def at(path: Path) -> Predictor:
    """The head or checkpoint in the folder ``path``, which may be named by a file in it.

    Raises UsageError where there is none, naming those below, and UserError where it can't be used.
    """
    folder = _folder(path)
    if (folder / head.ABOUT).is_file():
        return _head(folder)
    if (folder / checkpoint.ABOUT).is_file():
        if found := _checkpoint(folder):
            return found
        raise UserError(f"{folder} holds a run that diverged: train it again with a lower --lr.")
    names = (head.ABOUT, checkpoint.ABOUT)
    below = sorted({str(one.parent) for name in names for one in folder.rglob(name)}) if folder.is_dir() else []
    lies = f"These lie below: {', '.join(below[:10])}{' and more' if len(below) > 10 else ''}." if below else (
        "A head is a folder that probe --save makes, such as heads/digits/resnet50-logistic; a run is one of finetune "
        "or cnn, such as runs/digits/resnet50-simple-lp-ft-42."
    )  # fmt: skip
    found = "holds no head and no checkpoint" if folder.is_dir() else "does not exist"
    raise UsageError(f"{path} {found}. {lies}")


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
