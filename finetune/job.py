"""One fine-tuning run: its initial weights, its training, and the choice of weights on val."""

import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np

from backbench import calibration
from backbench.cache.schema import default_path
from backbench.devices import cores
from backbench.extract import backbones, plan
from backbench.extract.preprocess import scaled
from backbench.finetune import initialize, model
from backbench.finetune.dataloader import Images
from backbench.finetune.recipe import Recipe
from backbench.finetune.train import Trainer
from backbench.training import classifier, evaluate, left_out, state
from backbench.training import job as training
from backbench.training.job import Settings
from backbench.training.setup import check

SHARES = (0.2, 0.4, 0.6, 0.8)
"""Shares of the fine-tuned weights that ``wise="auto"`` tries besides 1."""


class Job(training.Job):
    """A pretrained backbone, trained end to end."""

    stage = "finetune"

    def __init__(self, imageset, name: str, recipe: Recipe, settings: Settings, folder: Path, *, asked: str = ""):
        backbone = backbones.create(name, weights=settings.weights, seed=settings.seed)
        super().__init__(imageset, initialize.fitting(backbone, recipe), settings, folder, backbone)
        self.whole, self.asked = imageset, asked or imageset.name

    def row(self, results_dir: Path) -> dict:
        unreadable = evaluate.of_main(self.accelerator, self._unreadable)
        self.take(left_out.without(self.whole, unreadable), unreadable)
        check(self.imageset)
        return super().row(results_dir)

    def _unreadable(self) -> list[int]:
        """Return the rows of images to leave out. A run that was begun, and features, leave out what they did.

        Raises UserError that names all images that can't be read, where they may not be left out.
        """
        imageset, skip = self.whole, self.settings.on_error == "skip"
        begun = self._begun()
        if begun is not None:
            left = begun.get("left_out") if skip else None
            return [i for i, id in enumerate(imageset.ids) if id in left] if isinstance(left, list) else []
        if self.recipe.strategy == "lp-ft":
            initialize.check_classifier(self.backbone)  # before the features are extracted
            how = self._features, self._extraction
            initialize.extracted(imageset.undecided, self.backbone, *how, command=self._command)
        rows = initialize.skipped(imageset, self._features)
        if rows is not None and (skip or not rows):
            return rows
        faults = left_out.unreadable(imageset, rows)
        if not skip:
            left_out.stop(imageset, faults)
        return list(faults)

    @property
    def _features(self) -> Path:
        return default_path(self.settings.cache_dir, self.whole.name, self.backbone.name)

    @property
    def _extraction(self) -> plan.Settings:
        skip = self.settings.on_error == "skip"
        return plan.Settings(device=self.accelerator.device, seed=self.settings.seed, skip_unreadable=skip)

    @property
    def _command(self) -> str:
        """The command that makes these features."""
        words = ["extract", "--model", self.backbone.name, "--dataset", self.asked]
        given = {"--weights": self.settings.weights, "--seed": self.settings.seed, "--exif": self.whole.exif}
        usual = {"--weights": "auto", "--seed": 42, "--exif": "ignore"}
        return shlex.join(words + [str(w) for k, v in given.items() if v != usual[k] for w in (k, v)])

    def _start(self):
        """Return the model with its initial head, the arguments that make it, and a description of the start."""
        import torch

        settings, recipe = self.settings, self.recipe
        options = {"seed": settings.seed, "drop_path": recipe.drop_path, "any_size": initialize.grows(recipe)}
        tuned, arguments = model.build(self.backbone, len(self.imageset.class_names), **options)
        start = {"head": "fresh"}
        if recipe.strategy == "lp-ft":
            start = {"head": "the probe's logistic, fitted on train"}
            classifier.linear(tuned)
            if not state.about(self.folder):  # a saved state holds that head already
                how = self.whole, self.backbone, tuned, self._features, self._extraction
                with self.accelerator.main_process_first():
                    start |= initialize.put(*how, checked=self.rows["val"])
        if settings.grad_checkpointing:
            initialize.checkpointing(tuned, self.backbone.name)
        tuned.requires_grad_(True)
        return tuned.to(self.accelerator.device, memory_format=torch.channels_last), arguments, start

    def _trainer(self, identity: dict) -> Trainer:
        settings, on_epoch = self.settings, None
        if settings.tracker:
            self.accelerator.project_configuration.logging_dir = str(self.folder)
            self.accelerator.init_trackers("backbench", {k: str(v) for k, v in identity["recipe"].items()})

            def on_epoch(row):
                self.accelerator.log({k: v for k, v in row.items() if v is not None}, step=row["epoch"])

        workers = settings.workers
        if workers is None:
            workers = min(8, cores()) if self.accelerator.device.type != "cpu" else 1
        return Trainer(
            self.tuned,
            self.recipe,
            Images(self.imageset, self.backbone.config, self.recipe, seed=settings.seed),
            self.rows["train"],
            self.accelerator,
            n_classes=len(self.imageset.class_names),
            evaluate=self._val,
            folder=self.folder,
            identity=identity,
            seed=settings.seed,
            micro_batch=settings.micro_batch,
            workers=workers,
            save_every=settings.save_every,
            on_epoch=on_epoch,
        )

    def _logits(self, tuned, split: str, scale: float, check=lambda: None) -> np.ndarray:
        prepared = replace(self.backbone, config=scaled(self.backbone.config, scale))
        return evaluate.logits(tuned, self.imageset, prepared, self.rows[split], self.accelerator, check=check)

    def _val(self, tuned, scale: float, check=lambda: None) -> tuple[float, float]:
        """Return top-1 on val, and the cross-entropy at its best temperature, by which the weights are chosen.

        Top-1 is noisy on a small val, so that the best of eleven epochs by top-1 is often only the luckiest. Label
        smoothing makes the plain cross-entropy worse than at the start (Berta et al. 2025, Rethinking early stopping,
        arXiv:2501.19195).
        """
        scores, labels = self._logits(tuned, "val", scale, check), self.imageset.labels[self.rows["val"]]
        finite = np.nan_to_num(scores, posinf=0.0, neginf=0.0)
        return evaluate.top1(scores, labels), calibration.nll(finite / calibration.temperature(finite, labels), labels)

    def _choose(self, trainer: Trainer, initial: dict) -> tuple[dict, dict]:
        """Return a description of the chosen weights, and the weights.

        They are those of the epoch that is best on val, mixed with the initial weights where ``wise`` asks for it.
        """
        best, weights, wise = trainer.at.best, trainer.best, self.recipe.wise
        if wise is None or not best["epoch"]:
            return best | {"wise": None}, weights if best[
                "epoch"
            ] else weights | trainer.start  # the head as the probe fitted it
        first, found = initial | trainer.start, []
        for share in SHARES if wise == "auto" else (wise,):
            mixed = model.mixed(first, weights, float(share))
            self.tuned.load_state_dict(mixed)
            found.append((*self._val(self.tuned, best["scale"]), share, mixed))
        top1, nll, share, mixed = max(found, key=lambda one: (-one[1], one[0]))
        if wise == "auto" and (-nll, top1) <= (-best["val_nll"], best["val_top1"]):
            return best | {"wise": 1.0}, weights
        return best | {"wise": share, "val_top1": top1, "val_nll": nll}, mixed
