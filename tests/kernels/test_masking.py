"""Masks go on and come off exactly, at any offset, on every path, in one pass or in two."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from silofl_kernels import KEY_BYTES, MaskSet, Stream, add_masks, keystream, quantize, quantize_and_mask


def keys_of(prg: str, count: int) -> list[bytes]:
    rng = np.random.default_rng(count)
    return [rng.bytes(KEY_BYTES[prg]) for _ in range(count)]


def mask_words(prg: str, key: bytes, bits: int, offset: int, size: int) -> np.ndarray:
    out = np.zeros(size * bits // 8, np.uint8)
    keystream(Stream(prg, key), out, position=offset * bits // 8)
    return out.view(f"uint{bits}")


def masked_by_hand(
    words: np.ndarray, prg: str, keys: list[bytes], signs: list[int], offset: int
) -> np.ndarray:
    total = words.astype(np.uint64)
    for key, sign in zip(keys, signs, strict=True):
        mask = mask_words(prg, key, 8 * words.itemsize, offset, words.size).astype(np.uint64)
        total = total + mask if sign > 0 else total - mask
    return total.astype(words.dtype)


SIGNS = [1, -1, -1, 1, -1]


@pytest.mark.covering(0)
def test_masks_are_the_stream(main_prg: str) -> None:
    prg = main_prg
    keys = keys_of(prg, 5)
    masks = MaskSet(prg, keys, SIGNS)

    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.integers(0, 5000), st.integers(0, 3000))
    def check(offset: int, size: int) -> None:
        words = np.arange(size + 2, dtype=np.uint16) * 77
        masked = words.copy()
        add_masks(masked[1:-1], masks, offset=offset)
        assert masked[1:-1].tobytes() == masked_by_hand(words[1:-1], prg, keys, SIGNS, offset).tobytes()
        assert (masked[0], masked[-1]) == (words[0], words[-1])

    check()


@pytest.mark.covering(0)
def test_one_pass_equals_two(fast_prg: str) -> None:
    masks = MaskSet(fast_prg, keys_of(fast_prg, 5), SIGNS)
    unmask = MaskSet(fast_prg, keys_of(fast_prg, 5), [-sign for sign in SIGNS])
    x = np.random.default_rng(0).standard_normal(20_011).astype(np.float32)
    x[[3, 700, 19_000]] = np.nan, np.inf, 1e9
    one, two = np.zeros(x.size, np.uint16), np.zeros(x.size, np.uint16)
    for offset in (0, 1, 129, 16_383):
        counts = quantize_and_mask(x, one, scale=100.0, limit=3000, masks=masks, offset=offset)
        assert counts == quantize(x, two, scale=100.0, limit=3000) == (1, 2)
        assert (one != two).mean() > 0.99
        add_masks(two, masks, offset=offset)
        assert one.tobytes() == two.tobytes()
        again = one[5:11_000].copy()
        add_masks(again, unmask, offset=offset + 5)
        quantize(x[5:11_000], two[5:11_000], scale=100.0, limit=3000)
        assert again.tobytes() == two[5:11_000].tobytes()


RINGS = [("aes-128-ctr", "float64", 32), ("aes-256-ctr", "float32", 8), ("chacha20", "float64", 32)]


@pytest.mark.long  # each is a kernel to compile; `test_one_pass_equals_two` has that of 16 bits
@pytest.mark.parametrize(("prg", "dtype", "bits"), RINGS)
def test_other_rings_with_stochastic_rounding(prg: str, dtype: str, bits: int) -> None:
    keys = keys_of(prg, 3)
    masks, rounding = MaskSet(prg, keys, SIGNS[:3]), Stream(prg, keys[0][::-1])
    x = np.random.default_rng(1).standard_normal(5003).astype(dtype)
    one, two = np.zeros(x.size, f"uint{bits}"), np.zeros(x.size, f"uint{bits}")
    settings_ = {"scale": 20.0, "limit": 60, "rounding": rounding}
    for first in (41, 6):
        counts = quantize_and_mask(x, one, masks=masks, offset=41, first=first, **settings_)
        assert counts == quantize(x, two, first=first, **settings_)
        assert one.tobytes() == masked_by_hand(two, prg, keys, SIGNS[:3], 41).tobytes()
    quantize_and_mask(x, one, masks=masks, offset=41, **settings_)
    quantize(x, two, first=41, **settings_)
    assert one.tobytes() == masked_by_hand(two, prg, keys, SIGNS[:3], 41).tobytes()


def test_masked_words_look_uniform() -> None:
    x, out = np.zeros(1 << 15, np.float32), np.zeros(1 << 15, np.uint16)
    quantize_and_mask(x, out, scale=1.0, limit=1, masks=MaskSet("aes-128-ctr", [bytes(16)], [1]))
    counts = np.bincount(out.view(np.uint8), minlength=256)
    chi_square = ((counts - 256.0) ** 2 / 256).sum()
    assert 170 < chi_square < 360  # 255 degrees of freedom: six standard deviations


def test_no_mask_is_no_change() -> None:
    x, out, empty = np.ones(9, np.float32), np.zeros(9, np.uint16), MaskSet("chacha20", [], [])
    quantize_and_mask(x, out, scale=3.0, limit=9, masks=empty)
    add_masks(out, empty, offset=7)
    assert (out == 3).all()
    assert len(empty) == 0


def test_secrets_never_show() -> None:
    masks = MaskSet("aes-128-ctr", [b"very secret key!"], [1])
    assert repr(masks) == str(masks) == "MaskSet('aes-128-ctr', 1 masks)"
    with pytest.raises(TypeError, match="secret masks"):
        pickle.dumps(masks)
    with pytest.raises(ValueError, match="16 bytes") as caught:
        MaskSet("aes-128-ctr", [b"very secret key"], [1])
    assert "secret" not in str(caught.value)


def test_bad_arguments() -> None:
    words = np.zeros(4, np.uint16)
    with pytest.raises(ValueError, match="1 keys and 2 signs"):
        MaskSet("chacha20", [bytes(32)], [1, 1])
    with pytest.raises(ValueError, match=r"\+1 or -1"):
        MaskSet("chacha20", [bytes(32)], [0])
    masks = MaskSet("chacha20", [bytes(32)], [1])
    with pytest.raises(ValueError, match="stream"):
        add_masks(words, masks, offset=(1 << 37) - 3)
    with pytest.raises(ValueError, match="cipher of the masks"):
        quantize_and_mask(
            np.zeros(4, np.float32), words, scale=1.0, limit=1, masks=masks,
            rounding=Stream("aes-128-ctr", bytes(16)),
        )  # fmt: skip
    with pytest.raises(TypeError, match="ring words"):
        add_masks(np.zeros(4, np.int16), masks)
    assert not words.any()
