"""The training loop of one model and one recipe, which a stopped run resumes.

Random numbers come from seeds made of run, epoch, step and position in the batch, so no generator's state is kept.
A run that was killed and resumed makes the same steps as an uninterrupted one.
"""

import contextlib
import math
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np

from backbench import UserError
from backbench.finetune import strategies
from backbench.finetune.dataloader import Batches, grows_at, loader
from backbench.finetune.recipe import Recipe
from backbench.finetune.step import Step
from backbench.progress import progress, tell
from backbench.training import state
from backbench.training.loop import SAVING, Diverged, Progress, device_failed
from backbench.training.stopping import Stopped, Stopper

COLLAPSED = 2
"""Number of epochs in a row with less than half the best val top-1 that count as divergence."""


class Trainer:
    """Trains ``model`` on the images ``rows``.

    ``evaluate(model, scale, check)`` returns val top-1, by which progress is judged, and the NLL, by which weights are
    chosen. It calls ``check()`` between batches. ``on_epoch`` is called with the history's row after every epoch.
    The attribute ``start`` holds the classifier's initial weights.
    """

    def __init__(
        self,
        model,
        recipe: Recipe,
        images,
        rows: np.ndarray,
        accelerator,
        *,
        n_classes: int,
        evaluate,
        folder: Path,
        identity: dict,
        seed: int,
        micro_batch: int | None = None,
        workers: int = 0,
        save_every: float = 30.0,
        on_epoch=None,
    ):
        from timm.optim import create_optimizer_v2
        from timm.scheduler import create_scheduler_v2
        from timm.utils import ModelEmaV3

        self.model, self.recipe, self.images, self.rows, self.accelerator = model, recipe, images, rows, accelerator
        self.evaluate, self.folder, self.identity, self.seed = evaluate, folder, identity, seed
        self.workers, self.save_every, self.on_epoch = workers, save_every, on_epoch
        self.start = {key: model.state_dict()[key].detach().cpu().clone() for key in strategies.head_names(model)}
        strategies.soften(model, recipe)
        processes = accelerator.num_processes
        self.batch_size = min(recipe.batch_size, len(rows)) // (2 * processes) * 2 * processes
        if not self.batch_size:
            raise UserError(f"train has {len(rows)} images, but at least {2 * processes} are needed.")
        local = self.batch_size // processes
        self.steps = steps = len(rows) // self.batch_size
        self.optimizer = create_optimizer_v2(
            strategies.groups(model, recipe), opt=recipe.optimizer, lr=recipe.lr, weight_decay=recipe.weight_decay
        )
        warmup = recipe.warmup_epochs if recipe.warmup_epochs < recipe.epochs else 0
        self.scheduler, _ = create_scheduler_v2(
            self.optimizer,
            sched="cosine" if recipe.schedule == "cosine" else "step",
            num_epochs=recipe.epochs,
            decay_epochs=10 * recipe.epochs,  # the constant schedule never decays
            warmup_epochs=warmup,
            warmup_lr=recipe.lr / 100,
            step_on_epochs=False,
            updates_per_epoch=steps,
        )
        memory = recipe.ema * steps * recipe.epochs
        self.ema = ModelEmaV3(model, decay=1 - 1 / memory) if memory > 1 else None
        self.gradual = strategies.Gradual(model, recipe)
        micro = min(micro_batch or local, local)
        options = {"n_classes": n_classes, "seed": seed, "micro": micro + micro % 2}
        self.step = Step(model, self.optimizer, self.ema, recipe, accelerator, **options)
        self.at = Progress()
        self.best: dict = {}
        self.earlier = 0.0  # seconds of training before this process
        self.saved, self.cost = time.monotonic(), 0.0

    def run(self) -> Progress:
        """Train to the end. Ctrl-C and SIGTERM finish the step, save the state and then stop the process.

        Raises UserError for a failed device, memory too small for two images, unreadable images and a full disk.
        """
        if found := state.about(self.folder):
            self._resume(found)
        self._open()
        batches = Batches(
            self.rows,
            self.batch_size,
            epochs=self.recipe.epochs,
            seed=self.seed,
            epoch=self.at.epoch,
            step=self.at.step,
        )
        stream = loader(self.images, batches, self.accelerator, workers=self.workers)
        with Stopper() as self.stopper, contextlib.closing(stream):
            try:
                if not self.at.best:
                    self._judge(loss=None)
                    self.save()
                while not self.at.ended:
                    self._epoch(stream)
            except Diverged as diverged:
                self.at.ended = f"diverged: {diverged}"
            except Stopped:
                self.save()
                self.stopper.leave()
            except UserError:
                with contextlib.suppress(UserError):  # the fault itself, where the disk is full
                    self.save()
                raise
            except RuntimeError as error:
                device_failed(error, self.accelerator.device)
                raise
        self.save()
        return self.at

    def _resume(self, found: dict) -> None:
        try:
            self.at = Progress(**found["progress"])
        except TypeError:
            raise UserError(f"{self.folder / state.FILE} is from another version. --overwrite starts again.") from None
        kept = state.read(self.folder, model=self.model, optimizer=self.optimizer, ema=self.ema)
        self.best, self.start, self.earlier = kept["best"], kept["start"], self.at.seconds
        vars(self.gradual).update(self.at.gradual)
        if not self.at.ended:
            tell(f"resuming at epoch {self.at.epoch + 1}, step {self.at.step + 1}")

    def save(self) -> None:
        """Save the training state. Of several processes only the main one writes."""
        if not self.accelerator.is_main_process:
            return
        started = time.monotonic()
        self.at.gradual = self.gradual.state()
        about = {"identity": self.identity, "progress": asdict(self.at)}
        kept = {"best": self.best, "start": self.start}
        state.write(self.folder, model=self.model, optimizer=self.optimizer, ema=self.ema, kept=kept, about=about)
        self.saved = time.monotonic()
        self.cost = self.saved - started

    def _open(self) -> None:
        """Let the open stages train, and wrap the model again for several processes, which must know of it."""
        strategies.open_stages(self.model, self.gradual.opened)
        self.step.wrap()

    def _epoch(self, stream) -> None:
        at = self.at
        strategies.train_mode(self.step.wrapped, self.recipe)
        label = f"epoch {at.epoch + 1}/{self.recipe.epochs}"
        with progress(self.steps * self.batch_size, label, done=at.step * self.batch_size) as advance:
            started = time.monotonic()
            while at.step < self.steps:
                self.scheduler.step_update(at.updates)
                loss = self.step(*next(stream), at.epoch, at.step)
                if not math.isfinite(loss):
                    raise Diverged(f"the loss is not finite at epoch {at.epoch + 1}, step {at.step + 1}")
                now = time.monotonic()
                at.loss, at.step, at.updates = at.loss + loss, at.step + 1, at.updates + 1
                at.seconds, at.epoch_seconds = at.seconds + now - started, at.epoch_seconds + now - started
                started = now
                advance(self.batch_size)
                self.stopper.check()
                if now - self.saved > (max(self.save_every, self.cost / SAVING) if self.save_every else 0):
                    self.save()
                    started = time.monotonic()
        self._judge(loss=at.loss / self.steps)

    def _judge(self, *, loss: float | None) -> None:
        """Evaluate on val after an epoch, or before the first where ``loss`` is None, and keep the best weights.

        This also decides whether a stage opens and whether training ends.
        """
        at, recipe = self.at, self.recipe
        epoch = 0 if loss is None else at.epoch + 1
        scale = recipe.final_scale if epoch > grows_at(recipe) else 1.0
        models = {"tuned": self.model} | ({"EMA": self.ema.module} if self.ema is not None and epoch else {})
        found = {weights: self.evaluate(model, scale, self.stopper.check) for weights, model in models.items()}
        # Nothing below can be interrupted: either all of it is done, or val is evaluated again.
        before = max((v for one in at.history for k, v in one.items() if k.startswith("val_top1_")), default=-1.0)
        for weights, (top1, nll) in found.items():
            if not at.best or (-nll, top1) > (-at.best["val_nll"], at.best["val_top1"]):
                at.best = {"epoch": epoch, "weights": weights, "val_top1": top1, "val_nll": nll, "scale": scale}
                self.best = {k: tensor.detach().cpu().clone() for k, tensor in models[weights].state_dict().items()}
        top1 = max(one for one, _ in found.values())
        row = {
            "epoch": epoch,
            "train_loss": loss,
            **{f"val_top1_{weights.lower()}": one for weights, (one, _) in found.items()},
            **{f"val_nll_{weights.lower()}": nll for weights, (_, nll) in found.items()},
            "lr": max(group["lr"] for group in self.optimizer.param_groups),
            "stages": self.gradual.opened or None,
            "scale": scale,
            "images_per_second": at.step * self.batch_size / at.epoch_seconds if at.epoch_seconds else None,
        }
        at.history.append(row)
        if self.on_epoch:
            self.on_epoch(row)
        if loss is None:
            return
        tell(f"epoch {epoch}/{recipe.epochs}: loss {loss:.3f}, val top-1 {top1:.1%}")
        at.epoch, at.step, at.loss, at.epoch_seconds = at.epoch + 1, 0, 0.0, 0.0
        at.collapsed = at.collapsed + 1 if top1 < before / 2 else 0
        if at.collapsed == COLLAPSED:
            raise Diverged(f"val top-1 is {top1:.1%} after epoch {epoch}, and was {before:.1%}")
        opens, stops = self.gradual.after(epoch - 1, progress=top1 > before + recipe.min_delta)
        if opens:
            self._open()
        if stops:
            at.ended = f"no progress in {recipe.patience} epochs"
        elif at.epoch >= recipe.epochs:
            at.ended = "all epochs"
