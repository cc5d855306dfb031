"""The two kinds of array that the solver works in: numpy's, and torch's on a device. float32 both."""

from contextlib import nullcontext
from functools import cache

import numpy as np


def numpy(array) -> np.ndarray:
    """An array of either kind as numpy's; without a copy where it is in memory."""
    return array if isinstance(array, np.ndarray) else array.cpu().numpy()


class Numpy:
    """numpy's."""

    def of(self, array) -> np.ndarray:
        return numpy(array).astype(np.float32, copy=False)

    coarse = of
    """For what need not be exact."""

    def inverse(self, matrices: np.ndarray) -> np.ndarray:
        """Of symmetric positive definite matrices (G, n, n), in their place."""
        from scipy.linalg.lapack import spotrf, spotri

        # LAPACK itself: scipy's functions cost small matrices more than the work. Symmetric, so .T copies nothing.
        upper = np.tri(matrices.shape[1], k=-1, dtype=bool).T
        for matrix in matrices:
            half = spotri(spotrf(matrix.T, lower=True, overwrite_a=True)[0], lower=True, overwrite_c=True)[0]
            half[upper] = half.T[upper]
            matrix[:] = half
        return matrices

    def small(self):
        """Within it, products are made on one thread: many small ones on several cost more than they gain."""
        return _blas().limit(limits=1, user_api="blas")


class Torch:
    """torch's on ``device``, what need not be exact in the format named ``coarse``."""

    def __init__(self, device, coarse: str = "float32"):
        import torch

        self.torch, self.device, self.format = torch, device, getattr(torch, coarse)

    def of(self, array):
        if isinstance(array, np.ndarray):
            array = self.torch.from_numpy(np.asarray(array, np.float32))
        return array.to(self.device, self.torch.float32)

    def coarse(self, array):
        return self.of(array).to(self.format)

    def inverse(self, matrices):
        return self.torch.cholesky_inverse(self.torch.linalg.cholesky(matrices))

    def small(self):
        return nullcontext()


@cache
def _blas():
    import scipy.linalg.lapack  # noqa: F401  its BLAS is one more than numpy's, and must be there to be limited
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
