"""Discrete noise on whole numbers: a share by every silo, or all of it by the ranks that serve the sum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from silofl.transforms.base import SecretStreams, Slice, Values
from silofl_kernels import NoiseTable, add_noise


@final
@dataclass(frozen=True)
class SiloNoise:
    """Every silo adds noise of its own before the sum: only the noisy sum ever exists."""

    table: NoiseTable
    keys: SecretStreams

    linear: ClassVar[bool] = False
    unbiased: ClassVar[bool] = True

    def encode(self, values: Values, place: Slice, out: Values) -> Values:
        """See `Transform`: uintB (k,) with noise; integers that lie in `out` are written over."""
        if values is not out:
            out[:] = values
        stream = self.keys.stream("noise", place.round_number, place.attempt)
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

    def encode(self, values: Values, place: Slice, out: Values) -> Values:
        """See `Transform`: nothing before the sum."""
        return values

    def decode(self, total: Values, place: Slice) -> Values:
        """See `Transform`: uintB (k,) with noise."""
        noisy = total.copy()
        stream = self.keys.stream("central noise", place.round_number, place.attempt)
        add_noise(noisy, self.table, stream, position=place.position)
        return noisy
