"""How near what an attack recovered is to the truth."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
_K1, _K2 = 0.01, 0.03
"""Constants of the paper by Wang et al."""


def psnr(truth: ArrayLike, found: ArrayLike, peak: float = 1.0) -> float:
    """Peak signal-to-noise ratio in dB, 10 log10(peak^2 / mean square error); infinite of equal arrays."""
    error = float(np.mean((np.asarray(truth, np.float64) - np.asarray(found, np.float64)) ** 2))
    return float("inf") if error == 0 else float(10 * np.log10(peak**2 / error))


def ssim(truth: ArrayLike, found: ArrayLike, peak: float = 1.0, window: int = 7) -> float:
    """Structural similarity of two images (..., h, w), from -1 to 1 (Wang et al. 2004, equation 13).

    Mean over all windows of `window` by `window` pixels that lie within, which weigh alike; variances are
    divided by their number less one, as in scikit-image. ValueError of images that are smaller.
    """
    windows = [_windows(one, window) for one in (truth, found)]
    (x, y), count = windows, window * window
    mean_x, mean_y = x.mean(axis=-1), y.mean(axis=-1)
    scale = count / (count - 1)
    var_x, var_y = scale * x.var(axis=-1), scale * y.var(axis=-1)
    both = scale * ((x * y).mean(axis=-1) - mean_x * mean_y)
    c1, c2 = (_K1 * peak) ** 2, (_K2 * peak) ** 2
    alike = (2 * mean_x * mean_y + c1) * (2 * both + c2)
    return float(np.mean(alike / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))))


def _windows(image: ArrayLike, window: int) -> Floats:
    """All windows (..., window * window) of an image."""
    pixels = np.asarray(image, np.float64)
    if min(pixels.shape[-2:]) < window:
        raise ValueError(f"an image of {pixels.shape} has no window of {window} by {window} pixels")
    found = np.lib.stride_tricks.sliding_window_view(pixels, (window, window), axis=(-2, -1))
    return found.reshape(*found.shape[:-2], -1)


def rank_in(pool: ArrayLike, truth: int, found: ArrayLike) -> int:
    """How many records of a pool (n, ...) are nearer to what was found than the true one: 0 is identified.

    Nearness is Pearson's correlation of all values, in which neither scale nor offset counts. Equal ones, and
    all where the correlation is not defined, count as nearer: chance is not success.
    """
    rows = np.asarray(pool, np.float64)
    alike = _standardized(rows.reshape(len(rows), -1)) @ _standardized(np.ravel(found)[None])[0]
    if not np.isfinite(alike[truth]):
        return len(rows) - 1
    return int(np.count_nonzero(~(alike < alike[truth]))) - 1


def _standardized(rows: ArrayLike) -> Floats:
    """Rows (n, d) less their means, of length 1; NaN where all values are equal or one is not finite."""
    values = np.asarray(rows, np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        centred = values - values.mean(axis=1, keepdims=True)
        return np.asarray(centred / np.linalg.norm(centred, axis=1, keepdims=True))
