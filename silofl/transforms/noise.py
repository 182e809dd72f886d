"""Discrete noise on whole numbers: a share by every silo, or all of it by the ranks that serve the sum.

Its stream is bound to the numbers that it goes on, so that no two vectors ever meet the same noise, whatever
becomes of the run: see `crypto.noise_keys`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, final

from silofl.transforms.base import SecretStreams, Slice, Values
from silofl_kernels import NoiseTable, add_noise


def identity(table: NoiseTable) -> bytes:
    """What says which distribution a table is of: draws from two tables by one stream would be alike."""
    return f"{table.name} {table.variance.hex()}".encode()


@final
@dataclass(frozen=True)
class SiloNoise:
    """Every silo adds noise of its own before the sum: only the noisy sum ever exists."""

    table: NoiseTable
    keys: SecretStreams

    linear: ClassVar[bool] = False
    unbiased: ClassVar[bool] = True
    needs_fingerprint: ClassVar[bool] = True

    def encode(self, values: Values, place: Slice, out: Values) -> Values:
        """See `Transform`: uintB (k,) with noise; integers that lie in `out` are written over."""
        if not place.fingerprint:
            raise ValueError("noise is bound to what it goes on: give the fingerprint of that")
        if values is not out:
            out[:] = values
        stream = self.keys.stream("noise", place.round_number, place.attempt, place.fingerprint)
        add_noise(out, self.table, stream, position=place.position)
        return out

    def decode(self, total: Values, place: Slice) -> Values:
        """See `Transform`: the noise stays."""
        return total


@final
@dataclass(frozen=True)
class ServerNoise:
    """The rank that serves a slice adds the noise once, to the sum; the others have to trust it."""

    table: NoiseTable
    keys: SecretStreams

    linear: ClassVar[bool] = True
    unbiased: ClassVar[bool] = True
    needs_fingerprint: ClassVar[bool] = False

    def encode(self, values: Values, place: Slice, out: Values) -> Values:
        """See `Transform`: nothing before the sum."""
        return values

    def decode(self, total: Values, place: Slice) -> Values:
        """See `Transform`: uintB (k,) with noise, which is bound to this slice of the sum as it is cut."""
        noisy, at = total.copy(), (place.round_number, place.attempt)
        context = identity(self.table), struct.pack(">Q", place.position)
        bound_to = self.keys.fingerprint("slice", *at, noisy, *context)
        stream = self.keys.stream("central noise", *at, bound_to)
        add_noise(noisy, self.table, stream, position=place.position)
        return noisy
