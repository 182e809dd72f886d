"""How near a recovered image is, against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest

from silofl.privacy_attacks.reconstruction_quality import psnr, rank_in, ssim


def test_psnr_is_that_of_the_mean_square_error() -> None:
    truth = np.array([[0.0, 0.5], [1.0, 0.25]])
    assert psnr(truth, truth + 0.1) == pytest.approx(20.0)
    assert psnr(truth, truth + 0.1, peak=10) == pytest.approx(40.0)
    assert psnr(truth, truth) == math.inf


def test_ssim_is_the_mean_over_windows() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.random((9, 8)), rng.random((9, 8))
    found = []
    for row in range(3):
        for column in range(2):
            a, b = (one[row : row + 7, column : column + 7].ravel() for one in (x, y))
            cov = np.cov(a, b)
            above = (2 * a.mean() * b.mean() + 1e-4) * (2 * cov[0, 1] + 9e-4)
            below = (a.mean() ** 2 + b.mean() ** 2 + 1e-4) * (cov[0, 0] + cov[1, 1] + 9e-4)
            found.append(above / below)
    assert ssim(x, y) == pytest.approx(sum(found) / 6, abs=1e-12)
    assert ssim(x, x) == pytest.approx(1.0)
    assert ssim(x, 1 - x) < 0
    with pytest.raises(ValueError, match="no window"):
        ssim(x[:6], y[:6])


def test_rank_counts_the_records_that_correlate_more() -> None:
    rng = np.random.default_rng(1)
    pool = rng.random((50, 1, 4, 4))
    found = pool[7] + 0.4 * rng.standard_normal((1, 4, 4))
    correlations = [np.corrcoef(one.ravel(), found.ravel())[0, 1] for one in pool]
    for truth in (7, 8):
        assert rank_in(pool, truth, found) == sum(c > correlations[truth] for c in correlations)
    assert rank_in(pool, 7, 3 * pool[7] - 2) == 0
    assert rank_in(pool, 7, np.ones(16)) == 49  # tells nothing
    assert rank_in(pool, 7, np.full(16, np.nan)) == 49
    assert rank_in(np.concatenate([pool, pool[7:8]]), 7, pool[7]) == 1  # a twin is no success
