"""Sums in the ring are Python's integers modulo 2^B; sums of floats have one order and one rounding."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silofl_kernels import (
    KEY_BYTES,
    MaskSet,
    add_masks,
    dequantize,
    reduce_rows,
    reduce_rows_dequantize,
    reduce_rows_float,
    scale_into,
)


def random_rows(bits: int, n: int, size: int) -> np.ndarray:
    return np.random.default_rng(n + size).integers(0, 1 << bits, (n, size)).astype(f"uint{bits}")


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_reduce_rows_is_exact(bits: int) -> None:
    for n, size in ((1, 5), (3, 0), (5, 4097), (12, 9001)):
        rows = random_rows(bits, n, size)
        kept, out = rows.copy(), np.zeros(size + 2, f"uint{bits}")
        reduce_rows(rows, out[1:-1])
        want = [sum(map(int, column)) % (1 << bits) for column in rows.T]
        assert out[1:-1].tolist() == want
        assert out[0] == out[-1] == 0
        assert rows.tobytes() == kept.tobytes()


def test_masks_of_a_slice_come_off_in_the_same_pass(fast_prg: str) -> None:
    rng = np.random.default_rng(3)
    keys = [rng.bytes(KEY_BYTES[fast_prg]) for _ in range(4)]
    masks, unmask = MaskSet(fast_prg, keys, [1, 1, -1, 1]), MaskSet(fast_prg, keys, [-1, -1, 1, -1])
    rows = random_rows(16, 3, 9001)
    plain, masked, total = np.zeros(9001, np.uint16), rows.copy(), np.zeros(9001, np.uint16)
    reduce_rows(rows, plain)
    for offset in (0, 777):
        masked[1] = rows[1]
        add_masks(masked[1], masks, offset=offset)
        reduce_rows([masked[0], masked[1], masked[2]], total, masks=unmask, offset=offset)
        assert total.tobytes() == plain.tobytes()
        reduce_rows([row[100:5000] for row in masked], total[:4900], masks=unmask, offset=offset + 100)
        assert total[:4900].tobytes() == plain[100:5000].tobytes()


def test_rows_may_lie_anywhere() -> None:
    rows = random_rows(16, 3, 1000)
    spread = np.zeros((3, 1500), np.uint16)
    spread[:, 250:1250] = rows
    frozen = rows[1].copy()
    frozen.flags.writeable = False
    one, two, three = np.zeros((3, 1000), np.uint16)
    reduce_rows(rows, one)
    reduce_rows(spread[:, 250:1250], two)
    reduce_rows((rows[0].copy(), frozen, rows[2]), three)
    assert one.tobytes() == two.tobytes() == three.tobytes()


def test_the_first_row_may_be_the_result() -> None:
    rows = random_rows(16, 3, 5000)
    want = rows.sum(0, dtype=np.uint16)
    reduce_rows(rows, rows[0])
    assert rows[0].tobytes() == want.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_reduce_rows_dequantize_is_both(dtype: str) -> None:
    rows = random_rows(16, 4, 9001)
    masks = MaskSet("aes-128-ctr", [bytes(16), bytes(range(16))], [1, -1])
    total, want, out = np.zeros(9001, np.uint16), np.zeros(9001, dtype), np.zeros(9001, dtype)
    for chosen in (None, masks):
        reduce_rows(rows, total, masks=chosen, offset=33)
        dequantize(total, want, step=0.37)
        reduce_rows_dequantize(rows, out, step=0.37, masks=chosen, offset=33)
        assert out.tobytes() == want.tobytes()


finite = st.floats(-1e6, 1e6, width=32)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(finite, finite, finite), min_size=1, max_size=5))
def test_reduce_rows_float_has_one_order_and_one_rounding(columns: list[tuple[float, float, float]]) -> None:
    rows = np.array(columns, np.float32).T.copy()
    weights, out = [0.25, 3.0, -1e-3], np.zeros(rows.shape[1], np.float32)
    reduce_rows_float(rows, out, weights=weights)
    want = []
    for column in rows.T:
        total = 0.0
        for value, weight in zip(column, weights, strict=True):
            total += float(value) * weight
        want.append(np.float32(total))
    assert out.tobytes() == np.array(want, np.float32).tobytes()


def test_reduce_rows_float_over_many_tiles_and_non_finite() -> None:
    rows = np.random.default_rng(0).standard_normal((4, 3001))
    rows[1, 7], rows[2, 9] = np.nan, np.inf
    out = np.zeros(3001)
    reduce_rows_float(list(rows), out)
    want = ((rows[0] + rows[1]) + rows[2]) + rows[3]
    np.testing.assert_array_equal(out, want)
    assert math.isnan(out[7])
    assert math.isinf(out[9])


def test_scale_into_may_be_in_place() -> None:
    x = np.random.default_rng(0).standard_normal(1003).astype(np.float32)
    want = (x.astype(np.float64) * 0.1).astype(np.float32)
    scale_into(x, 0.1, x)
    assert x.tobytes() == want.tobytes()


def test_bad_arguments() -> None:
    out = np.zeros(4, np.uint16)
    floats = np.zeros(4, np.float32)
    for rows in (
        [],
        [out[:3]],
        [np.zeros(4, np.uint8)],
        [np.zeros(8, np.uint16)[::2]],
        np.zeros((4, 2), np.uint16).T,
    ):
        with pytest.raises((ValueError, TypeError)):
            reduce_rows(rows, out)
    with pytest.raises(ValueError, match="weights"):
        reduce_rows_float([floats], floats, weights=[1.0, 2.0])
    with pytest.raises(TypeError):
        scale_into(floats, 1.0, np.zeros(4))
    with pytest.raises(ValueError, match="elements"):
        reduce_rows_dequantize([out], floats[:3], step=1.0)
