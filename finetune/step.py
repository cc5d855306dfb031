"""One update of the weights from a batch, which is split over processes and into pieces that fit into memory."""

import contextlib
import sys

from backbench import UserError
from backbench.finetune.dataloader import Mixing, seeded
from backbench.finetune.recipe import Recipe
from backbench.finetune.strategies import head_names


class Step:
    """``step(images, labels, epoch, number)`` makes one update and returns the batch's mean loss.

    ``micro`` is the number of images that go through the model at a time. It is halved for the rest of the run where
    memory is too small. A batch in pieces gives the same gradient as a whole one, apart from BatchNorm in train mode.
    """

    def __init__(self, model, optimizer, ema, recipe: Recipe, accelerator, *, n_classes: int, seed: int, micro: int):
        self.model, self.optimizer, self.ema, self.recipe = model, optimizer, ema, recipe
        self.accelerator, self.seed, self.micro = accelerator, seed, micro
        self.mixing = Mixing(recipe, n_classes)
        self.wrapped = model

    def wrap(self) -> None:
        """Prepare the model again for several processes, which must know which weights train."""
        if self.accelerator.num_processes > 1:
            self.wrapped = self.accelerator.prepare_model(self.model)

    def __call__(self, images, labels, epoch: int, number: int) -> float:
        import torch

        while True:
            self.optimizer.zero_grad(set_to_none=True)
            try:
                loss = self._gradients(images, labels, epoch, number)
                break
            except RuntimeError as error:
                if not isinstance(error, torch.OutOfMemoryError) and "DefaultCPUAllocator" not in str(error):
                    raise
                self._halve()
        self._clip()
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update(self.model)
        return float(self.accelerator.reduce(loss, "mean"))

    def _gradients(self, images, labels, epoch: int, number: int):
        import torch

        from backbench.finetune.depthwise import FastDepthwise

        n, rank, total = len(labels), self.accelerator.process_index, 0.0
        smoothing = 0.0 if self.mixing.on else self.recipe.smoothing
        for first in range(0, n, self.micro):
            piece = slice(first, first + self.micro)
            torch.manual_seed(seeded(self.seed, epoch, number, rank * n + first))  # dropout, stochastic depth
            x = images[piece].to(self.accelerator.device, memory_format=torch.channels_last, non_blocking=True)
            y = labels[piece].to(self.accelerator.device, non_blocking=True)
            x, y = self.mixing(x, y, seed=seeded(self.seed, epoch, number))
            last = first + self.micro >= n
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.wrapped):
                with self.accelerator.autocast():
                    logits = self.wrapped(x)
                loss = torch.nn.functional.cross_entropy(logits.float(), y, label_smoothing=smoothing)
                loss = loss * (len(x) / n)
                # On other devices the context would only slow every operation down.
                with FastDepthwise() if self.accelerator.device.type == "cpu" else contextlib.nullcontext():
                    self.accelerator.backward(loss)
            total = total + loss.detach()
        return total

    def _halve(self) -> None:
        import torch

        device, fewer = self.accelerator.device, max(2, self.micro // 4 * 2)
        if self.accelerator.num_processes > 1 or self.micro <= 2:
            hint = f"--micro-batch {fewer}" if self.micro > 2 else "--grad-checkpointing"
            raise UserError(f"{self.micro} images at a time don't fit into the memory of {device}. Try {hint}.")
        self.micro = fewer
        self.optimizer.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.empty_cache()
        print(
            f"{device} ran out of memory. Training continues with {fewer} images at a time and the same batch size.",
            file=sys.stderr,
        )

    def _clip(self) -> None:
        from timm.utils import dispatch_clip_grad

        if self.recipe.agc:
            head = head_names(self.model)  # which Brock et al. (2021) leave as it is
            others = [p for name, p in self.model.named_parameters() if name not in head and p.grad is not None]
            dispatch_clip_grad(others, self.recipe.agc, mode="agc")
        elif self.recipe.clip:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
