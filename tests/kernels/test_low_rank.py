"""Products of thin matrices: the plain loop's bits, in the order that is stated."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silofl_kernels import add_product


def naive(target: Any, left: Any, right: Any, weight: float) -> Any:
    """One value after the other."""
    out = target.copy()
    for i in range(len(left)):
        for j in range(right.shape[1]):
            total = 0.0
            for k in range(len(right)):
                total = total + float(left[i, k]) * float(right[k, j])
            out[i, j] = float(out[i, j]) + weight * total
    return out


@settings(deadline=None, max_examples=40)
@given(
    shape=st.tuples(st.integers(0, 9), st.integers(0, 5), st.integers(0, 40)),
    weight=st.sampled_from([1.0, -1.0, 0.3]),
    dtype=st.sampled_from([np.float32, np.float64]),
    seed=st.integers(0, 1000),
)
def test_the_bits_are_those_of_the_loop(
    shape: tuple[int, int, int], weight: float, dtype: Any, seed: int
) -> None:
    rows, rank, columns = shape
    draw = np.random.default_rng(seed)
    left, right = draw.standard_normal((rows, rank)), draw.standard_normal((rank, columns))
    target = draw.standard_normal((rows, columns)).astype(dtype)
    expected = naive(target, left, right, weight)
    add_product(target, left, right, weight=weight)
    assert target.tobytes() == expected.tobytes()


def test_what_does_not_fit_is_refused_before_anything_is_written() -> None:
    target, left, right = np.ones((3, 4), np.float32), np.ones((3, 2)), np.ones((2, 4))
    for bad, error in (
        ((target, left[:2], right), ValueError),
        ((target, left, right.T), ValueError),
        ((target, left.astype(np.float32), right), TypeError),
        ((target.astype(np.int32), left, right), TypeError),
        ((target[:, ::2], left, right[:, :2]), ValueError),
        ((target.reshape(-1), left, right), ValueError),
    ):
        with pytest.raises(error):
            add_product(*bad)  # type: ignore[arg-type]
    frozen = target.copy()
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        add_product(frozen, left, right)
    assert (target == 1).all()
