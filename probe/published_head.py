"""The published study's head: a linear layer trained for a few epochs, whether or not it is done by then."""

import numpy as np

from backbench.accuracy import top_k
from backbench.probe.head import LinearHead
from backbench.probe.subsets import Splits

LEARNING_RATE, WEIGHT_DECAY, EPOCHS = 1e-3, 1e-5, 5
"""As the published study trained its heads. The decay is Adam's L2 (added to the gradient), not AdamW's."""

STILL_FALLING = 0.01
"""Share of the train loss: a head whose loss changed by more than this in the last epoch has not converged."""


class PublishedHead:
    """Adam on features as they are, standardised by nothing, and fitted on train only, as published.

    The final head is the one that val judges: nothing is chosen, and the study never refitted on train+val.
    """

    def __init__(self, data: Splits, *, n_classes: int, seed: int, batch_size: int = 256):
        losses, self.head = _train(data.train, n_classes=n_classes, seed=seed, batch_size=batch_size)
        self.val_scores = self.head.over(data.val)
        self.val_top1 = float(top_k(self.val_scores, data.val.labels, k=1).mean())
        self.train_top1 = self.head.top1(data.train)
        # A loss that rises hasn't converged either, nor has one that is NaN.
        self.converged = abs(losses[-1] - losses[-2]) <= STILL_FALLING * losses[-2]
        self.chosen = "published"
        self.protocol = {
            "preset": "published",
            "optimiser": "Adam",
            "learning_rate": LEARNING_RATE,
            "weight_decay": WEIGHT_DECAY,
            "schedule": "none",
            "batch_size": batch_size,
            "epochs": EPOCHS,
            "standardised": "no",
            "train_loss": losses,
            "converged_if": f"the last epoch changed the train loss by at most {STILL_FALLING:.0%}",
            "chosen_on": "nothing to choose",
            "refit_on": "train",
            "seed": seed,
        }

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Logits (N, K) for features (N, D)."""
        return self.head.scores(features)


def _train(part, *, n_classes: int, seed: int, batch_size: int) -> tuple[list[float], LinearHead]:
    """Mean cross-entropy over each epoch, taken while training, and the head at the end."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = torch.nn.Linear(part.dim, n_classes)
    optimiser = torch.optim.Adam(layer.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    shuffle, losses = np.random.default_rng(seed), []
    for _ in range(EPOCHS):
        order, total = shuffle.permutation(len(part)), 0.0
        for start in range(0, len(part), batch_size):
            # Sorted, since a mapped file is read fastest in its own order. Inside a batch the order means nothing.
            batch = part[np.sort(order[start : start + batch_size])].loaded()
            logits = layer(torch.from_numpy(batch.features))
            loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(batch.labels))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += loss.item() * len(batch)
        losses.append(total / len(part))
    weights, intercept = (p.detach().numpy().copy() for p in (layer.weight, layer.bias))
    return losses, LinearHead(np.zeros(part.dim), np.ones(part.dim), weights, intercept)
