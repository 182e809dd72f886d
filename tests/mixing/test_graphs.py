"""Graphs, their weights and how fast they mix: figures of the literature."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from silofl.mixing.graphs.base import parts, reaches_all
from silofl.mixing.graphs.edge_list import EdgeList
from silofl.mixing.graphs.erdos_renyi import ErdosRenyi
from silofl.mixing.graphs.exponential import Exponential
from silofl.mixing.graphs.one_peer_exponential import OnePeerExponential
from silofl.mixing.graphs.random_regular import RandomRegular
from silofl.mixing.graphs.registry import GRAPHS
from silofl.mixing.graphs.ring import Ring
from silofl.mixing.graphs.torus import Torus, grid
from silofl.mixing.mixing_matrices import column_stochastic, doubly_stochastic
from silofl.mixing.spectrum import second_eigenvalue, spectral_gap

GENERATED = sorted(set(GRAPHS) - {"edge_list"})


def weights_of(graph, nodes, step=0, seed=0):
    return doubly_stochastic(graph.edges(tuple(range(nodes)), step, seed))


@pytest.mark.parametrize("name", GENERATED)
@pytest.mark.parametrize("nodes", [1, 2, 3, 5, 7, 8, 9, 16])
def test_every_graph_joins_all_nodes_and_keeps_the_mean(name: str, nodes: int) -> None:
    graph = GRAPHS[name]()
    every = [graph.edges(tuple(range(nodes)), step, 3) for step in range(graph.period(nodes))]
    assert reaches_all(np.logical_or.reduce(every))
    for edges in every:
        assert edges.shape == (nodes, nodes)
        assert not edges.diagonal().any()
        assert graph.directed or np.array_equal(edges, edges.T)
        weights = doubly_stochastic(edges)
        np.testing.assert_allclose(weights.sum(axis=0), 1)
        np.testing.assert_allclose(weights.sum(axis=1), 1)
        assert (weights >= 0).all()
        np.testing.assert_allclose(column_stochastic(edges).sum(axis=0), 1)


@pytest.mark.parametrize("name", GENERATED)
def test_all_ranks_have_one_graph_by_the_seed(name: str) -> None:
    graph = GRAPHS[name]()
    first, again = (graph.edges(tuple(range(12)), 1, 7) for _ in range(2))
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize(
    ("graph", "nodes", "second"),
    [
        (Ring(), 4, 1 / 3),
        (Ring(), 8, (1 + 2 * np.cos(np.pi / 4)) / 3),
        (Ring(), 16, (1 + 2 * np.cos(np.pi / 8)) / 3),
        (Exponential(), 8, 1 - 2 / (1 + 3)),
        (Exponential(), 16, 1 - 2 / (1 + 4)),
        (Exponential(), 32, 1 - 2 / (1 + 5)),
        (Torus(), 9, 0.4),
        (GRAPHS["complete"](), 5, 0.0),
    ],
)
def test_second_eigenvalues(graph, nodes: int, second: float) -> None:
    assert second_eigenvalue([weights_of(graph, nodes)]) == pytest.approx(second, abs=1e-12)


@pytest.mark.parametrize(("nodes", "figure"), [(4, 0.3333), (8, 0.8047), (16, 0.9493)])
def test_the_rings_figures(nodes: int, figure: float) -> None:
    assert second_eigenvalue([weights_of(Ring(), nodes)]) == pytest.approx(figure, abs=5e-5)


@pytest.mark.parametrize("nodes", [2, 4, 8, 16, 32])
def test_one_peer_gives_the_exact_mean_after_log2_n_rounds(nodes: int) -> None:
    graph = OnePeerExponential()
    assert graph.period(nodes) == np.log2(nodes)
    period = [weights_of(graph, nodes, step) for step in range(graph.period(nodes))]
    assert all((weights > 0).sum() == 2 * nodes for weights in period)
    x = np.random.default_rng(0).standard_normal((nodes, 3))
    mean = x.mean(axis=0)
    for weights in period:
        x = weights @ x
    np.testing.assert_allclose(x, np.tile(mean, (nodes, 1)), atol=1e-14)
    assert spectral_gap(period) == 1.0


def test_the_rate_of_graphs_in_turn_is_that_of_a_round() -> None:
    """Of 6 nodes one-peer gives no exact mean: a period shrinks what differs by the rate in each round."""
    graph = OnePeerExponential()
    period = [weights_of(graph, 6, step) for step in range(graph.period(6))]
    product = period[2] @ period[1] @ period[0]
    largest = np.linalg.norm(product - 1 / 6, 2)
    assert 0.01 < largest < 1
    assert second_eigenvalue(period) ** 3 == pytest.approx(largest)
    uneven = column_stochastic(np.array([[0, 1, 1], [1, 0, 0], [0, 1, 0]], bool))
    assert second_eigenvalue([uneven]) == pytest.approx(np.sort(np.abs(np.linalg.eigvals(uneven)))[-2])


@pytest.mark.parametrize(("nodes", "degree"), [(10, 3), (10, 4), (9, 4), (32, 5), (9, 3)])
def test_random_regular_graphs_are_regular(nodes: int, degree: int) -> None:
    degrees = RandomRegular(degree).edges(tuple(range(nodes)), 0, 1).sum(axis=0)
    short = nodes * degree % 2
    assert sorted(degrees)[short:] == [degree] * (nodes - short)
    assert sorted(degrees)[:short] == [degree - 1] * short


def test_other_seeds_draw_other_graphs() -> None:
    first, other = (ErdosRenyi(0.4).edges(tuple(range(20)), 0, seed) for seed in (0, 1))
    assert not np.array_equal(first, other)


def test_graphs_that_cannot_be_are_refused_by_key_and_remedy() -> None:
    assert "topology.degree = 5 and 5 silos" in str(RandomRegular(5).refusal(5))
    assert RandomRegular(4).refusal(5) is None
    assert str(RandomRegular(3).refusal(5)).endswith("an odd number of neighbours each: set it to 2 or 4")
    assert RandomRegular(3).refusal(6) is RandomRegular(2).refusal(5) is None
    with pytest.raises(ValueError, match=r"topology.probability = 0.01 .* raise it"):
        ErdosRenyi(0.01).edges(tuple(range(30)), 0, 0)


def test_grids_are_near_to_squares() -> None:
    assert [grid(n) for n in (1, 6, 7, 9, 12, 16)] == [(1, 1), (2, 3), (1, 7), (3, 3), (3, 4), (4, 4)]


@pytest.mark.parametrize(
    "text",
    [
        "0,1\n1, 2\n2,3\n",
        json.dumps([[0, 1], [1, 2], [2, 3]]),
        json.dumps({"0": [1], "1": [0, 2], "2": [3]}),
    ],
)
def test_a_graph_from_a_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "graph"
    path.write_text(text)
    graph = EdgeList(str(path))
    assert graph.refusal(4) is None
    assert np.argwhere(np.triu(graph.edges((0, 1, 2, 3), 0, 0))).tolist() == [[0, 1], [1, 2], [2, 3]]
    left = graph.edges((0, 1, 3), 0, 0)  # silo 2 is lost, which joined 3 to the others
    assert parts(left) == [[0, 1], [2]]
    weights = doubly_stochastic(left)
    np.testing.assert_allclose(weights, [[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1]])
    assert spectral_gap([weights]) == pytest.approx(0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0,1\n2,3\n", "is not connected"),
        ("0,1\n1,9\n", "names silo 9, and silos are 0 to 3"),
        ("0;1\n", "has no graph"),
        ('{"0": 1}', "has no graph"),
        ("[0, 1]", "has no graph"),
    ],
)
def test_a_file_without_a_fit_graph_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "graph"
    path.write_text(text)
    refusal = EdgeList(str(path)).refusal(4)
    assert said in str(refusal)
    assert "topology.edges_file" in str(refusal)


def test_no_file_and_one_that_is_not_there() -> None:
    assert "set topology.edges_file" in str(EdgeList().refusal(4))
    assert "No such file" in str(EdgeList("/nowhere/graph.csv").refusal(4))


def test_metropolis_and_hastings_weights_of_a_star() -> None:
    edges = np.zeros((4, 4), bool)
    edges[0, 1:] = edges[1:, 0] = True
    want = np.array([[1, 1, 1, 1], [1, 3, 0, 0], [1, 0, 3, 0], [1, 0, 0, 3]]) / 4
    np.testing.assert_allclose(doubly_stochastic(edges), want)


def test_uneven_directed_edges_have_no_balanced_weights() -> None:
    edges = np.zeros((3, 3), bool)
    edges[1, 0] = edges[2, 1] = edges[0, 2] = edges[2, 0] = True
    with pytest.raises(ValueError, match="one direction"):
        doubly_stochastic(edges)
    np.testing.assert_allclose(column_stochastic(edges)[:, 0], [1 / 3, 1 / 3, 1 / 3])
