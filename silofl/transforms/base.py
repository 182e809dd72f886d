"""What a transform is: slice by slice, around any aggregator."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from numpy.typing import NDArray

from silofl_kernels import Stream

Values = NDArray[Any]


class SecretStreams(Protocol):
    """One silo's secret random streams."""

    def stream(self, purpose: str, round_number: int, attempt: int, bound_to: bytes = b"") -> Stream:
        """The stream of one purpose in one attempt at a round, for what has this fingerprint alone."""

    def fingerprint(
        self, purpose: str, round_number: int, attempt: int, values: Values, *context: bytes
    ) -> bytes:
        """A keyed digest of values (k,) and context: without the key it looks drawn anew for each."""
        ...


@dataclass(frozen=True)
class Slice:
    """Which part of which round a transform works on.

    Attributes:
        position: of the first value in the whole contribution: a key for randomness.
        round_number: from 1.
        attempt: at this round, from 0; more than one where a killed run may have shown an earlier one.
        fingerprint: of the whole contribution as a stage that `needs_fingerprint` finds it: a key for noise.
    """

    position: int
    round_number: int
    attempt: int = 0
    fingerprint: bytes = field(default=b"", repr=False)


class Transform(Protocol):
    """One stage of what silos add up. Any slice can be made alone, bit for bit, given the `Slice` that it is.

    Stages from the first one on that `needs_fingerprint` find ring integers, and all slices of them there.
    """

    linear: ClassVar[bool]
    """Whether the sum of encoded slices is the encoding of the sum."""
    unbiased: ClassVar[bool]
    """Whether decoding gives the sum on average over the transform's own randomness."""
    needs_fingerprint: ClassVar[bool]
    """Whether what it does to a slice on its way in hangs on the whole contribution, by a fingerprint."""

    def encode(self, values: Values, place: Slice, out: Values) -> Values:
        """A silo's slice (k,) on its way into the sum; not changed, unless it is `out`.

        `out` (k,), of the type that is added up, is where the slice lies in the end: a transform that gives
        that type writes there and returns it.
        """

    def decode(self, total: Values, place: Slice) -> Values:
        """A slice (k,) of the sum of encoded slices; ring integers are not changed, others may be."""
