"""t-of-n secret sharing of 32-byte secrets (Shamir 1979) over the prime field of 2^521 - 1.

The prime is that of NIST curve P-521 (FIPS 186-5): well examined, and larger than any 32-byte secret, so
that no secret has to be refused. Any t - 1 shares are independent of the secret; a share has 66 bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import lcm, prod

from silofl.crypto.secret import Secret, Unpicklable
from silofl.errors import ProtocolError, ThresholdError

PRIME = 2**521 - 1
SECRET_BYTES = 32
SHARE_BYTES = 66
_WIDE = SHARE_BYTES + 16  # 135 bits more than the prime: reducing them leaves a bias below 2^-135


@dataclass(frozen=True, slots=True)
class Share(Unpicklable):
    """The polynomial's value (66 bytes, big-endian, below the prime) at the point `x` (1 or more)."""

    x: int
    value: Secret


def split(
    secret: Secret, threshold: int, points: Sequence[int], *, entropy: Callable[[int], bytes] = os.urandom
) -> dict[int, Share]:
    """Shares of `secret` (32 bytes) at the distinct `points`, any `threshold` of which give it back.

    `entropy` is for known-answer tests only. ProtocolError for a wrong length, repeated or improper points,
    or a threshold outside 1..len(points).
    """
    _check_points(points)
    if len(secret) != SECRET_BYTES:
        raise ProtocolError(f"a shared secret has {SECRET_BYTES} bytes, not {len(secret)}")
    if not 1 <= threshold <= len(points):
        raise ProtocolError(f"{threshold} of {len(points)} is no threshold")
    coefficients = [int.from_bytes(entropy(_WIDE)) % PRIME for _ in range(threshold - 1)]
    coefficients.append(int.from_bytes(secret.expose()))
    return {x: Share(x, _to_secret(_evaluate(coefficients, x))) for x in points}


def reconstruct(shares: Sequence[Share], threshold: int) -> Secret:
    """The 32-byte secret of which at least `threshold` shares are given.

    ThresholdError for fewer. ProtocolError for a repeated point, a share of a wrong length, and shares that
    do not lie on one polynomial or whose secret has more than 32 bytes: then one of them is wrong.
    """
    _check_points([share.x for share in shares])
    if len(shares) < threshold:
        raise ThresholdError(f"{len(shares)} shares are left of the {threshold} needed")
    values = [share_value(share) for share in shares]
    points = tuple(share.x for share in shares[:threshold])
    for share, value in zip(shares[threshold:], values[threshold:], strict=True):
        if _interpolate(points, values, share.x) != value:
            raise ProtocolError("the shares do not lie on one polynomial: at least one is wrong")
    secret = _interpolate(points, values, 0)
    if secret >= 1 << 8 * SECRET_BYTES:
        raise ProtocolError("the shares give no 32-byte secret: at least one is wrong")
    return Secret(secret.to_bytes(SECRET_BYTES))


def share_value(share: Share) -> int:
    """The share as a field element; ProtocolError for a wrong length or a value not below the prime."""
    if len(share.value) != SHARE_BYTES:
        raise ProtocolError(f"a share has {SHARE_BYTES} bytes, not {len(share.value)}")
    value = int.from_bytes(share.value.expose())
    if value >= PRIME:
        raise ProtocolError("a share is not below the prime")
    return value


def _evaluate(coefficients: Sequence[int], x: int) -> int:
    value = 0
    for coefficient in coefficients:  # Horner, the secret last
        value = (value * x + coefficient) % PRIME
    return value


def _interpolate(points: tuple[int, ...], values: Sequence[int], at: int) -> int:
    weights = _weights(points, at)
    return sum(weight * value for weight, value in zip(weights, values, strict=False)) % PRIME


@lru_cache(maxsize=1024)
def _weights(points: tuple[int, ...], at: int) -> tuple[int, ...]:
    """Lagrange's weights of `points` at `at`: public, and the same for every secret of a round."""
    whole = prod(at - x for x in points)  # exact integers: points are small, and only one inverse is taken
    below = [prod(x - other for other in points if other != x) for x in points]
    common = lcm(*below)
    inverse = pow(common, -1, PRIME)
    return tuple(
        whole // (at - x) * (common // denominator) * inverse % PRIME
        for x, denominator in zip(points, below, strict=True)
    )


def _check_points(points: Sequence[int]) -> None:
    if len(set(points)) != len(points):
        raise ProtocolError("two shares are at the same point")
    if any(not 0 < x < PRIME for x in points):
        raise ProtocolError("a share's point must be at least 1: the secret itself is at 0")


def _to_secret(value: int) -> Secret:
    return Secret(value.to_bytes(SHARE_BYTES))
