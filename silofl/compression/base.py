"""What a codec is: a shorter vector in the place of each that silos add up."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from silofl.types import Vector

KEY_BYTES = 16


@dataclass(frozen=True)
class Draw:
    """What a codec's random choices in one round are made from: the same on every silo, and no secret.

    Attributes:
        key: 16 bytes, others for each vector of each round.
        keeps_error: whether what the codec loses goes on to the silo's next round (error feedback, Seide et
            al. 2014, Karimireddy et al. 2019), so that it is to lose as little as it can, biased or not.
    """

    key: bytes = field(repr=False)
    keeps_error: bool = False


@dataclass(frozen=True)
class Codec:
    """A codec. The base sends vectors as they are.

    Sums of what is sent are what travels, so that a codec which is to go under a secure sum is linear:
    encode(a) + encode(b) = encode(a + b), and decode likewise.
    """

    linear: ClassVar[bool] = True
    """Whether the sum of encoded vectors is the encoding of the sum."""
    unbiased: ClassVar[bool] = True
    """Whether decoding gives the vector on average over the draws, without `Draw.keeps_error`."""
    in_place: ClassVar[bool] = True
    """Whether value i of what is sent is value i of the vector, so that tensors keep ranges of their own."""
    paper: ClassVar[str] = ""
    """Where it is from."""

    def size(self, length: int) -> int:
        """How many values are sent of a vector of `length`."""
        return length

    def encode(self, values: Vector, draw: Draw) -> Vector:
        """What is sent (`size(d)`,), of the same dtype, of values (d,), which are not changed."""
        return values

    def decode(self, sent: Vector, draw: Draw, length: int) -> Vector:
        """The vector (`length`,) of a sum of what was sent, or of one silo's."""
        return sent
