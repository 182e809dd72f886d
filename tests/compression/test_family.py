"""Every codec is what it states of itself: linear, unbiased, and of the length that it says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silofl.compression.base import Codec, Draw, PacketCodec, SketchCodec
from silofl.compression.registry import CODECS
from tests.campaigns import mostly_long
from tests.compression.naive import PACKETS, key_of, support

KEYS: dict[str, dict[str, Any]] = {"random_k": {"ratio": 0.3}} | {n: keys for n, (keys, _) in PACKETS.items()}
PACKET = sorted(name for name, kind in CODECS.items() if issubclass(kind, PacketCodec))
LINEAR = sorted(CODECS.keys() - PACKET - {"powersgd"})
"""Those of one sum."""
OF_PACKETS = pytest.mark.parametrize("name", PACKET)


def made(name: str) -> Codec:
    return CODECS[name](**KEYS.get(name, {}))


def passed_on(codec: Any, values: Any, draw: Draw) -> Any:
    """What the others have of values."""
    if codec.linear:
        return codec.decode(codec.encode(values, draw), draw, len(values))
    return codec.unpack(codec.pack(values, draw), len(values), values.dtype)


def drawn(number: int, *, keeps_error: bool = False) -> Draw:
    return Draw(key_of(7, number), keeps_error)


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("length", [0, 1, 2, 65, 1000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_sent_is_as_long_as_it_says_and_changes_nothing(name: str, length: int, dtype: Any) -> None:
    codec, values = made(name), np.random.default_rng(length).standard_normal(length).astype(dtype)
    before = values.copy()
    sent = codec.encode(values, drawn(1))
    assert sent.shape == (codec.size(length),)
    assert sent.dtype == dtype
    back = codec.decode(sent.copy(), drawn(1), length)
    assert back.shape == (length,)
    assert back.dtype == dtype
    assert (values == before).all()


@pytest.mark.parametrize("name", LINEAR)
def test_linear_ones_add_up(name: str) -> None:
    codec, rng = made(name), np.random.default_rng(0)
    one, other = rng.standard_normal((2, 1000))
    sent = codec.encode(one, drawn(2)) + codec.encode(other, drawn(2))
    np.testing.assert_allclose(sent, codec.encode(one + other, drawn(2)), rtol=1e-12, atol=1e-12)
    if isinstance(codec, SketchCodec):
        return
    parts = [codec.decode(codec.encode(x, drawn(2)), drawn(2), 1000) for x in (one, other)]
    np.testing.assert_allclose(codec.decode(sent, drawn(2), 1000), sum(parts), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("draws", mostly_long([2500, 10_000], 0))
@pytest.mark.parametrize("name", [name for name in LINEAR + PACKET if CODECS[name].unbiased])
def test_unbiased_ones_are_right_on_average(name: str, draws: int) -> None:
    """Within four standard errors, in every coordinate; scales are float32."""
    codec, values = made(name), np.random.default_rng(1).standard_normal(30)
    found = np.array([passed_on(codec, values, drawn(k)) for k in range(draws)])
    errors = found.std(axis=0) / np.sqrt(draws)
    assert (np.abs(found.mean(axis=0) - values) <= 4 * errors + 1e-6).all()


@pytest.mark.parametrize(
    "name", [name for name in LINEAR + PACKET if not issubclass(CODECS[name], SketchCodec)]
)
@pytest.mark.parametrize("alike", [False, True])
def test_error_feedback_loses_less_than_all(name: str, alike: bool) -> None:
    """A codec that takes away more than it leaves would have residuals grow for ever."""
    codec, values = CODECS[name](), np.random.default_rng(2).standard_normal(1000)
    values = np.sign(values) if alike else values  # as an optimizer such as Adam has them
    draw = drawn(3, keeps_error=True)
    lost = values - passed_on(codec, values, draw)
    assert np.linalg.norm(lost) < np.linalg.norm(values)


@pytest.mark.parametrize("ratio", mostly_long([0.01, 0.3, 0.5, 0.999], 1))
@pytest.mark.parametrize("length", [1, 7, 1000])
def test_random_k_sends_the_values_of_the_support(ratio: float, length: int) -> None:
    codec, draw = CODECS["random_k"](ratio=ratio), drawn(5)
    places = support(length, ratio, draw.key)
    values = np.arange(1.0, length + 1)
    sent = codec.encode(values, draw)
    assert sent.tolist() == values[places].tolist()
    back = codec.decode(sent, draw, length)
    expected = np.zeros(length)
    expected[places] = values[places] * (length / len(places))
    np.testing.assert_allclose(back, expected, rtol=1e-15)


def test_a_draw_does_not_print_its_key() -> None:
    assert "key" not in repr(drawn(1))


@pytest.mark.covering(2)
@OF_PACKETS
@pytest.mark.parametrize("length", [0, 1, 63, 1000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("feedback", [False, True])
def test_packets_say_what_the_reference_does(name: str, length: int, dtype: Any, feedback: bool) -> None:
    codec, draw = made(name), drawn(4, keeps_error=feedback)
    values = np.random.default_rng(length).standard_normal(length).astype(dtype)
    back = passed_on(codec, values, draw)
    assert back.dtype == dtype
    expected = PACKETS[name][1](values.astype(float), draw.key, feedback) if length else []
    np.testing.assert_allclose(back, expected, rtol=1e-6, atol=1e-6)


@OF_PACKETS
@settings(deadline=None, max_examples=150)
@given(packet=st.binary(max_size=90), length=st.integers(0, 70))
def test_packets_of_others_are_a_vector_or_refused(name: str, packet: bytes, length: int) -> None:
    codec: Any = made(name)
    try:
        back = codec.unpack(packet, length, np.dtype(np.float32))
    except ValueError:
        return
    assert back.shape == (length,)
    assert np.isfinite(back).all()


@OF_PACKETS
@settings(deadline=None, max_examples=50)
@given(data=st.data(), length=st.integers(1, 70))
def test_packets_that_were_cut_or_changed_are_a_vector_or_refused(name: str, data: Any, length: int) -> None:
    codec: Any = made(name)
    packet = bytearray(codec.pack(np.random.default_rng(length).standard_normal(length), drawn(1)))
    place = data.draw(st.integers(0, len(packet) - 1))
    packet[place] ^= data.draw(st.integers(1, 255))
    try:
        back = codec.unpack(bytes(packet), length, np.dtype(np.float64))
    except ValueError:
        return
    assert back.shape == (length,)
    assert np.isfinite(back).all()


def test_distances_beyond_two_bytes_are_found_again() -> None:
    values = np.zeros(300_000, np.float32)
    values[[0, 65_534, 65_535, 131_071, 299_999]] = [1, 2, 3, 4, 5]
    codec: Any = CODECS["fixed_threshold"](threshold=0.5)
    assert (passed_on(codec, values, drawn(1)) == values).all()


def test_large_values_stay_finite() -> None:
    largest = np.finfo(np.float32).max
    for name in PACKET:
        back = passed_on(made(name), np.array([largest, -largest, 1.0], np.float32), drawn(1))
        assert np.isfinite(back).all(), name


@pytest.mark.parametrize("feedback", [False, True])
def test_eden_loses_what_its_paper_says(feedback: bool) -> None:
    """Normalized squared errors of long vectors: unbiased ones, and the least ones (DRIVE's at one bit)."""
    told = (0.3634, 0.1175, 0.0345, 0.0095) if feedback else (0.5708, 0.1331, 0.0358, 0.0096)
    rng = np.random.default_rng(0)
    for bits, error in enumerate(told, 1):
        codec, found = CODECS["eden"](code_bits=bits), []
        for number in range(4):
            values = rng.laplace(size=1 << 15)
            lost = values - passed_on(codec, values, drawn(number, keeps_error=feedback))
            found.append(float(lost @ lost / (values @ values)))
        assert np.mean(found) == pytest.approx(error, rel=0.03)


def test_the_sign_that_most_silos_have_is_taken() -> None:
    codec: Any = CODECS["sign"]()
    rows = [np.array([1.0, -1.0, 1.0]), np.array([-2.0, -2.0, 2.0]), np.array([-3.0, 3.0, 3.0])]
    assert codec.joined(rows, [0.2, 0.3, 0.5]).tolist() == [-2.3, 0.0, 2.3]
    assert codec.joined(rows, [0.6, 0.3, 0.1])[0] == pytest.approx(1.5)
