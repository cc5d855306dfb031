"""One network on one image set: trained from scratch, chosen on val, tested once. finetune's job with another loop."""

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
"""Pictures of a forward pass where none are trained on."""

LEAST_A_CLASS = 2
"""Training pictures a class, on average, below which there is nothing to learn classes from."""


@dataclass(frozen=True)
class Settings(job.Settings):
    """How to run, apart from the recipe.

    ``compile`` is on or off. On a CPU nearly all time is oneDNN's, which compiling leaves as it is: on 2 cores steps
    were 6 % faster (Zen 4, busy) or a fifth slower (AMX), after a minute for each kind. On a GPU a run takes seconds.
    """

    compile: str = "off"


def prepared(imageset, *, split: str, share: float):
    """The set as it is to be trained on: ``usual`` gives val to train; a ``share`` of each class's train, at least one.

    Who that is depends on the names alone, as the splits do, so that a tenth lies within three tenths. Raises UserError
    where nothing could be learnt from it.
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
        codes[left] = len(SPLITS)  # in none of them
    made = replace(imageset, split=codes)
    counted = replace(imageset, split=codes[codes < len(SPLITS)], labels=imageset.labels[codes < len(SPLITS)])
    check(counted, least_val=0 if split == "usual" else LEAST_VAL)
    n, k = int((codes == splits.TRAIN).sum()), len(imageset.class_names)
    if n < LEAST_A_CLASS * k:
        raise UserError(
            f"{imageset.name}: {n:,} training pictures of {k:,} classes are too few to train a network from scratch; "
            f"at least {LEAST_A_CLASS} a class are expected. probe --shots is for so few."
        )
    return made


class Job(job.Job):
    """``held`` are the pictures of the whole set in memory, as ``cnn.pictures.read`` gives them."""

    stage = "cnn"

    def __init__(self, imageset, asked: recipe.Recipe, settings: Settings, folder: Path, *, held: torch.Tensor):
        train = np.flatnonzero(imageset.split == splits.TRAIN)
        fitted = recipe.fitted(asked, len(train))
        mean, std = images.statistics(held[train])
        made = network(fitted, len(imageset.class_names), settings.seed, mean=mean, std=std)
        self.held, self.labels = held, torch.from_numpy(imageset.labels)
        super().__init__(imageset, fitted, settings, folder, made)

    @property
    def compiled(self) -> bool:
        """Whether the network is: it is part of a run's identity, since it changes the last bits."""
        return self.settings.compile == "on"

    def flops(self) -> int:
        """Of the whole training: forward and backward passes, as torch counts them, kind of step by kind of step."""
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
        sample = self.held[train[:: -(-len(train) // whitening.PICTURES)]].permute(0, 3, 1, 2)
        whitening.put(made, (sample / 255 - mean) / std)
        made.to(self.accelerator.device, memory_format=torch.channels_last)
        said = {"weights": "random; the first layer from patches of train"}
        return made, {"num_classes": len(self.imageset.class_names)}, said

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
        """Of single views, which are enough to see where a run goes."""
        if not len(self.rows["val"]):
            return None
        scores, labels = self._scores(made, "val", check), self.imageset.labels[self.rows["val"]]
        return evaluate.top1(scores, labels), calibration.nll(np.nan_to_num(scores, posinf=0.0, neginf=0.0), labels)

    def _logits(self, tuned, split: str, scale: float, check=lambda: None) -> np.ndarray:
        return self._scores(Views(tuned, self.recipe.views), split, check)

    def _scores(self, scorer, split: str, check=lambda: None) -> np.ndarray:
        """(N, K) float32 of the pictures in memory, prepared as ``finetune.evaluate`` prepares those it reads."""
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

    def _row(self, figures, identity, chosen, at, said, earlier) -> dict:
        row = super()._row(figures, identity, chosen, at, said, earlier)
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


def network(of: recipe.Recipe, n_classes: int, seed: int, *, mean=networks.MEAN, std=networks.STD) -> Backbone:
    """The network of a recipe with fresh weights, and what it expects of pictures."""
    import timm

    torch.manual_seed(seed)
    name = f"{networks.PREFIX}{of.name}"
    made = timm.create_model(name, num_classes=n_classes, momentum=of.norm_momentum)
    config = timm.data.resolve_data_config({}, model=made)
    config |= {"input_size": (3, of.pixels, of.pixels), "mean": mean, "std": std}
    return Backbone(name, "from scratch", "", made, config)
