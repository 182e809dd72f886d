"""Who learns whose message from the sums that silos read."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from silofl.mixing.exposure import exposed, smallest_coalition
from silofl.mixing.graphs.registry import GRAPHS
from silofl.mixing.mixing_matrices import doubly_stochastic


def weights(graph: str, nodes: int) -> np.ndarray:
    return doubly_stochastic(GRAPHS[graph]().edges(tuple(range(nodes)), 0, 0))


def naive(matrix: np.ndarray, silos: tuple[int, ...]) -> list[int]:
    """Nodes whose unit vector adds nothing to the rank of all that `silos` have and read."""
    known = np.vstack([np.eye(len(matrix))[list(silos)], matrix[list(silos)]])
    rank = np.linalg.matrix_rank(known)
    units = np.eye(len(matrix))
    return [
        node
        for node in range(len(matrix))
        if node not in silos and np.linalg.matrix_rank(np.vstack([known, units[node]])) == rank
    ]


@pytest.mark.parametrize(("graph", "nodes"), [("ring", 5), ("torus", 9), ("erdos_renyi", 8), ("complete", 4)])
def test_exposed_is_what_ranks_say(graph: str, nodes: int) -> None:
    matrix = weights(graph, nodes)
    for size in (1, 2, 3):
        for silos in combinations(range(nodes), size):
            assert exposed(matrix, silos) == naive(matrix, silos)


def test_one_neighbour_is_exposed_and_a_sum_of_two_hides_both() -> None:
    assert exposed(weights("ring", 2), (0,)) == [1]
    assert exposed(weights("ring", 4), (0,)) == []
    assert exposed(weights("ring", 4), (0, 1)) == [2, 3]
    assert smallest_coalition([weights("ring", 8)]) == (0, 1)
    assert smallest_coalition([weights("complete", 5)]) == ()


def test_a_total_over_all_would_expose_the_last_silo_of_a_ring_of_four() -> None:
    """Which is why nothing linear in models is added up over all silos under masks."""
    matrix = weights("ring", 4)
    with_total = np.vstack([matrix[:1], np.full((1, 4), 0.25), np.eye(4)[:1]])
    rank = np.linalg.matrix_rank(with_total)
    assert np.linalg.matrix_rank(np.vstack([with_total, np.eye(4)[2:3]])) == rank


def test_a_coalition_of_any_round_of_a_period_counts() -> None:
    whole, thin = weights("complete", 4), weights("ring", 4)
    assert smallest_coalition([whole]) == (0, 1, 2)
    assert smallest_coalition([whole, thin]) == (0, 1)
