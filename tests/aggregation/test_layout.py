"""Layouts: every value of every vector on the wire exactly once, in slices that one rank serves."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from silofl.aggregation.layout import Layout
from silofl.aggregation.shards import Shards
from silofl.aggregation.spec import VectorSpec


@st.composite
def layouts(draw: Any) -> tuple[Layout, dict[str, tuple[int, Any]]]:
    """A layout, and of each vector its length and its words a value."""
    sizes = draw(st.lists(st.integers(0, 700), min_size=1, max_size=4))
    widths = st.integers(1, 45) | st.sampled_from([Fraction(1, fields) for fields in (2, 4, 8, 32)])
    words = draw(st.lists(widths, min_size=len(sizes), max_size=len(sizes)))
    members = tuple(sorted(draw(st.sets(st.integers(0, 30), min_size=1, max_size=9))))
    servers = draw(st.none() | st.integers(1, len(members)))
    named = {f"v{k}": pair for k, pair in enumerate(zip(sizes, words, strict=True))}
    vectors = tuple(VectorSpec(name, size) for name, (size, _) in named.items())
    shards = Shards(0, members, servers=servers)
    return Layout(vectors, {name: width for name, (_, width) in named.items()}, shards), named


@settings(deadline=None, max_examples=150)
@given(layouts(), st.data())
def test_every_word_of_every_value_lies_on_the_wire_once(built: Any, data: Any) -> None:
    layout, named = built
    size = layout.shards.size
    assert size == sum(math.ceil(count * width) for count, width in named.values())
    places = {name: np.full(math.ceil(count * width), -1) for name, (count, width) in named.items()}
    cuts = data.draw(st.lists(st.integers(0, size), max_size=12))
    bounds = sorted({0, size, *cuts})
    for start, stop in pairwise(bounds):
        at = start
        for block in layout.within(start, stop):
            width = named[block.name][1]
            assert block.start == at, "no gap, in order"
            at, count = block.stop, block.stop - block.start
            found = places[block.name][block.word : block.word + count]
            assert (found == -1).all()
            found[:] = np.arange(block.start, block.stop)
            assert block.first == block.word // width
            assert block.last == min(-(-(block.word + count) // width), named[block.name][0])
        assert at == stop
    every = np.concatenate(list(places.values()))
    assert sorted(every.tolist()) == list(range(size))


@settings(deadline=None, max_examples=100)
@given(layouts())
def test_slices_of_all_vectors_have_one_server(built: Any) -> None:
    layout, named = built
    starts = dict.fromkeys(named, 0)
    for index in range(len(layout.shards.members)):
        at, stop = layout.shards.span(index)
        for block in layout.blocks(index):
            assert (block.first, block.last) == layout.spans[block.name].span(index)
            assert block.first == starts[block.name] < block.last
            assert (block.start, block.stop - block.start) == (
                at,
                math.ceil((block.last - block.first) * named[block.name][1]),
            )
            starts[block.name], at = block.last, block.stop
        assert at == stop
    assert starts == {name: count for name, (count, _) in named.items()}


def test_a_rank_beyond_the_servers_has_an_empty_slice_of_everything() -> None:
    vectors = (VectorSpec("a", 100), VectorSpec("b", 3))
    layout = Layout(vectors, {"a": 1, "b": 8}, Shards(0, (0, 1, 2), servers=2))
    assert layout.shards.bounds == [0, 64 + 24, 124, 124]
    assert [[block.name for block in layout.blocks(k)] for k in range(3)] == [["a", "b"], ["a"], []]
