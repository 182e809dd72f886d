"""What `make test` keeps of a family covers what it says; the rest is left to `make test-long`."""

from __future__ import annotations

from itertools import combinations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.campaigns import covering
from tests.conftest import COLLECTED


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(1, 3))
def test_every_choice_of_values_of_so_many_parameters_is_kept(sizes: list[int], strength: int) -> None:
    members = [dict(enumerate(values)) for values in product(*(range(size) for size in sizes))]
    named = [{f"p{number}": value for number, value in one.items()} for one in members]
    kept = covering(named, strength)
    for names in combinations(sorted(named[0]), min(strength, len(sizes))):
        every = {tuple(one[name] for name in names) for one in named}
        assert {tuple(named[number][name] for name in names) for number in kept} == every
    if strength >= len(sizes):
        assert kept == set(range(len(members)))
    if strength == 1:
        assert len(kept) == max(sizes)


@pytest.mark.covering(1)
@pytest.mark.parametrize("second", "xyz")
@pytest.mark.parametrize("first", "abc")
def test_a_family(first: str, second: str) -> None:
    assert first + second


def test_the_rest_of_a_family_is_left_to_the_long_run(request: pytest.FixtureRequest) -> None:
    collected = request.config.stash[COLLECTED]  # also what `-m` has left out
    family = [item for item in collected if item.nodeid.partition("[")[0].endswith("::test_a_family")]
    assert len(family) == 9
    assert sum(item.get_closest_marker("long") is None for item in family) == 3
