"""Where the parts of one keyed round lie in its masks: the vector, its tail, and small sums after it."""

from __future__ import annotations

from dataclasses import dataclass

SMALL_WORDS = 4096
"""Positions behind vector and tail for small sums of the same round."""


@dataclass
class MaskOffsets:
    """Positions of one round's words; each is used once."""

    vector: int
    tail: int

    def __post_init__(self) -> None:
        self._next = self.vector + self.tail

    @property
    def length(self) -> int:
        """Words that the round's masks may cover."""
        return self.vector + self.tail + SMALL_WORDS

    def take(self, count: int) -> int | None:
        """Where `count` unused positions begin; None where too few are left."""
        start = self._next
        if start + count > self.length:
            return None
        self._next = start + count
        return start
