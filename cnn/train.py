"""The loop for pictures that fit into memory, from wherever it was stopped to the last epoch.

Everything random is drawn from seeds made of run, epoch and step, so that a run that was killed and goes on makes the
same steps as an unbroken one.
"""

import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from backbench import UserError
from backbench.cnn import data_pruning
from backbench.cnn import recipe as recipes
from backbench.cnn.cuda_graph import Replay
from backbench.cnn.images import Varied, resized
from backbench.cnn.muon import Muon
from backbench.progress import progress
from backbench.training import state
from backbench.training.loop import SAVING, Diverged, Progress, device_failed
from backbench.training.stopping import Stopped, Stopper


def optimizer(model, recipe: recipes.Recipe, *, dtype) -> Muon:
    """Muon for the blocks' filters, SGD for what else trains; the first layer's bias is the first group."""
    filters = [weight for weight in model.blocks.parameters() if weight.ndim == 4]
    biases = [weight for name, weight in model.blocks.named_parameters() if name.endswith("bias")]
    decay = recipe.weight_decay * recipe.batch_size
    how = {"momentum": recipe.momentum_sgd, "weight_decay": decay}
    groups = [
        {"params": [model.whiten.bias], "lr": recipe.lr_bias, **how},
        {"params": biases, "lr": recipe.lr_bias, **how},
        {"params": [model.head.weight], "lr": recipe.lr_head, **how},
        {"params": filters, "lr": recipe.lr, "momentum": recipe.momentum, "filters": True},
    ]
    return Muon(groups, dtype=dtype)


