"""What L-BFGS remembers: the last steps s and gradient differences y, and its two-loop recursion around a product.

Either loop needs inner products with all pairs first and a sum of all pairs then, so each is two products with a
(pairs, K (D + 1)) matrix, whatever kind of array the objective works in (Nocedal & Wright 2006, algorithm 7.4).
"""

import numpy as np

from backbench.probe.softmax.array_backends import numpy


def dot(a, b) -> float:
    """Inner product of two arrays of one shape."""
    return float(a.reshape(-1) @ b.reshape(-1))


class LbfgsMemory:
    """At most ``most`` pairs, of arrays as ``native`` makes them of numpy's."""

    def __init__(self, most: int, native):
        self.native, self.most = native, most
        self.slots, self.products = [], np.zeros((most, most))  # oldest first; s_i . y_j where i is not the younger
        self.s = self.y = None

    def __len__(self) -> int:
        return len(self.slots)

    @property
    def last(self) -> tuple:
        """The youngest pair's y, shaped like the weights, and its s . y."""
        slot = self.slots[-1]
        return self.y[slot].reshape(self.shape), self.products[slot, slot]

    def add(self, s, y) -> None:
        """Remember a pair, unless the objective does not bend between its ends, or bends the wrong way."""
        if dot(s, y) <= 1e-10 * np.sqrt(dot(s, s) * dot(y, y)):
            return
        if self.s is None:
            self.shape = s.shape
            like = np.zeros((self.most, s.shape[0] * s.shape[1]), numpy(s).dtype)
            self.s, self.y = self.native(like), self.native(like.copy())
        free = [i for i in range(self.most) if i not in self.slots]
        slot = free[0] if free else self.slots.pop(0)
        self.slots.append(slot)
        self.s[slot], self.y[slot] = s.reshape(-1), y.reshape(-1)
        self.products[:, slot] = numpy(self.s @ self.y[slot])

    def before(self, gradient):
        """What the first loop takes off the gradient."""
        if not self.slots:
            return 0 * gradient
        along, self.taken = numpy(self.s @ gradient.reshape(-1)), np.zeros(self.most)
        for i in reversed(self.slots):
            self.taken[i] = (along[i] - self.products[i] @ self.taken) / self.products[i, i]
        return self._sum(self.y, self.taken)

    def after(self, step):
        """What the second loop adds to the product with what the first left."""
        if not self.slots:
            return 0 * step
        along, added = numpy(self.y @ step.reshape(-1)), np.zeros(self.most)
        for i in self.slots:
            added[i] = self.taken[i] - (along[i] + self.products[:, i] @ added) / self.products[i, i]
        return self._sum(self.s, added)

    def _sum(self, vectors, weights: np.ndarray):
        return (self.native(weights.astype(numpy(vectors[0]).dtype)) @ vectors).reshape(self.shape)
