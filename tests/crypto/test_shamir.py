"""Shamir sharing: any t shares give the secret back, t - 1 tell nothing, and what is improper is refused."""

import itertools
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silofl.crypto.secret import Secret
from silofl.crypto.shamir import PRIME, SHARE_BYTES, Share, reconstruct, share_value, split
from silofl.errors import ProtocolError, ThresholdError


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=32, max_size=32), st.integers(1, 9), st.data())
def test_any_threshold_of_shares_gives_the_secret(raw, silos, data):
    threshold = data.draw(st.integers(1, silos))
    points = data.draw(st.lists(st.integers(1, 70000), min_size=silos, max_size=silos, unique=True))
    shares = split(Secret(raw), threshold, points)
    chosen = data.draw(st.permutations(list(shares.values())))
    count = data.draw(st.integers(threshold, silos))
    assert reconstruct(chosen[:count], threshold) == Secret(raw)
    if threshold > 1:
        with pytest.raises(ThresholdError):
            reconstruct(chosen[: threshold - 1], threshold)


def test_the_prime_is_that_of_p_521():
    assert PRIME == 2**521 - 1
    s = 4  # Lucas and Lehmer: 2^p - 1 is prime if and only if s(p - 2) = 0
    for _ in range(521 - 2):
        s = (s * s - 2) % PRIME
    assert s == 0


def test_shares_lie_on_the_polynomial_of_the_entropy():
    """The definition, evaluated naively: f(x) = secret + c1 x + c2 x^2."""
    entropy = iter([(7).to_bytes(82), (5).to_bytes(82)])
    shares = split(Secret((11).to_bytes(32)), 3, [1, 2, 10], entropy=lambda _: next(entropy))
    assert [share_value(shares[x]) for x in (1, 2, 10)] == [11 + 5 * x + 7 * x * x for x in (1, 2, 10)]


def test_fewer_shares_fit_every_secret():
    """Two of three-of-five shares extend to any secret at all: they tell nothing."""
    shares = split(Secret(b"\x01" * 32), 3, range(1, 6))
    for wanted in (b"\x01" * 32, b"\x02" * 32, bytes(32), b"\xff" * 32):
        third = _third_share(shares[1], shares[2], 3, int.from_bytes(wanted))
        assert reconstruct([shares[1], shares[2], third], 3) == Secret(wanted)


def _third_share(one, two, x, secret):
    """The value at x of the quadratic through (0, secret) and two shares, by Lagrange's formula."""
    points = [(0, secret), (one.x, share_value(one)), (two.x, share_value(two))]
    value = 0
    for i, (xi, yi) in enumerate(points):
        term = yi
        for j, (xj, _) in enumerate(points):
            if i != j:
                term = term * (x - xj) * pow(xi - xj, -1, PRIME)
        value += term
    return Share(x, Secret((value % PRIME).to_bytes(SHARE_BYTES)))


def test_a_wrong_share_is_noticed_when_there_are_more_than_enough():
    shares = list(split(Secret(os.urandom(32)), 3, range(1, 6)).values())
    for wrong in range(5):
        altered = list(shares)
        value = (share_value(shares[wrong]) + 1) % PRIME
        altered[wrong] = Share(shares[wrong].x, Secret(value.to_bytes(SHARE_BYTES)))
        for count, order in ((4, altered), (5, altered), (5, altered[::-1])):
            if altered[wrong] in order[:count]:
                with pytest.raises(ProtocolError, match="at least one is wrong"):
                    reconstruct(order[:count], 3)


def test_a_sum_that_is_no_32_byte_secret_is_refused():
    shares = list(split(Secret(os.urandom(32)), 2, [1, 2]).values())
    bad = Share(2, Secret(((share_value(shares[1]) + 12345) % PRIME).to_bytes(SHARE_BYTES)))
    with pytest.raises(ProtocolError):  # 2^-265 is the chance that this is a secret
        reconstruct([shares[0], Share(2, Secret((PRIME // 3).to_bytes(SHARE_BYTES)))], 2)
    assert bad.x == 2


@pytest.mark.parametrize("points", [[1, 1, 2], [0, 1, 2], [-1, 1, 2], [PRIME, 1, 2]])
def test_improper_points_are_refused(points):
    with pytest.raises(ProtocolError):
        split(Secret(bytes(32)), 2, points)
    shares = split(Secret(bytes(32)), 2, [1, 2, 3])
    with pytest.raises(ProtocolError):
        reconstruct([Share(x, shares[3].value) for x in points], 2)


@pytest.mark.parametrize("length", [0, 31, 33, 66])
def test_secrets_of_other_lengths_are_refused(length):
    with pytest.raises(ProtocolError, match="32 bytes"):
        split(Secret(bytes(length)), 2, [1, 2, 3])


@pytest.mark.parametrize("threshold", [0, -1, 4])
def test_thresholds_out_of_range_are_refused(threshold):
    with pytest.raises(ProtocolError, match="no threshold"):
        split(Secret(bytes(32)), threshold, [1, 2, 3])


@pytest.mark.parametrize("value", [bytes(65), bytes(67), PRIME.to_bytes(66), b"\xff" * 66])
def test_shares_out_of_the_field_are_refused(value):
    shares = split(Secret(bytes(32)), 2, [1, 2, 3])
    with pytest.raises(ProtocolError, match=r"a share has 66 bytes|not below the prime"):
        reconstruct([shares[1], Share(2, Secret(value))], 2)


def test_shares_differ_each_time():
    secret = Secret(bytes(32))
    one, two = (split(secret, 2, [1, 2]) for _ in range(2))
    for x, y in itertools.product((1, 2), repeat=2):
        assert one[x].value != two[y].value
