"""Trained models: probe heads and checkpoints, and their scores of images.

Both use feature files. A head scores the backbone's features; a checkpoint's logits are kept in a file of their own, so
that the same weights never see an image twice. Files of their own are named after the set's view (``+test``, ``+all``)
and, for a checkpoint, its digest.
"""

import re
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from backbench import UserError
from backbench.cache import schema
from backbench.cache.features import open_file
from backbench.cache.schema import default_path
from backbench.data.imageset import ImageSet
from backbench.decisions import data_sets
from backbench.extract import backbones, plan
from backbench.predict import logits
from backbench.predict.features import extracted
from backbench.predict.trust import offline
from backbench.probe import head, predict
from backbench.probe.subsets import Subset
from backbench.reference import Reference, energy
from backbench.training import checkpoint, checkpoint_kind
from backbench.training.job import SEEN


@dataclass(frozen=True)
class Scores:
    """Of N images by K classes: ``scores`` (N, K) float32, ``labels`` (N,) in the image set's classes, ``ids``.

    ``n_skipped`` more couldn't be read. ``strange`` (N,) says how strange each is, by the score ``strange_by``, see
    ``Predictor.strangeness``.
    """

    scores: np.ndarray
    labels: np.ndarray
    ids: list[str]
    identity: dict = field(repr=False)
    n_skipped: int = 0
    strange: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32), repr=False)
    strange_by: str | None = None


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

    def has_seen(self, contents: np.ndarray, cache_dir: Path) -> np.ndarray:
        """Which images, by their contents (N,), it was fitted or chosen on (N,): as far as that can be known here."""
        raise NotImplementedError

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
            scores, strange, by = self.score(file, rows), np.empty(len(rows), np.float32), None
            for at, x in Subset(file.features, file.labels[rows], rows).blocks():
                by, strange[at] = self.strangeness(scores[at], x)
            return Scores(
                scores,
                file.labels[rows],
                [ids[i] for i in rows],
                file.identity | file.measured,
                int((asked & (file.done == schema.SKIPPED)).sum()),
                strange,
                by,
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

    def has_seen(self, contents: np.ndarray, cache_dir: Path) -> np.ndarray:
        path = default_path(cache_dir, self.source, self.model)
        if path.is_file():
            with open_file(path, check=False) as file:
                if file.contents is not None and file.identity["dataset_digest"] in data_sets(self.identity):
                    return np.isin(contents, file.contents[file.split < 2])
        return np.zeros(len(contents), bool)

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
        transform |= {"exif": self.exif} | ({"crop_seed": settings.seed} if settings.views > 2 else {})
        made |= {"transform": transform, "pooling": backbone.pooling, "input_scale": scale}
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
            return replace(self._created(str(self.weights), seed), weights=identity["weights"])
        return self._created(weights, seed)

    def _created(self, weights: str, seed: int) -> backbones.Backbone:
        """The backbone by its name, which may be a repository's whatever the weights are."""
        model = self.identity["model"]
        if self.trust:
            return backbones.create(model, weights=weights, seed=seed)
        try:
            with offline():
                return backbones.create(model, weights=weights, seed=seed)
        except UserError as error:
            if model.startswith("local-dir:") or not (weights == "hub" or model.startswith("hf-hub:")):
                raise  # nothing was to be fetched
            raise UserError(
                f"{self.folder} stands on {model} with the weights {self.identity['weights']}, which are not on this "
                "machine. A head may come from a stranger, so nothing is downloaded by itself. If you trust it, "
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

    def has_seen(self, contents: np.ndarray, cache_dir: Path) -> np.ndarray:
        seen = [one[:SEEN].encode() for one in checkpoint.read_about(self.folder).get("seen") or ()]
        return np.isin(contents.astype(f"S{SEEN}"), seen)

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
