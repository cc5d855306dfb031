"""Training pictures: timm's augmentation, every one seeded by run, epoch and image, in an order that can be taken up.

So a batch is the same whichever worker, process or second start makes it.
"""

import os
import random
import signal

import numpy as np

from backbench import UserError
from backbench.extract.preprocess import scaled
from backbench.finetune.recipe import Recipe
from backbench.signals import held_back


def seeded(*numbers: int) -> int:
    """A seed of 32 bits from several numbers, as unlike its neighbours' as numpy can make it."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def transform(config: dict, recipe: Recipe, *, scale: float = 1.0):
    """timm's training transform of the recipe at ``scale`` times the backbone's input size."""
    from timm.data import create_transform

    return create_transform(
        input_size=scaled(config, scale)["input_size"],
        is_training=True,
        scale=(recipe.crop, 1.0),
        hflip=recipe.hflip,
        color_jitter=recipe.color_jitter or None,
        auto_augment=recipe.auto_augment or None,
        interpolation=config["interpolation"],
        mean=config["mean"],
        std=config["std"],
        re_prob=recipe.re_prob,
        re_mode="pixel",
    )


class Images:
    """As torch's Dataset: ``images[epoch, i]`` is image i's tensor (3, H, W), label, and why it can't be read ('')."""

    def __init__(self, imageset, config: dict, recipe: Recipe, *, seed: int):
        self.imageset, self.seed = imageset, seed
        self.first, self.last = transform(config, recipe), transform(config, recipe, scale=recipe.final_scale)
        self.grows_at = grows_at(recipe)

    def __getitem__(self, key):
        import torch

        epoch, i = key
        made = self.last if epoch >= self.grows_at else self.first
        seed = seeded(self.seed, epoch, i)
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        try:
            return made(self.imageset.read(i)), int(self.imageset.labels[i]), ""
        except UserError as error:
            return torch.zeros(1), 0, str(error)


def grows_at(recipe: Recipe) -> int:
    """The epoch from which pictures are larger."""
    return recipe.epochs - recipe.final_epochs if recipe.final_scale != 1 else recipe.epochs


class Batches:
    """Batch sampler from ``epoch``, ``step`` to the last epoch: lists of (epoch, image). All of one size.

    An epoch is a permutation of ``rows`` by seed and epoch; what doesn't fill a batch is left out of that epoch.
    """

    drop_last = True

    def __init__(self, rows: np.ndarray, batch_size: int, *, epochs: int, seed: int, epoch: int = 0, step: int = 0):
        self.rows, self.batch_size, self.epochs, self.seed = rows, batch_size, epochs, seed
        self.epoch, self.step = epoch, step

    @property
    def steps(self) -> int:
        """Of one epoch."""
        return len(self.rows) // self.batch_size

    def __len__(self) -> int:
        return max(0, (self.epochs - self.epoch) * self.steps - self.step)

    def __iter__(self):
        for epoch in range(self.epoch, self.epochs):
            order = np.random.default_rng((self.seed, epoch)).permutation(self.rows)
            for step in range(self.step if epoch == self.epoch else 0, self.steps):
                chosen = order[step * self.batch_size : (step + 1) * self.batch_size]
                yield [(epoch, i) for i in chosen.tolist()]


def loader(images: Images, batches: Batches, accelerator, *, workers: int):
    """This process's share of every batch, (images, labels), made by ``workers`` others, ahead of time.

    Raises UserError for images that can't be read.
    """
    from accelerate.data_loader import BatchSamplerShard
    from torch.utils.data import DataLoader

    share = BatchSamplerShard(batches, accelerator.num_processes, accelerator.process_index, split_batches=True)
    found = DataLoader(
        images,
        batch_sampler=share,
        num_workers=workers,
        worker_init_fn=_quiet,
        collate_fn=_collate,
        pin_memory=accelerator.device.type == "cuda",
    )
    with held_back(signal.SIGTERM):  # until the workers are ``_quiet``; torch would have them end at once
        found = iter(found)
    for pictures, labels, faults in found:
        if faults:
            raise UserError(*faults)
        yield pictures, labels


def _collate(samples):
    from torch.utils.data import default_collate

    faults = [f"{fault} Mend it or take it out, then run the same command again." for *_, fault in samples if fault]
    if faults:
        return None, None, faults
    pictures, labels = default_collate([sample[:2] for sample in samples])
    return pictures, labels, faults


def _quiet(_):
    """Ctrl-C reaches every process of a terminal, and a batch system's SIGTERM every one of a job: the main one decides
    what follows. From the second SIGTERM on it is meant."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


class Mixing:
    """timm's mixup and cutmix between neighbours 2j and 2j+1 of a batch, by one draw for the whole of it.

    timm mixes image i with image n-1-i; the order in which they are given makes neighbours of those, so that a batch
    cut in pieces, over processes or for want of memory, is mixed as it would be whole.
    """

    def __init__(self, recipe: Recipe, n_classes: int):
        from timm.data import Mixup

        self.on = recipe.mixup > 0 or recipe.cutmix > 0
        if self.on:
            self.mix = Mixup(
                mixup_alpha=recipe.mixup,
                cutmix_alpha=recipe.cutmix,
                prob=recipe.mix_prob,
                label_smoothing=recipe.smoothing,
                num_classes=n_classes,
            )

    def __call__(self, pictures, labels, *, seed: int):
        """Pictures (B, 3, H, W), B even, and labels (B,) to pictures and targets (B, K), or what came if it is off."""
        if not self.on:
            return pictures, labels
        import torch

        n = len(labels)
        order = torch.cat([torch.arange(0, n, 2), torch.arange(n - 1, 0, -2)]).to(labels.device)
        np.random.seed(seed)
        pictures, targets = self.mix(pictures[order].contiguous(), labels[order])
        back = order.argsort()
        return pictures[back], targets[back]


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
