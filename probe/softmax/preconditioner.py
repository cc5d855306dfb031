"""An approximate inverse of the softmax objective's Hessian, class by class.

For class k the Hessian's diagonal block is, over images i with p_ik the probability they give to k,

    H_k = penalty I + sum_i share_i p_ik (1 - p_ik) x_i x_i^T.

Near a good fit its weight lies on the class's own images, few and each with a curvature of its own; those of all others
add what is nearly a multiple of the features' covariance. So H_k is taken as (penalty + tail) I + stray_k (leading
principal directions of the covariance) + the own images, exactly, and inverted twice by Woodbury's identity: products
with two (K, D) weights cost less than a tenth of a float32 pass over the rows. On features like a real backbone's,
D 1280, K 256, C 1, L-BFGS started there takes 20 passes to a gap of 1e-4; scaling by the covariance alone takes 60 to
150.

Far from the optimum p (1 - p) says little of the curvature a step will meet, so it is blended, by ``damping``, with the
bound of Jaakkola & Jordan (2000), tanh(m / 2) / 2m at log-odds m, which holds over the whole step.
"""

from itertools import pairwise

import numpy as np

from backbench.probe.softmax.objective import Point, Rows

RANK = 64
"""Principal directions in the model of the other classes' images."""

OWN = 256
"""Own images of a class in the model; of more, every second, third, ... stands for its neighbours."""

SAMPLE = 4096
"""Images whose covariance is taken, or fewer where rows are streamed."""

ROUNDS = 4
"""Of subspace iteration for the principal directions (Halko, Martinsson & Tropp 2011): enough to precondition."""


