"""The neighbour graph: regular, symmetric, the same everywhere, and as safe as its bounds say."""

import random
from fractions import Fraction

import pytest

from silofl.crypto.graph import (
    Bounds,
    Degree,
    choose_degree,
    exposure_probability,
    loss_probability,
    most_neighbours,
    neighbourhoods,
    split_probability,
)
from silofl.errors import ConfigError


@pytest.mark.parametrize(("silos", "degree"), [(20, 6), (21, 6), (50, 10), (7, 2), (64, 40)])
def test_regular_symmetric_connected(silos, degree):
    members = [3 * k for k in range(silos)]
    graph = neighbourhoods(members, Degree(degree, 3), b"seed")
    assert {len(peers) for peers in graph.values()} == {degree}
    for silo, peers in graph.items():
        assert silo not in peers
        assert all(silo in graph[peer] for peer in peers)
    assert _connected(graph, set(members))


def test_the_order_of_silos_does_not_matter_and_the_randomness_does():
    members = list(range(30))
    one = neighbourhoods(members, Degree(6, 3), b"one")
    shuffled = random.Random(1).sample(members, 30)
    assert one == neighbourhoods(shuffled, Degree(6, 3), b"one")
    assert one != neighbourhoods(members, Degree(6, 3), b"two")


def test_up_to_sixteen_silos_everybody_is_a_neighbour():
    for silos in range(2, 17):
        assert choose_degree(silos, Bounds()) is None
        graph = neighbourhoods(range(silos), None, b"")
        assert all(peers == set(range(silos)) - {silo} for silo, peers in graph.items())


@pytest.mark.parametrize("silos", [17, 64, 100, 128, 256])
@pytest.mark.parametrize(("colluding", "dropping"), [(0.25, 0.1), (1 / 3, 0.1), (0.1, 0.3)])
def test_the_chosen_degree_keeps_the_bounds_and_no_smaller_one_does(silos, colluding, dropping):
    bounds = Bounds(colluding=colluding, dropping=dropping)
    chosen = choose_degree(silos, bounds)
    smaller = range(2, most_neighbours(silos) + 1, 2)
    if chosen is not None:
        assert _keeps(silos, chosen.neighbours, chosen.threshold, bounds)
        smaller = range(2, chosen.neighbours, 2)
    for degree in smaller:
        assert not any(_keeps(silos, degree, t, bounds) for t in range(1, degree + 2))


def _keeps(silos, degree, threshold, bounds):
    exposed = exposure_probability(silos, degree, threshold, bounds)
    split = split_probability(silos, degree, bounds)
    if max(exposed, split) > Fraction(1, 2**41):
        return False
    return loss_probability(silos, degree, threshold, bounds) <= Fraction(1, 2**30)


def test_degrees_grow_like_a_logarithm():
    degrees = [choose_degree(silos, Bounds(colluding=0.25)).neighbours for silos in (100, 1000)]
    assert degrees[1] < 2 * degrees[0]


def test_the_probabilities_bound_what_simulation_finds():
    """Loose bounds and a small degree, so that failures are common enough to count."""
    bounds = Bounds(colluding=0.3, dropping=0.2, complete_up_to=4)
    silos, degree, threshold, trials = 24, 8, 6, 4000
    rng = random.Random(7)
    exposed = split = lost = 0
    for trial in range(trials):
        graph = neighbourhoods(range(silos), Degree(degree, threshold), trial.to_bytes(4))
        colluding = set(rng.sample(range(silos), 8))
        dropping = set(rng.sample(range(silos), 5))
        exposed += any(len(peers & colluding) >= threshold for peers in graph.values())
        lost += any(len(peers - dropping) < threshold for peers in graph.values())
        split += not _connected(graph, set(range(silos)) - colluding - dropping)
    for found, bound in (
        (exposed, exposure_probability(silos, degree, threshold, bounds)),
        (lost, loss_probability(silos, degree, threshold, bounds)),
        (split, split_probability(silos, degree, bounds)),
    ):
        assert 0 < found / trials <= min(1, bound) + 0.03


def _connected(graph, alive):
    if not alive:
        return True
    seen, frontier = set(), [min(alive)]
    while frontier:
        silo = frontier.pop()
        if silo not in seen:
            seen.add(silo)
            frontier += graph[silo] & alive
    return seen == alive


@pytest.mark.parametrize(("colluding", "dropping"), [(-0.1, 0), (0, -0.1), (0.5, 0.5), (1, 0)])
def test_impossible_bounds_are_refused(colluding, dropping):
    with pytest.raises(ConfigError):
        Bounds(colluding=colluding, dropping=dropping)
