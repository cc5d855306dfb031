"""Near duplicates by pixels: how alike two images look when they are small, also shifted a little and mirrored."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from backbench import UserError
from backbench.audit.shortcuts import measure
from backbench.devices import cores
from backbench.progress import progress

SIDE = 32
"""Side in pixels of the small images that are compared."""

REACH = 4
"""Largest shift in pixels."""

PADDED = SIDE + 2 * REACH

CHUNK = 1024
"""Pairs that are compared at a time: some 200 MB."""


def look(images, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Read the images of ``rows`` (n,): small ones (n, SIDE, SIDE, 3) uint8, and ``shortcuts.measure`` of each (n, 5).

    An image is squeezed to a square, since its copies have its shape. One that can't be read is black, and NaN.
    ``images`` has ``array(row)``, see ``audit.images``.
    """
    small, measured = np.zeros((len(rows), SIDE, SIDE, 3), np.uint8), np.full((len(rows), 5), np.nan)

    def read(k: int) -> None:
        try:
            pixels = images.array(int(rows[k]))
        except UserError:
            return
        measured[k] = measure(pixels)
        small[k] = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BOX)

    with ThreadPoolExecutor(cores()) as pool, progress(len(rows), "reading images") as advance:
        for _ in pool.map(read, range(len(rows))):
            advance(1)
    return small, measured


def alike(small: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compare pairs of ``small`` images (N, SIDE, SIDE, 3): ``colours`` and ``edges``, and whether one is ``mirrored``.

    ``a`` and ``b`` are (n,) int. The first two, (n,) float32 in -1..1, are the cosines of the two images' colours, less
    their mean, and of their brightness gradients, at the shift and mirroring at which each is largest. ``mirrored``
    (n,) bool says that the edges agree better so. Brightness and contrast thus play no part.
    """
    colours, edges = np.empty(len(a), np.float32), np.empty(len(a), np.float32)
    mirrored = np.empty(len(a), bool)
    with progress(len(a), "comparing pixels", unit="pairs") as advance:
        for start in range(0, len(a), CHUNK):
            at = slice(start, start + CHUNK)
            one, here = np.unique(a[at], return_inverse=True)
            first, plain = _spectra(small[one]), _spectra(small[b[at]])
            other = _spectra(small[b[at]][:, :, ::-1])
            (of_colours, of_edges), (colours_m, edges_m) = (
                [_peak(f[here], s) for f, s in zip(first, second, strict=True)] for second in (plain, other)
            )
            colours[at], edges[at] = np.maximum(of_colours, colours_m), np.maximum(of_edges, edges_m)
            mirrored[at] = edges_m > of_edges
            advance(len(of_edges))
    return colours, edges, mirrored


def _spectra(small: np.ndarray) -> list[np.ndarray]:
    """Return the spectra of images' colours and gradients, (n, channels, PADDED, PADDED / 2 + 1), of norm 1 each."""
    from scipy.fft import rfft2

    colours = small.transpose(0, 3, 1, 2).astype(np.float32)
    bright = colours.mean(axis=1)
    colours -= colours.mean(axis=(1, 2, 3), keepdims=True)
    edges = np.zeros((len(small), 2, SIDE, SIDE), np.float32)
    edges[:, 0, :, :-1], edges[:, 1, :-1] = np.diff(bright, axis=2), np.diff(bright, axis=1)
    return [rfft2(one / _norm(one), (PADDED, PADDED), workers=cores()) for one in (colours, edges)]


def _norm(channels: np.ndarray) -> np.ndarray:
    """Return the norm of each image, and 1 for one without any contrast, which is then like nothing."""
    norm = np.sqrt(np.square(channels).sum(axis=(1, 2, 3), keepdims=True))
    return np.where(norm > 1e-3, norm, 1)


def _peak(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the largest cosine (n,) over all shifts of up to REACH, from spectra, by the correlation theorem."""
    from scipy.fft import irfft2

    product = (first * second.conj()).sum(axis=1)
    near = np.r_[: REACH + 1, PADDED - REACH : PADDED]
    return irfft2(product, (PADDED, PADDED), workers=cores())[:, near][:, :, near].max(axis=(1, 2))
