"""What a codec is: a shorter vector in the place of each that silos add up."""

from __future__ import annotations

import hashlib
import struct
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

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

    def of_silo(self, silo: int) -> Draw:
        """What one silo's own choices are made from, which the others can make as well."""
        return Draw(hashlib.sha256(self.key + struct.pack(">Q", silo)).digest()[:KEY_BYTES], self.keeps_error)


@dataclass(frozen=True)
class Codec:
    """A codec. The base sends vectors as they are.

    A codec that goes under a secure sum is linear, encode(a) + encode(b) = encode(a + b), and decode
    likewise, but for that of a `SketchCodec`: sums of what is sent are what travels. Others have packets
    (`PacketCodec`).
    """

    linear: ClassVar[bool] = True
    """Whether the sum of encoded vectors is the encoding of the sum."""
    unbiased: ClassVar[bool] = True
    """Whether decoding gives the vector on average over the draws, without `Draw.keeps_error`."""
    in_place: ClassVar[bool] = True
    """Whether value i of what is sent is value i of the vector, so that tensors keep ranges of their own."""
    shortens: ClassVar[bool] = False
    """Whether what is sent is never longer (L2) than the vector, so that the noise of [privacy] covers it."""
    paper: ClassVar[str] = ""
    """Where it is from."""

    def refusal(self) -> str | None:
        """Why its keys do not go together, naming key, value and remedy; None where they do."""
        return None

    def size(self, length: int) -> int:
        """How many values are sent of a vector of `length`."""
        return length

    def encode(self, values: Vector, draw: Draw) -> Vector:
        """What is sent (`size(d)`,), of the same dtype, of values (d,), which are not changed."""
        return values

    def decode(self, sent: Vector, draw: Draw, length: int) -> Vector:
        """The vector (`length`,) of a sum of what was sent, or of one silo's."""
        return sent

    def remainder(self, values: Vector, sent: Vector, draw: Draw) -> Vector:
        """What one silo's values (d,) have beyond what `sent` decodes to; both may be written over."""
        return values - self.decode(sent, draw, len(values))


@dataclass(frozen=True)
class FactorCodec(Codec, ABC):
    """A codec of two sums a round: matrices become two factors, of which the first decides the second.

    What is lost goes on to the silo's next update, whatever `compress.error_feedback`.
    """

    unbiased = False
    in_place = False

    @abstractmethod
    def factored(self, shape: tuple[int, ...]) -> tuple[int, int, int] | None:
        """Rows, columns and rank of a tensor of that shape that has factors; None where it is sent whole."""

    @abstractmethod
    def first(self, matrix: Vector, second: Vector) -> Vector:
        """The first factor (rows, rank) of one silo's matrix, by the second one (columns, rank) of before."""

    @abstractmethod
    def basis(self, mean: Vector) -> Vector:
        """What silos make of the mean of first factors, (rows, rank): the same bits on every processor."""

    @abstractmethod
    def second(self, matrix: Vector, basis: Vector) -> Vector:
        """The second factor (columns, rank) of one silo's matrix."""

    @abstractmethod
    def add_product(self, matrix: Vector, basis: Vector, second: Vector, weight: float) -> None:
        """matrix (rows, columns) += weight times that of two factors: the same bits on every processor."""


@dataclass(frozen=True)
class SketchCodec(Codec, ABC):
    """A codec that is linear there and not back: `decode` makes of a sum the step that it tells best.

    With `Draw.keeps_error` all rounds have one draw, and what the steps of earlier rounds left of their sums
    is added to the sum before it is decoded: the error is that of the sum, and silos have it in common.
    """

    unbiased = False
    in_place = False

    @abstractmethod
    def unfit(self, length: int) -> str | None:
        """Why a vector of `length` cannot have a sketch, naming key, value and remedy; None where it can."""

    @abstractmethod
    def left(self, sent: Vector, step: Vector, draw: Draw) -> Vector:
        """What of a sum (`size(d)`,) its step (d,) leaves: the same bits on every processor."""


@dataclass(frozen=True)
class PacketCodec(Codec, ABC):
    """A codec of which sums mean nothing: every silo's packet goes to every other silo, in the clear."""

    linear = False

    @abstractmethod
    def pack(self, values: Vector, draw: Draw) -> bytes:
        """This silo's packet of values (d,), float32 or float64 and finite, which are not changed."""

    @abstractmethod
    def unpack(self, packet: bytes, length: int, dtype: np.dtype[Any]) -> Vector:
        """The vector (`length`,) of a packet that any silo may have made.

        ValueError where it is none: who sent it is told by name.
        """

    def joined(self, rows: Sequence[Vector], shares: Sequence[float]) -> Vector:
        """What silos' vectors (d,) are together, by each silo's part of the mean; in the silos' order."""
        return weighted_mean(rows, shares)


def weighted_mean(rows: Sequence[Vector], shares: Sequence[float]) -> Vector:
    """The mean (d,) of rows by their shares, which add up to 1: in float64, in their order, rounded once."""
    total = np.zeros(len(rows[0]))
    for row, share in zip(rows, shares, strict=True):
        total += share * row.astype(np.float64)
    return total.astype(rows[0].dtype)
