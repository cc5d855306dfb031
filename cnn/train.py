"""The training loop for images that fit into memory, which a stopped run resumes.

Random numbers come from seeds made of run, epoch and step, so that a run that was killed and resumed makes the same
steps as an uninterrupted one.
"""

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
from backbench.progress import progress, step, tell
from backbench.training import state
from backbench.training.loop import SAVING, Diverged, Progress, device_failed
from backbench.training.stopping import Stopped, Stopper


def optimizer(model, recipe: recipes.Recipe, *, dtype) -> Muon:
    """Return Muon for the blocks' filters with SGD for the other weights; the first layer's bias is the first group."""
    filters = [weight for weight in model.blocks.parameters() if weight.ndim == 4]
    biases = [weight for name, weight in model.blocks.named_parameters() if name.endswith("bias")]
    decay = recipe.weight_decay * recipe.batch_size
    sgd = {"momentum": recipe.momentum_sgd, "weight_decay": decay}
    groups = [
        {"params": [model.whiten.bias], "lr": recipe.lr_bias, **sgd},
        {"params": biases, "lr": recipe.lr_bias, **sgd},
        {"params": [model.head.weight], "lr": recipe.lr_head, **sgd},
        {"params": filters, "lr": recipe.lr, "momentum": recipe.momentum, "filters": True},
    ]
    return Muon(groups, dtype=dtype)


class Trainer:
    """Trains ``model`` on ``images`` (N, H, W, 3) uint8 with ``labels`` (N,), both on the device.

    ``evaluate(model, check)`` returns val top-1 and NLL. It returns None where there is no val, and then the last
    weights are kept.
    """

    def __init__(
        self,
        model,
        recipe: recipes.Recipe,
        images: torch.Tensor,
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
        self.model, self.recipe, self.images, self.labels = model, recipe, images, labels
        self.accelerator, self.mean, self.std, self.evaluate = accelerator, mean, std, evaluate
        self.folder, self.identity, self.seed, self.save_every = folder, identity, seed, save_every
        self.low = torch.bfloat16 if accelerator.mixed_precision == "bf16" else torch.float32
        self.optimizer = optimizer(model, recipe, dtype=self.low)
        self.forward = torch.compile(model, dynamic=False) if compiled else model
        self.compiled = compiled
        self.at = Progress()
        self.best: dict = {}
        self.losses = torch.full((len(labels),), torch.inf, device=labels.device)  # each image's last loss
        self.order = torch.arange(len(labels))  # this epoch's images
        self.earlier = 0.0  # seconds of training before this process
        self.warm: set = set()
        self.saved, self.cost = time.monotonic(), 0.0
        self.varied: Varied | None = None

    @property
    def steps(self) -> int:
        """Number of steps in this epoch."""
        return len(self.order) // self.recipe.batch_size

    @property
    def done(self) -> float:
        """Share of the run that is over. All epochs count alike, however many images they use."""
        return (self.at.epoch + self.at.step / self.steps) / self.recipe.epochs

    def run(self) -> Progress:
        """Train to the end. Ctrl-C and SIGTERM finish the step, save the state and then stop the process.

        Raises UserError for a batch that doesn't fit into memory, a failed device and a full disk.
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
                        f"{self.recipe.batch_size} images at a time don't fit into the memory of "
                        f"{self.accelerator.device}. The saved state is kept. A smaller --batch-size starts a new run."
                    ) from error
                device_failed(error, self.accelerator.device)
                raise
        self.save()
        return self.at

    def _resume(self, found: dict) -> None:
        try:
            self.at = Progress(**found["progress"])
        except TypeError:
            raise UserError(f"{self.folder / state.FILE} is from another version. --overwrite starts again.") from None
        kept = state.read(self.folder, model=self.model, optimizer=self.optimizer, ema=None)
        self.best = kept["best"]
        self.losses, self.order = kept["seen"]["losses"].to(self.labels.device), kept["seen"]["order"]
        self.earlier = self.at.seconds
        if not self.at.ended:
            tell(f"resuming at epoch {self.at.epoch + 1}, step {self.at.step + 1}")

    def save(self) -> None:
        """Save the training state."""
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
        """Make one update from the images ``rows`` (B,), and return their mean loss, still on the device."""
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
        """Compute the gradients of the sum of the losses, and return the losses (B,)."""
        with self.accelerator.autocast():
            logits = self.forward(x)
        losses = torch.nn.functional.cross_entropy(
            logits.float(), y, label_smoothing=self.recipe.smoothing, reduction="none"
        )
        losses.sum().backward()
        return losses.detach()

    def _rates(self, done: float) -> bool:
        """Set the learning rates, and return whether the first layer's bias still trains."""
        bias, others = recipes.bias_rate(self.recipe, done), recipes.rate(self.recipe, done)
        self.optimizer.rates([bias, *[others] * (len(self.optimizer.param_groups) - 1)])
        # Once it is frozen, no gradient reaches the first layer, which saves a ninth of the work at 32 pixels.
        self.model.whiten.bias.requires_grad_(bias > 0)
        return bias > 0

    def show(self, side: int) -> None:
        """Use images of ``side`` pixels from now on."""
        if self.varied is None or self.varied.side != side:
            moves = round(self.recipe.translate * side / self.recipe.pixels)
            cutout = round(self.recipe.cutout * side / self.recipe.pixels)
            options = {"translate": moves, "cutout": cutout, "flip": self.recipe.flip, "dtype": self.low}
            self.varied = Varied(resized(self.images, side), self.mean, self.std, seed=self.seed, **options)
            self.replay = Replay(self._update, self.images.device)

    def _warm_up(self) -> None:
        """Compile what the next step needs for the first time. This isn't timed, and leaves the model unchanged."""
        need = self.varied.side, self._rates(self.done)
        if not self.compiled or need in self.warm:
            return
        self.warm.add(need)
        started = time.monotonic()
        kept = {key: tensor.clone() for key, tensor in self.model.named_buffers()}
        drawn = self.varied.draw(np.arange(self.recipe.batch_size), 0, np.random.default_rng(0)).to(self.labels.device)
        with step(f"compiling for {need[0]} pixels", usually="a minute or two"):
            self._gradients(self.varied(drawn), self.labels[drawn[0]])
        self.optimizer.zero_grad(set_to_none=True)
        for key, tensor in self.model.named_buffers():
            tensor.copy_(kept[key])
        tell(f"compiled for {need[0]} pixels in {time.monotonic() - started:.0f} s")

    def _judge(self, loss: float) -> None:
        """Evaluate on val after an epoch, and keep the best weights."""
        at = self.at
        if not np.isfinite(loss):
            raise Diverged(f"the loss is not finite in epoch {at.epoch + 1}")
        found = self.evaluate(self.model, self.stopper.check)
        # Nothing below can be interrupted: either all of it is done, or val is evaluated again.
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
        val = f", val top-1 {top1:.1%}" if found else ""
        tell(f"epoch {at.epoch + 1}/{self.recipe.epochs}: loss {loss:.3f}{val}")
        at.epoch, at.step, at.loss, at.epoch_seconds = at.epoch + 1, 0, 0.0, 0.0
        if at.epoch >= self.recipe.epochs:
            at.ended = "all epochs"