class Trainer:
    """``pictures`` (N, H, W, 3) uint8 and ``labels`` (N,), both on the device, are what is trained on.

    ``evaluate(model, check)`` gives val top-1 and NLL, or None where there is no val: then the last weights are kept.
    """

    def __init__(
        self,
        model,
        recipe: recipes.Recipe,
        pictures: torch.Tensor,
        labels: torch.Tensor,
        accelerator,
        *,
        mean: tuple,
        std: tuple,
        evaluate,
        folder: Path,
        identity: dict,
        seed: int,
        compiled: bool = False,
        save_every: float = 30.0,
    ):
        self.model, self.recipe, self.pictures, self.labels = model, recipe, pictures, labels
        self.accelerator, self.mean, self.std, self.evaluate = accelerator, mean, std, evaluate
        self.folder, self.identity, self.seed, self.save_every = folder, identity, seed, save_every
        self.low = torch.bfloat16 if accelerator.mixed_precision == "bf16" else torch.float32
        self.optimizer = optimizer(model, recipe, dtype=self.low)
        self.forward = torch.compile(model, dynamic=False) if compiled else model
        self.compiled = compiled
        self.at = Progress()
        self.best: dict = {}
        self.losses = torch.full((len(labels),), torch.inf, device=labels.device)  # of each picture, when last seen
        self.order = torch.arange(len(labels))  # of this epoch's pictures
        self.earlier = 0.0  # seconds of training before this process
        self.warm: set = set()
        self.saved, self.cost = time.monotonic(), 0.0
        self.varied: Varied | None = None

    @property
    def steps(self) -> int:
        """Of this epoch."""
        return len(self.order) // self.recipe.batch_size

    @property
    def done(self) -> float:
        """Share of the run that is over; epochs count alike, however many pictures they show."""
        return (self.at.epoch + self.at.step / self.steps) / self.recipe.epochs

    def run(self) -> Progress:
        """Train to the end. Ctrl-C and SIGTERM finish the step, save, and stop as they do elsewhere.

        Raises UserError: no memory for the batch, a full disk.
        """
        if found := state.about(self.folder):
            self._resume(found)
        with Stopper() as self.stopper:
            try:
                while not self.at.ended:
                    self._epoch()
            except Diverged as diverged:
                self.at.ended = f"diverged: {diverged}"
                if not self.best:
                    (self.folder / state.FILE).unlink(missing_ok=True)
                    raise UserError(f"{self.folder}: {diverged}. Nothing is kept. Try a lower --set lr=...") from None
            except Stopped:
                self.save()
                self.stopper.leave()
            except RuntimeError as error:
                if isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error):
                    raise UserError(
                        f"no memory for {self.recipe.batch_size} pictures at a time on {self.accelerator.device}. "
                        "What was saved is kept; a smaller --batch-size is another run."
                    ) from error
                device_failed(error, self.accelerator.device)
                raise
        self.save()
        return self.at

    def _resume(self, found: dict) -> None:
        try:
            self.at = Progress(**found["progress"])
        except TypeError:
            raise UserError(f"{self.folder / state.FILE} is of another version. --overwrite begins anew.") from None
        kept = state.read(self.folder, model=self.model, optimizer=self.optimizer, ema=None)
        self.best = kept["best"]
        self.losses, self.order = kept["seen"]["losses"].to(self.labels.device), kept["seen"]["order"]
        self.earlier = self.at.seconds
        if not self.at.ended:
            print(f"going on with epoch {self.at.epoch + 1}, step {self.at.step + 1}", file=sys.stderr)

    def save(self) -> None:
        """Keep where the run is."""
        started = time.monotonic()
        about = {"identity": self.identity, "progress": asdict(self.at)}
        kept = {"best": self.best, "seen": {"losses": self.losses, "order": self.order}}
        state.write(self.folder, model=self.model, optimizer=self.optimizer, ema=None, kept=kept, about=about)
        self.saved = time.monotonic()
        self.cost = self.saved - started

    def _epoch(self) -> None:
        at, recipe, n = self.at, self.recipe, self.recipe.batch_size
        self.show(recipes.side(recipe, at.epoch))
        if at.step == 0:
            draw = np.random.default_rng((self.seed, at.epoch))
            rows = draw.permutation(data_pruning.shown(self.losses.cpu().numpy(), recipe, at.epoch, draw))
            self.order = torch.from_numpy(rows)
        self.model.train()
        loss = torch.tensor(at.loss, device=self.labels.device)  # float32: Apple's GPUs have no more
        label = f"epoch {at.epoch + 1}/{recipe.epochs}"
        with progress(self.steps * n, label, done=at.step * n) as advance:
            while at.step < self.steps:
                self._warm_up()
                started = time.monotonic()
                loss += self.step(self.order[at.step * n : (at.step + 1) * n].numpy())
                at.step, at.updates, last = at.step + 1, at.updates + 1, at.step + 1 == self.steps
                due, asked = self._due(), self.stopper.asked is not None
                if last or due or asked:
                    at.loss = loss.item()  # waits for the device
                taken = time.monotonic() - started
                at.seconds, at.epoch_seconds = at.seconds + taken, at.epoch_seconds + taken
                advance(n)
                if asked:
                    self.stopper.check()
                if due:
                    self.save()
        self._judge(at.loss / self.steps)

    def _due(self) -> bool:
        return time.monotonic() - self.saved > (max(self.save_every, self.cost / SAVING) if self.save_every else 0)

    def step(self, rows: np.ndarray) -> torch.Tensor:
        """One update from the pictures ``rows`` (B,); gives their mean loss, still on the device."""
        bias = self._rates(self.done)
        draw = np.random.default_rng((self.seed, self.at.epoch, self.at.step))
        return self.replay((self.varied.side, bias), self.varied.draw(rows, self.at.epoch, draw))

    def _update(self, drawn: torch.Tensor) -> torch.Tensor:
        rows = drawn[0]
        self.losses[rows] = losses = self._gradients(self.varied(drawn), self.labels[rows])
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return losses.mean()

    def _gradients(self, x, y) -> torch.Tensor:
        """Of the sum of the losses (B,), which it gives."""
        with self.accelerator.autocast():
            logits = self.forward(x)
        losses = torch.nn.functional.cross_entropy(
            logits.float(), y, label_smoothing=self.recipe.smoothing, reduction="none"
        )
        losses.sum().backward()
        return losses.detach()

    def _rates(self, done: float) -> bool:
        """Set them; whether the first layer's bias still trains."""
        bias, others = recipes.bias_rate(self.recipe, done), recipes.rate(self.recipe, done)
        self.optimizer.rates([bias, *[others] * (len(self.optimizer.param_groups) - 1)])
        # Without it, no gradient need come down to the first layer: a ninth of the work at 32 pixels.
        self.model.whiten.bias.requires_grad_(bias > 0)
        return bias > 0

    def show(self, side: int) -> None:
        """From now on pictures are of ``side`` pixels."""
        if self.varied is None or self.varied.side != side:
            moves = round(self.recipe.translate * side / self.recipe.pixels)
            cutout = round(self.recipe.cutout * side / self.recipe.pixels)
            how = {"seed": self.seed, "translate": moves, "cutout": cutout, "flip": self.recipe.flip, "dtype": self.low}
            self.varied = Varied(resized(self.pictures, side), self.mean, self.std, **how)
            self.replay = Replay(self._update, self.pictures.device)

    def _warm_up(self) -> None:
        """Compile, outside the clock, what the next step is the first to need; leaves no trace in the model."""
        need = self.varied.side, self._rates(self.done)
        if not self.compiled or need in self.warm:
            return
        self.warm.add(need)
        started = time.monotonic()
        kept = {key: tensor.clone() for key, tensor in self.model.named_buffers()}
        drawn = self.varied.draw(np.arange(self.recipe.batch_size), 0, np.random.default_rng(0)).to(self.labels.device)
        self._gradients(self.varied(drawn), self.labels[drawn[0]])
        self.optimizer.zero_grad(set_to_none=True)
        for key, tensor in self.model.named_buffers():
            tensor.copy_(kept[key])
        print(f"compiled for {need[0]} pixels in {time.monotonic() - started:.0f} s", file=sys.stderr)

    def _judge(self, loss: float) -> None:
        """The end of an epoch: val, and the best so far."""
        at = self.at
        if not np.isfinite(loss):
            raise Diverged(f"the loss is not finite in epoch {at.epoch + 1}")
        found = self.evaluate(self.model, self.stopper.check)
        # From here on nothing stops: either all of what follows is done, or val is read again.
        top1, nll = found or (None, None)
        if not found or not at.best or (top1, -nll) > (at.best["val_top1"], -at.best["val_nll"]):
            at.best = {"epoch": at.epoch + 1, "weights": "tuned", "val_top1": top1, "val_nll": nll, "scale": 1.0}
            self.best = {key: tensor.detach().cpu().clone() for key, tensor in self.model.state_dict().items()}
        at.history.append(
            {
                "epoch": at.epoch + 1,
                "train_loss": loss,
                "val_top1_tuned": top1,
                "val_nll_tuned": nll,
                "lr": self.optimizer.param_groups[-1]["lr"].item(),
                "side": self.varied.side,
                "images": (shown := self.steps * self.recipe.batch_size),
                "seconds": at.epoch_seconds,
                "images_per_second": shown / at.epoch_seconds,
            }
        )
        said = f", val top-1 {top1:.1%}" if found else ""
        print(f"epoch {at.epoch + 1}/{self.recipe.epochs}: loss {loss:.3f}{said}", file=sys.stderr)
        at.epoch, at.step, at.loss, at.epoch_seconds = at.epoch + 1, 0, 0.0, 0.0
        if at.epoch >= self.recipe.epochs:
            at.ended = "all epochs"
