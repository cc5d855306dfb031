"""Training images: timm's augmentation, seeded by run, epoch and image, in an order that a resumed run continues.

A batch is therefore the same whichever worker or process makes it, and after a restart.
"""

import random
import signal

import numpy as np

from backbench import UserError
from backbench.extract.preprocess import scaled
from backbench.finetune.recipe import Recipe
from backbench.signals import held_back


def seeded(*numbers: int) -> int:
    """Return a 32-bit seed made from several numbers by numpy's SeedSequence, which keeps near seeds unrelated."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def transform(config: dict, recipe: Recipe, *, scale: float = 1.0):
    """Return timm's training transform for the recipe, at ``scale`` times the backbone's input size."""
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
    """A map-style dataset for torch: ``images[epoch, i]`` is (tensor (3, H, W), label, error text) of image ``i``.

    The error text says why the image can't be read, and is empty where it can.
    """

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
    """Return the first epoch with larger images, or the number of epochs where no epoch has them."""
    return recipe.epochs - recipe.final_epochs if recipe.final_scale != 1 else recipe.epochs


class Batches:
    """A batch sampler from ``epoch`` and ``step`` to the last epoch, which yields lists of (epoch, image) of one size.

    Each epoch permutes ``rows`` by seed and epoch, and leaves out the images that don't fill a last batch.
    """

    drop_last = True

    def __init__(self, rows: np.ndarray, batch_size: int, *, epochs: int, seed: int, epoch: int = 0, step: int = 0):
        self.rows, self.batch_size, self.epochs, self.seed = rows, batch_size, epochs, seed
        self.epoch, self.step = epoch, step

    @property
    def steps(self) -> int:
        """Number of steps in one epoch."""
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
    """Yield this process's share of every batch as (images, labels), which ``workers`` processes make ahead of time.

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
    for batch, labels, faults in found:
        if faults:
            raise UserError(*faults)
        yield batch, labels


def _collate(samples):
    from torch.utils.data import default_collate

    faults = [f"{fault} Repair or remove it, then run the same command again." for *_, fault in samples if fault]
    if faults:
        return None, None, faults
    images, labels = default_collate([sample[:2] for sample in samples])
    return images, labels, faults


def _quiet(_):
    """Let a worker ignore Ctrl-C and the first SIGTERM, so that the main process decides what follows.

    A terminal sends Ctrl-C to all its processes, and a batch system sends SIGTERM to all processes of a job.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


class Mixing:
    """timm's mixup and cutmix between the neighbours 2j and 2j+1 of a batch, with one random draw for each batch.

    timm mixes image i with image n-1-i. The batch is reordered so that these two are neighbours. A batch that is split
    over processes, or to save memory, is therefore mixed in the same way as a whole one.
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

    def __call__(self, images, labels, *, seed: int):
        """Mix images (B, 3, H, W), B even, with labels (B,); returns images and targets (B, K).

        Where mixing is off, the images and labels are returned unchanged.
        """
        if not self.on:
            return images, labels
        import torch

        n = len(labels)
        order = torch.cat([torch.arange(0, n, 2), torch.arange(n - 1, 0, -2)]).to(labels.device)
        np.random.seed(seed)
        images, targets = self.mix(images[order].contiguous(), labels[order])
        back = order.argsort()
        return images[back], targets[back]
