"""L-BFGS's memory: against the textbook's two loops, pair by pair."""

import numpy as np
import pytest
import torch

from backbench.probe.softmax.array_backends import Numpy, Torch
from backbench.probe.softmax.lbfgs_memory import LbfgsMemory


def by_the_book(pairs, gradient, product):
    """Nocedal & Wright (2006), algorithm 7.4."""
    q, weighed = gradient.copy(), []
    for s, y in reversed(pairs):
        weighed.append((s * q).sum() / (s * y).sum())
        q -= weighed[-1] * y
    r = product(q)
    for (s, y), a in zip(pairs, reversed(weighed), strict=True):
        r += s * (a - (y * r).sum() / (s * y).sum())
    return r


def some(n, rng):
    found = []
    for _ in range(n):
        s = rng.normal(size=(3, 4)).astype("f4")
        found.append((s, (s * rng.uniform(1, 3, size=(3, 4))).astype("f4")))
    return found


@pytest.mark.parametrize("arrays", [Numpy(), Torch(torch.device("cpu"))])
@pytest.mark.parametrize("n", [0, 1, 5, 12])
def test_the_two_loops(arrays, n, rng):
    pairs, all_of_them = LbfgsMemory(5, arrays.of), some(n, rng)
    for s, y in all_of_them:
        pairs.add(arrays.of(s), arrays.of(y))
    assert len(pairs) == min(n, 5)
    g = rng.normal(size=(3, 4)).astype("f4")
    step = arrays.of(0.3 * np.asarray(arrays.of(g) - pairs.before(arrays.of(g))))
    found = np.asarray(step + pairs.after(step))
    np.testing.assert_allclose(found, by_the_book(all_of_them[-5:], g, lambda q: 0.3 * q), rtol=1e-4, atol=1e-5)


def test_pairs_that_bend_the_wrong_way_are_left_out(rng):
    s = some(1, rng)[0][0]
    pairs = LbfgsMemory(5, Numpy().of)
    pairs.add(s, -s)
    assert len(pairs) == 0
