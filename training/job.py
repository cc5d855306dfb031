"""One training run: the start, the loop, the choice of weights on val, and one evaluation on test."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from backbench import SPLITS, UserError, __version__, calibration, coverage, details, duplicates, rows, statistics
from backbench.cache.equal import shared
from backbench.data import contents
from backbench.decisions import AUDITED
from backbench.devices import device_name
from backbench.extract.preprocess import scaled
from backbench.progress import step, tell
from backbench.training import checkpoint, checkpoint_kind, evaluate, history, onnx, outcome, state

TRAIN_SEEN = 1000
"""Largest number of train images on which the finished model's train accuracy is measured."""

SEEN = 16
"""Number of digits of a content that all checkpoints keep of the images that they have seen."""


@dataclass(frozen=True)
class Settings:
    """The settings of a run apart from its recipe; ``None`` leaves a setting to the machine."""

    accelerator: object
    precision: str
    seed: int = 42
    weights: str = "auto"
    cache_dir: Path = Path("cache")
    micro_batch: int | None = None
    workers: int | None = None
    save_every: float = 30.0
    grad_checkpointing: bool = False
    onnx: bool = False
    tracker: str | None = None
    overwrite: bool = False
    on_error: str = "fail"  # or skip, which leaves out images that can't be read


class Job:
    """The training of one model on one data set, in one folder. Subclasses define four methods.

    ``_start()`` returns the model, the arguments that make it, and a description of the start. ``_trainer(identity)``
    returns the loop, ``_logits(model, split, scale)`` the logits (N, K) of a split, and ``_choose(trainer, initial)``
    a description of the chosen weights, and these weights.
    """

    stage: str
    """The stage of its rows."""

    def __init__(self, imageset, recipe, settings: Settings, folder: Path, backbone, *, left_out=()):
        self.recipe, self.settings, self.folder = recipe, settings, folder
        self.backbone, self.accelerator, self.started = backbone, settings.accelerator, time.monotonic()
        with step(f"looking for changed images of {imageset.name}"):
            contents.look(imageset, settings.cache_dir / imageset.slug)
        self.take(imageset, left_out)

    def take(self, imageset, left_out) -> None:
        """Take the images of the data set that are in a split. The rows ``left_out`` are in none: can't be read."""
        self.imageset, self.left_out = imageset, [imageset.ids[i] for i in left_out]
        self.contents = imageset.contents.astype(str)
        self.contents[list(left_out)] = [f"left out {i}" for i in left_out]  # they equal no other image
        self.rows = {split: np.flatnonzero(imageset.split == code) for code, split in enumerate(SPLITS)}

    def row(self, results_dir: Path) -> dict:
        """Return the result row, of a run that is complete already or of this one, which resumes a stopped run."""
        identity = self.identity()
        if row := self._already(identity):
            if self.settings.onnx and not (self.folder / onnx.FILE).exists():
                onnx.to_onnx(self.folder)
            return row
        tell(f"{self.backbone.name} on {self.imageset.name}, {self.method}: {self.folder}")
        self.tuned, arguments, start = self._start()
        initial = {key: tensor.detach().cpu().clone() for key, tensor in self.tuned.state_dict().items()}
        trainer = self._trainer(identity)
        at = trainer.run()
        chosen, weights = self._choose(trainer, initial)
        diverged = at.ended.startswith("diverged")
        # The history, with its speeds, identifies this run. A run killed between writing its row and its checkpoint
        # continues here: its row stands, and test must not be read a second time.
        run = rows.digest(identity, at.history)
        row = evaluate.of_main(self.accelerator, lambda: rows.find(results_dir, run) or {})
        val = None if diverged else self._val_logits(weights, chosen)
        figures, beside = ({}, {}) if diverged or row else self._figures(val, chosen)
        if not self.accelerator.is_main_process:
            return {}
        history.write(self.folder, at.history)
        if figures:
            row = self._row(figures, identity, chosen, at, start, trainer.earlier) | {"id": run}
            named = {key: row[key] for key in ("dataset", "model", "method", "seed", "shots")}
            details.keep(results_dir, row, named | beside)
        labels = self.imageset.labels[self.rows["val"]]
        reference = None if diverged else evaluate.reference_of(val, labels, t=row["temperature"])
        if reference:
            coverage.say(self.imageset.name, len(labels))
        about = {
            key: identity[key] for key in ("model", "recipe", "seed", "precision", "dataset", "dataset_digest")
        } | {
            "timm_name": self.backbone.architecture,
            "arguments": arguments,
            "classes": self.imageset.class_names,
            "transform": self._transform(chosen["scale"]),
            "pooling": self.backbone.pooling,
            "identity": identity,
            "ended": at.ended,
            "chosen": chosen,
            "row": rows.plain(row),
            "reference": reference and reference.lists(),
            "seen": sorted({*self.contents[self.imageset.split < 2].tolist()}),
        }
        checkpoint.save(self.folder, weights, rows.plain(about))
        (self.folder / state.FILE).unlink(missing_ok=True)
        if diverged:
            raise UserError(outcome.diverged(self, at.ended, chosen))
        if self.settings.onnx:
            onnx.to_onnx(self.folder)
        return row

    @property
    def method(self) -> str:
        return checkpoint_kind.method(self.stage, asdict(self.recipe))

    def identity(self) -> dict:
        """Return all that decides the trained weights. A stopped run is resumed only where all of it is the same."""
        import timm
        import torch

        return rows.plain(
            {
                "model": self.backbone.name,
                "weights": self.backbone.weights,
                "weights_sha256": self.backbone.weights_sha256,
                "transform": self._transform(1.0),
                "dataset": self.imageset.name,
                "dataset_digest": self.imageset.digest,
                "seed": self.settings.seed,
                "recipe": asdict(self.recipe),
                "precision": self.settings.precision,
                "left_out": self.left_out or None,
                "versions": {"backbench": __version__, "timm": timm.__version__, "torch": torch.__version__},
            }
        )

    def _transform(self, scale: float) -> dict:
        levels = {"levels": self.imageset.levels} if self.imageset.levels else {}
        return {**scaled(self.backbone.config, scale), "exif": self.imageset.exif, **levels}

    def _begun(self) -> dict | None:
        """Return the identity of the run that the folder holds, finished or not, unless it is to be replaced."""
        overwrite, ours = self.settings.overwrite, self.identity()
        if (self.folder / checkpoint.ABOUT).exists() and not overwrite:
            return checkpoint.read_about(self.folder)["identity"]
        theirs = (state.about(self.folder) or {}).get("identity")
        keys = [key for key in ours if key not in ("left_out", "dataset_digest")]
        other = theirs and (
            any(state.apart(key, ours[key], theirs.get(key)) for key in keys)
            or not self.imageset.known_as(str(theirs.get("dataset_digest")))
        )
        return None if overwrite and other else theirs

    def _already(self, identity: dict) -> dict | None:
        """Return the row of a finished run in the folder, or None.

        Raises UserError where the folder holds a run of another identity, or one that diverged.
        """
        if (self.folder / checkpoint.ABOUT).exists() and not self.settings.overwrite:
            about = checkpoint.read_about(self.folder)
            self._compare(identity, about["identity"], versions=False, seen=about.get("seen"))
            if about["ended"].startswith("diverged"):
                raise UserError(outcome.diverged(self, about["ended"], about["chosen"]))
            tell(f"{self.folder} is already complete.")
            return about["row"]
        if found := state.about(self.folder):
            try:
                self._compare(identity, found["identity"], versions=True)
            except UserError:
                if not self.settings.overwrite:
                    raise
                (self.folder / state.FILE).unlink()
        return None

    def _compare(self, ours: dict, theirs: dict, *, versions: bool, seen: list[str] | None = None) -> None:
        keys = [key for key in ours if key != "dataset_digest" and (versions or key != "versions")]
        lines = [line for key in keys for line in state.apart(key, ours[key], theirs.get(key))]
        if not self.imageset.known_as(str(theirs.get("dataset_digest"))):
            lines.append(f"images: {self._changed(seen)}")
        if lines:
            raise UserError(
                f"{self.folder} holds a run with other settings:\n  "
                + "\n  ".join(lines)
                + "\n--overwrite replaces that run; --out DIR keeps both."
            )

    def _changed(self, seen: list[str] | None) -> str:
        """Say how the images of train and val differ from the contents ``seen`` that a run was trained or chosen on."""
        now, was = ({one[:SEEN] for one in some} for some in (self.contents[self.imageset.split < 2], seen or ()))
        counts = {"fewer": len(was - now), "new": len(now - was)} if seen else {}
        said = " and ".join(f"{n:,} {what}" for what, n in counts.items() if n)
        if said:
            return f"in train and val there are {said}"
        same = "train and val hold the same, but " if seen else ""
        return f"{same}classes, splits or the images of test have changed since"

    def _val_logits(self, weights: dict, chosen: dict) -> np.ndarray:
        """Load the chosen weights and return their logits (M, K) of val."""
        self.tuned.load_state_dict(weights)
        return self._logits(self.tuned, "val", chosen["scale"])

    def _figures(self, val: np.ndarray, chosen: dict) -> tuple[dict, dict]:
        """Return the row's figures and details. This is the only place where test is read."""
        test = self._logits(self.tuned, "test", chosen["scale"])
        has_val = len(self.rows["val"]) > 0  # without val the logits are not scaled
        figures, beside = evaluate.assess(test, val, self.imageset, self.rows, t=None if has_val else 1.0)
        self.rows["seen"] = self.rows["train"][:: -(-len(self.rows["train"]) // TRAIN_SEEN)]
        seen = self._logits(self.tuned, "seen", chosen["scale"])
        fitted = np.concatenate([self.rows["train"], self.rows["val"]])
        right = np.equal(beside["predicted"], beside["labels"])
        figures |= duplicates.figures(shared(self.contents), self.imageset.labels, fitted, self.rows["test"], right)
        return figures | {
            "val_top1": evaluate.top1(val, self.imageset.labels[self.rows["val"]]) if has_val else None,
            "train_top1": evaluate.top1(seen, self.imageset.labels[self.rows["seen"]]),
        }, beside

    def _row(self, figures: dict, identity: dict, chosen: dict, at, start: dict, earlier: float) -> dict:
        n = self.accelerator.num_processes
        speeds = [one["images_per_second"] for one in at.history if one["images_per_second"]]
        return rows.make(
            self.stage,
            dataset=self.imageset.name,
            model=self.backbone.name,
            method=self.method,
            seed=self.settings.seed,
            figures=figures
            | {
                "converged": None,
                "chosen": outcome.describe(chosen),
                "epochs": at.epoch,
                "n_skipped": len(self.left_out),
                "images_per_second": float(np.median(speeds)) if speeds else None,
            },
            protocol={
                **identity["recipe"],
                "start": start,
                "ended": at.ended,
                "chosen_on": "val cross-entropy at its best temperature, ties to top-1; epoch 0 is the start",
                "intervals": statistics.INTERVALS,
                "calibration": calibration.PROTOCOL,
                **({"prediction_sets": coverage.PROTOCOL} if "coverage_lac_90" in figures else {}),
                "train_top1": f"of at most {TRAIN_SEEN} images, not augmented",
                "test": "read once",
            },
            settings=identity["recipe"],
            features={k: v for k, v in identity.items() if k != "recipe"}
            | {key: getattr(self.imageset, key) for key in ("images_digest", "test_digest")}
            | ({AUDITED: self.imageset.audited.about()} if self.imageset.audited else {})
            | {"pooling": self.backbone.pooling, "input_scale": 1.0, "path": str(self.folder)},
            device=device_name(self.accelerator.device) + (f" x {n}" if n > 1 else ""),
            seconds=earlier + time.monotonic() - self.started,
        )
