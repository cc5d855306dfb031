"""One run of the CIFAR network on one data set: it is trained from scratch, chosen on val and tested once."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from backbench import SPLITS, UserError, calibration
from backbench.cnn import images, recipe, whitening
from backbench.cnn import model as networks
from backbench.cnn.train import Trainer
from backbench.data import splits
from backbench.extract.backbones import Backbone
from backbench.training import evaluate, job
from backbench.training.setup import LEAST_VAL, check
from backbench.training.views import Views

AT_A_TIME = 500
"""Number of images in a forward pass of an evaluation."""

LEAST_A_CLASS = 2
"""Smallest mean number of training images for each class."""


@dataclass(frozen=True)
class Settings(job.Settings):
    """The settings of a run apart from its recipe.

    ``compile`` is on or off. On a CPU oneDNN takes nearly all the time, and compiling doesn't change it. On 2 cores
    steps were 6 % faster (Zen 4, busy) or a fifth slower (AMX), after a minute of compiling for each kind of step. On
    a GPU a run takes seconds anyway.
    """

    compile: str = "off"


def prepared(imageset, *, split: str, share: float):
    """Return the data set with the split to train on. The split ``usual`` adds val to train.

    ``share`` keeps that part of each class's train images, at least one. Which ones depends on their names alone, as
    the splits do, so that a tenth is part of three tenths. Raises UserError where too little is left to train on.
    """
    codes = imageset.split.copy()
    if split == "usual":
        codes[codes == splits.VAL] = splits.TRAIN
    if share < 1:
        train = np.flatnonzero(codes == splits.TRAIN)
        order = train[splits.shuffled([imageset.ids[i] for i in train], seed=0)]
        keep = [
            of[: max(1, round(share * len(of)))]
            for k in range(len(imageset.class_names))
            if len(of := order[imageset.labels[order] == k])
        ]
        left = np.setdiff1d(train, np.concatenate(keep) if keep else train)
        codes[left] = len(SPLITS)  # in none of the splits
    made = replace(imageset, split=codes)
    counted = replace(imageset, split=codes[codes < len(SPLITS)], labels=imageset.labels[codes < len(SPLITS)])
    check(counted, least_val=0 if split == "usual" else LEAST_VAL)
    n, k = int((codes == splits.TRAIN).sum()), len(imageset.class_names)
    if n < LEAST_A_CLASS * k:
        raise UserError(
            f"{imageset.name}: {n:,} training images of {k:,} classes are too few to train a network from scratch; "
            f"at least {LEAST_A_CLASS} for each class are expected. For so few images, use probe --shots."
        )
    return made


class Job(job.Job):
    """The training of one network. ``held`` are all images of the data set, as ``cnn.images.read`` returns them.

    The rows ``left`` couldn't be read, and are in no split.
    """

    stage = "cnn"

    def __init__(
        self, imageset, asked: recipe.Recipe, settings: Settings, folder: Path, *, held: torch.Tensor, left=()
    ):
        train = np.flatnonzero(imageset.split == splits.TRAIN)
        fitted = recipe.fitted(asked, len(train))
        mean, std = images.statistics(held[train])
        made = network(fitted, len(imageset.class_names), settings.seed, mean=mean, std=std)
        self.held, self.labels = held, torch.from_numpy(imageset.labels)
        super().__init__(imageset, fitted, settings, folder, made, left_out=left)

    @property
    def compiled(self) -> bool:
        """Whether the network is compiled. This is part of a run's identity, since it changes the last bits."""
        return self.settings.compile == "on"

    def flops(self) -> int:
        """Return the floating point operations of all forward and backward passes in training, as torch counts them."""
        made, n = self.backbone.model, len(self.rows["train"])
        total = 0
        for (side, bias), steps in recipe.kinds(self.recipe, n).items():
            made.whiten.bias.requires_grad_(bias)
            total += steps * self.recipe.batch_size * networks.training_flops(made, side)
        made.whiten.bias.requires_grad_(True)
        return total

    def identity(self) -> dict:
        return super().identity() | {"n_train": len(self.rows["train"]), "compiled": self.compiled}

    def _start(self):
        made = self.backbone.model
        mean, std = (torch.tensor(self.backbone.config[key]).view(3, 1, 1) for key in ("mean", "std"))
        train = self.rows["train"]  # in the order of classes
        sample = self.held[train[:: -(-len(train) // whitening.IMAGES)]].permute(0, 3, 1, 2)
        whitening.put(made, (sample / 255 - mean) / std)
        made.to(self.accelerator.device, memory_format=torch.channels_last)
        start = {"weights": "random; the first layer from patches of train"}
        return made, {"num_classes": len(self.imageset.class_names)}, start

    def _trainer(self, identity: dict) -> Trainer:
        train, device = self.rows["train"], self.accelerator.device
        return Trainer(
            self.tuned,
            self.recipe,
            self.held[train].to(device),
            self.labels[train].to(device),
            self.accelerator,
            mean=self.backbone.config["mean"],
            std=self.backbone.config["std"],
            evaluate=self._val_of_epoch,
            folder=self.folder,
            identity=identity,
            seed=self.settings.seed,
            compiled=self.compiled,
            save_every=self.settings.save_every,
        )

    def _val_of_epoch(self, made, check) -> tuple[float, float] | None:
        """Return top-1 and cross-entropy on val without test-time augmentation, or None where there is no val."""
        if not len(self.rows["val"]):
            return None
        scores, labels = self._scores(made, "val", check), self.imageset.labels[self.rows["val"]]
        return evaluate.top1(scores, labels), calibration.nll(np.nan_to_num(scores, posinf=0.0, neginf=0.0), labels)

    def _logits(self, tuned, split: str, scale: float, check=lambda: None) -> np.ndarray:
        return self._scores(Views(tuned, self.recipe.views), split, check)

    def _scores(self, scorer, split: str, check=lambda: None) -> np.ndarray:
        """Return logits (N, K) float32 of the images in memory, preprocessed as by ``training.evaluate``."""
        scorer.eval()
        found, device = [np.empty((0, len(self.imageset.class_names)), np.float32)], self.accelerator.device
        with torch.inference_mode(), self.accelerator.autocast():
            for rows in torch.from_numpy(self.rows[split]).split(AT_A_TIME):
                batch = self.held[rows].to(device).permute(0, 3, 1, 2)
                found.append(scorer(self.backbone.normalise(batch)).float().cpu().numpy())
                check()
        return np.concatenate(found)

    def _choose(self, trainer: Trainer, initial: dict) -> tuple[dict, dict]:
        return trainer.at.best | {"wise": None}, trainer.best

    def _row(self, figures, identity, chosen, at, start, earlier) -> dict:
        row = super()._row(figures, identity, chosen, at, start, earlier)
        row["protocol"] |= {
            "chosen_on": "val top-1 of single views, ties to the lower val cross-entropy"
            if len(self.rows["val"])
            else "nothing: the last epoch's weights",
            "seconds": "train_seconds: steps alone, without compiling, val and test",
        }
        return row | {
            "parameters": sum(weight.numel() for weight in self.tuned.parameters()),
            "macs": networks.forward_macs(self.tuned, self.recipe.pixels),
            "train_flops": self.flops(),
            "train_seconds": at.seconds,
            "steps": at.updates,
        }


def network(settings: recipe.Recipe, n_classes: int, seed: int, *, mean=networks.MEAN, std=networks.STD) -> Backbone:
    """Return the network of a recipe with random weights, and its preprocessing."""
    import timm

    torch.manual_seed(seed)
    name = f"{networks.PREFIX}{settings.name}"
    made = timm.create_model(name, num_classes=n_classes, momentum=settings.norm_momentum)
    config = timm.data.resolve_data_config({}, model=made)
    config |= {"input_size": (3, settings.pixels, settings.pixels), "mean": mean, "std": std}
    return Backbone(name, "from scratch", "", made, config)