class Covariance:
    """Of standardised rows, (D, D): its leading eigenvalues (R,) less the mean of the others, and their directions."""

    def __init__(self, rows: Rows):
        n, d = len(rows), rows.dim
        most = SAMPLE if rows.kept is not None else min(SAMPLE, max(256, rows.limit // (32 * d)))
        sample = rows.of(slice(0, n, max(1, n // most)))[1]
        rank = min(RANK, d)
        span = np.random.default_rng(0).standard_normal((d, min(d, rank + rank // 4)), np.float32)
        for _ in range(ROUNDS):
            span = np.linalg.qr(sample.T @ (sample @ span))[0]
        along = sample @ span
        values, turn = np.linalg.eigh(along.T @ along / np.float32(len(sample)))
        leading = values[-rank:]
        rest = float(np.square(sample).sum(dtype=np.float64)) / len(sample) - float(leading.sum())
        self.tail = max(0.0, rest / (d - rank)) if rank < d else 0.0
        self.leading = np.maximum(leading - np.float32(self.tail), 0)
        self.directions = span @ turn[:, -rank:]


class Preconditioner:
    """Call it with gradients (K, D + 1) for the approximate Newton steps' directions (K, D + 1), signs unchanged."""

    def __init__(self, rows: Rows, n_classes: int, covariance: Covariance, arrays):
        sorted_labels = rows.labels if rows.kept is not None else rows.labels[rows.of_class]
        cuts = np.searchsorted(sorted_labels, np.arange(n_classes + 1))
        most = OWN if rows.kept is not None else min(OWN, max(8, rows.limit // (8 * rows.dim * n_classes)))
        self.rows, self.covariance, self.arrays = rows, covariance, arrays
        self.directions = arrays.of(covariance.directions)
        own = [slice(start, end, max(1, -(-(end - start) // most))) for start, end in pairwise(cuts)]
        with arrays.small():
            self.groups = [Group(g, [own[k] for k in g], self) for g in alike([_length(part) for part in own])]

    def update(self, point: Point, penalty: float, damping: float) -> None:
        """Take the curvature at ``point``: ``damping`` 0 as it is there, 1 its bound for steps of any length."""
        miss = np.clip(point.miss, 1e-7, 1 - 1e-7)
        odds = np.log1p(-miss) - np.log(miss)
        odds = np.where(np.abs(odds) < 1e-3, 1e-3, odds)
        bend = (miss * (1 - miss)) ** (1 - damping) * (np.tanh(odds / 2) / (2 * odds)) ** damping * self.rows.share
        stray = np.maximum(point.stray, 1e-12)
        stray = stray ** (1 - damping) * np.maximum(stray, 1 / len(stray)) ** damping
        base = penalty + stray * self.covariance.tail
        added = stray[:, None] * self.covariance.leading
        of = self.arrays.of
        self.base, self.shrinkage = of(base)[:, None, None], of(added / (base[:, None] + added))[:, None]
        # The intercept bears no penalty; weights that make up for it do. Without either its curvature may be 0.
        self.free = of(stray + penalty / self.rows.dim)[:, None, None]
        with self.arrays.small():
            for group in self.groups:
                group.invert(self, np.sqrt(bend))

    def __call__(self, *gradients) -> list:
        """Arrays of any kind; the steps are of the kind that ``arrays`` makes."""
        of = self.arrays.of
        v, steps = of(np.empty((len(self.base), len(gradients), gradients[0].shape[1] - 1), np.float32)), []
        free = of(np.empty((*v.shape[:2], 1), np.float32))
        for i, gradient in enumerate(gradients):
            v[:, i], free[:, i, 0] = of(gradient[:, :-1]), of(gradient[:, -1])
        with self.arrays.small():
            v, free = self._others(v), free / self.free
            mine, mine_free = 0 * v, 0 * free
            for group in self.groups:
                at = group.classes
                mine[at], mine_free[at, :, 0] = group(v[at], free[at])
            v -= self._others(mine)
            free -= mine_free / self.free
        for i in range(len(gradients)):
            step = of(np.empty(gradients[0].shape, np.float32))
            step[:, :-1], step[:, -1] = v[:, i], free[:, i, 0]
            steps.append(step)
        return steps

    def _others(self, v):
        """The inverse without the own images, times (K, n, D)."""
        return (v - (v @ self.directions * self.shrinkage) @ self.directions.T) / self.base


class Group:
    """Classes with about as many own images, all in one array ``x`` (G, n, D), zeros where one has fewer.

    ``own`` are their places among the rows sorted by class. ``inner`` (G, n, n) is what Woodbury's identity has between
    them.
    """

    def __init__(self, classes: np.ndarray, own: list[slice], preconditioner: Preconditioner):
        rows, arrays, longest = preconditioner.rows, preconditioner.arrays, max(map(_length, own))
        shape, of = (len(classes), longest), arrays.of
        self.classes, self.arrays = classes, arrays
        self.at, self.weight = np.zeros(shape, int), np.zeros(shape)
        self.x = arrays.coarse(np.zeros((*shape, rows.dim), np.float32))
        self.gram = of(np.zeros((*shape, longest), np.float32))
        self.along = of(np.zeros((*shape, preconditioner.directions.shape[1]), np.float32))
        for i, part in enumerate(own):
            at, x = rows.of(part)
            x, n = of(x), _length(part)
            self.at[i, :n], self.weight[i, :n] = np.arange(len(rows))[at], part.step**0.5
            self.x[i, :n], self.gram[i, :n, :n] = arrays.coarse(x), x @ x.T
            self.along[i, :n] = x @ preconditioner.directions

    def invert(self, preconditioner: Preconditioner, roots: np.ndarray) -> None:
        """Take the curvature: ``roots`` (N,) of that of each image."""
        arrays = self.arrays
        root = arrays.of(roots[self.at] * self.weight)
        matrix = self.gram - (self.along * preconditioner.shrinkage[self.classes]) @ self.along.swapaxes(1, 2)
        matrix /= preconditioner.base[self.classes]
        matrix += 1 / preconditioner.free[self.classes]
        matrix *= root[:, None] * root[:, :, None]
        matrix.reshape(len(root), -1)[:, :: root.shape[1] + 1] += 1
        self.inner = arrays.inverse(matrix)
        self.inner *= root[:, None] * root[:, :, None]

    def __call__(self, v, free) -> tuple:
        """Of (G, m, D) and (G, m, 1), what the own images take off: (G, m, D), and (G, m) of the intercepts."""
        coarse, of = self.arrays.coarse, self.arrays.of
        u = (of(coarse(v) @ self.x.swapaxes(1, 2)) + free) @ self.inner
        return of(coarse(u) @ self.x), u.sum(-1)


def _length(part: slice) -> int:
    return len(range(part.start, part.stop, part.step))


def alike(sizes: list[int]) -> list[np.ndarray]:
    """Places of ``sizes``, in groups whose least is at least four fifths of their greatest."""
    groups = []
    for k in np.argsort(sizes)[::-1]:
        if not groups or sizes[k] < 0.8 * sizes[groups[-1][0]]:
            groups.append([])
        groups[-1].append(k)
    return [np.array(group) for group in groups]
