"""What decides a sum besides the words in it, and what must therefore be equal on all silos that open it.

Whoever changes one of these for some silos decides what the opened sum tells: with another range or total
weight for all but one, the sum is that one's update (Pasquini et al. 2022 show it for the global model).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from silofl.crypto.kdf import digest
from silofl.errors import ProtocolError

INPUT_BYTES = 32
NOTHING = bytes(INPUT_BYTES)


@dataclass(frozen=True, slots=True)
class SumInputs:
    """Digests (32 bytes each); zeros where there is nothing to agree on."""

    model: bytes = NOTHING
    """Of the vectors that silos trained from."""
    terms: bytes = NOTHING
    """Of what is added up, by which strategy, with which clipping and noise, in which round."""
    weights: bytes = NOTHING
    """Of the total that sample counts are divided by."""
    ranges: bytes = NOTHING
    """Of the ranges that values are scaled by."""

    def __post_init__(self) -> None:
        if any(len(part) != INPUT_BYTES for part in self.parts):
            raise ValueError(f"each input of a sum is a digest of {INPUT_BYTES} bytes")

    @property
    def parts(self) -> tuple[bytes, ...]:
        """All digests, in their order on the wire."""
        return self.model, self.terms, self.weights, self.ranges

    @property
    def digest(self) -> bytes:
        """SHA-256 (32 bytes) of all of them: masks depend on it."""
        return digest("inputs", *self.parts)

    def difference(self, other: SumInputs) -> str:
        """What is another one there, in words; empty where all is equal."""
        if self == other:
            return ""
        names = [field.name for field in fields(self)]
        parts = zip(names, self.parts, other.parts, strict=True)
        return next((WORDS[name] for name, mine, theirs in parts if mine != theirs), "")


WORDS = {
    "model": "global model",
    "terms": "terms of the sum (what is added up, strategy, clipping, noise, round)",
    "weights": "total of sample counts",
    "ranges": "ranges",
}


def refuse_other_inputs(
    silo: int, own: SumInputs, heard: bytes, theirs: SumInputs, they_heard: bytes
) -> None:
    """Raise ProtocolError, naming `silo`, where it was given something else than this silo.

    `heard` are digests of the small sums before, such as the one that ranges come from.
    """
    difference = own.difference(theirs) or ("" if heard == they_heard else "words of the small sums")
    if difference:
        raise ProtocolError(
            f"silo {silo} and this silo were given different {difference}: they were changed for one of the "
            "two, by a silo or on the wire; nothing was revealed",
            sender=silo,
        )
