"""Where named vectors lie on the wire: slice by slice, in each slice one vector after another."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from itertools import accumulate
from typing import NamedTuple

from silofl.aggregation.shards import Shards
from silofl.aggregation.spec import VectorSpec


class Block(NamedTuple):
    """Values [first, last) of a vector as words [start, stop) of the wire, the same number a value."""

    name: str
    first: int
    last: int
    start: int
    stop: int
    word: int
    """Which of the vector's words, counted from its first value, is at `start`."""


def _words(count: int, width: Fraction) -> int:
    """How many words so many values take, the last of which may have room left."""
    return math.ceil(count * width)


class Layout:
    """One wire for several vectors, so that one exchange, one set of masks and one vote serve them all.

    Args:
        vectors: in their order within a slice.
        words: wire words a value of each vector; slices begin with whole words.
        shards: which member serves which slice; its size does not matter.

    Attributes:
        shards: ownership of the wire, in words.
        spans: ownership of each vector, in values; slice k of all of them has one server.
    """

    def __init__(
        self, vectors: tuple[VectorSpec, ...], words: Mapping[str, Fraction | int], shards: Shards
    ) -> None:
        self._words = {name: Fraction(width) for name, width in words.items()}
        self.spans = {one.name: shards.of_size(one.size) for one in vectors}
        lengths = [
            sum(
                _words(span.bounds[k + 1] - span.bounds[k], self._words[name])
                for name, span in self.spans.items()
            )
            for k in range(len(shards.members))
        ]
        offsets = (0, *accumulate(lengths))
        self.shards = replace(shards, size=offsets[-1], offsets=offsets)
        self._blocks = [list(self._slice(k)) for k in range(len(shards.members))]
        self._in_order = [block for blocks in self._blocks for block in blocks]
        self._starts = [block.start for block in self._in_order]

    def _slice(self, index: int) -> Iterator[Block]:
        start = self.shards.bounds[index]
        for name, span in self.spans.items():
            first, last = span.span(index)
            stop = start + _words(last - first, self._words[name])
            if last > first:
                yield Block(name, first, last, start, stop, _words(first, self._words[name]))
            start = stop

    def blocks(self, index: int) -> list[Block]:
        """The parts of slice `index`, without empty ones."""
        return self._blocks[index]

    def within(self, start: int, stop: int) -> list[Block]:
        """The parts of words [start, stop), which may begin and end inside a value of several words.

        Of such a part `first` and `last` are the values that it touches.
        """
        if start >= min(stop, self.shards.size):
            return []
        touched = slice(max(bisect_right(self._starts, start) - 1, 0), bisect_left(self._starts, stop))
        return [self._part(block, start, stop) for block in self._in_order[touched]]

    def _part(self, block: Block, start: int, stop: int) -> Block:
        """What of a block lies in words [start, stop)."""
        before, begin, end, width = block.start, start, stop, self._words[block.name]
        begin = max(begin, before)
        end = min(end, block.stop)
        first = block.first + math.floor((begin - before) / width)
        last = min(block.last, block.first + math.ceil((end - before) / width))
        return Block(block.name, first, last, begin, end, block.word + begin - before)
