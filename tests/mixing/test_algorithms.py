"""Algorithms, node by node as ranks call them, beside the papers' matrices."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from silofl.mixing.algorithms.base import Algorithm, Received, Trained
from silofl.mixing.algorithms.choco import Choco
from silofl.mixing.algorithms.dpsgd import DPSGD
from silofl.mixing.algorithms.gradient_tracking import GradientTracking
from silofl.mixing.algorithms.push_sum import PushSum
from silofl.mixing.graphs.exponential import Exponential
from silofl.mixing.graphs.registry import GRAPHS
from silofl.mixing.graphs.ring import Ring
from silofl.mixing.graphs.torus import Torus
from silofl.mixing.mixing_matrices import column_stochastic
from silofl.mixing.spectrum import second_eigenvalue
from tests.mixing import naive

LR = 0.05
NODES, SIZE = 8, 3
RNG = np.random.default_rng(0)
CURVES = RNG.uniform(0.5, 2.0, (NODES, SIZE))
MINIMA = RNG.standard_normal((NODES, SIZE)) * 3
START = np.tile(RNG.standard_normal(SIZE), (NODES, 1))


def gradient(x):
    """Of unequal quadratics, one for each node."""
    return CURVES * (x - MINIMA)


def run(
    algorithm: Algorithm,
    start,
    weights: Callable[[int], np.ndarray],
    rounds: int,
    steps: int = 1,
    gradient=gradient,
    compress=lambda values, step: values,
):
    """Every node's values after `rounds`, by messages and sums alone."""
    values = [row.copy() for row in start]
    states = [algorithm.init(row, len(row)) for row in values]
    for state in states:
        if "start" in state:
            state["start"] = values[0].copy()  # all nodes have it in common
    for step in range(rounds):
        w, trained = weights(step), []
        for k in range(len(values)):
            y = values[k].copy()
            for _ in range(steps):
                whole = np.zeros_like(start)
                whole[k] = y
                y = y - LR * (gradient(whole)[k] + states[k].get("correction", 0.0))
            trained.append(Trained(values[k], y, len(y), steps * LR))
        sent = [
            compress(algorithm.message(state, one), step) for state, one in zip(states, trained, strict=True)
        ]
        for k in range(len(values)):
            total = sum((w[k, j] * sent[j] for j in range(len(values)) if j != k), np.zeros_like(sent[k]))
            mixed = algorithm.mix(states[k], trained[k], Received(sent[k], total, float(w[k, k])))
            values[k], states[k] = mixed.values, mixed.state
    return np.array(values)


def ring(nodes=NODES):
    weights = DPSGD().weights(Ring().edges(tuple(range(nodes)), 0, 0))
    return lambda step: weights


def test_dpsgd_on_a_ring_of_four() -> None:
    """The figures of the literature, without training."""
    start = np.array([[0.0], [4.0], [8.0], [12.0]])
    one = run(DPSGD(), start, ring(4), 1, steps=0)
    np.testing.assert_allclose(one[:, 0], [16 / 3, 4, 8, 20 / 3], atol=1e-12)
    two = run(DPSGD(), start, ring(4), 2, steps=0)
    np.testing.assert_allclose(two[:, 0], [16 / 3, 52 / 9, 56 / 9, 20 / 3], atol=1e-12)


def test_dpsgd_is_its_matrix_form() -> None:
    ours = run(DPSGD(), START, ring(), 20)
    np.testing.assert_allclose(ours, naive.dpsgd(START, ring(), gradient, LR, 20), atol=1e-12)


@pytest.mark.parametrize("steps", [1, 4])
def test_gradient_tracking_is_its_matrix_form(steps: int) -> None:
    ours = run(GradientTracking(), START, ring(), 20, steps)
    want = naive.gradient_tracking(START, ring(), gradient, LR, 20, steps)
    np.testing.assert_allclose(ours, want, atol=1e-11)


@pytest.mark.parametrize("steps", [1, 4])
def test_gradient_tracking_goes_to_the_minimum_and_dpsgd_does_not(steps: int) -> None:
    minimum = (CURVES * MINIMA).sum(axis=0) / CURVES.sum(axis=0)
    tracked = run(GradientTracking(), START, ring(), 1200, steps)
    np.testing.assert_allclose(tracked, np.tile(minimum, (NODES, 1)), atol=1e-8)
    plain = run(DPSGD(), START, ring(), 1200, steps)
    assert np.abs(plain - minimum).max() > 0.05


def test_push_sum_over_uneven_directed_edges() -> None:
    edges = Ring().edges(tuple(range(NODES)), 0, 0)
    edges[0, 1] = edges[5, 4] = False
    edges[6, 2] = True
    weights = column_stochastic(edges)
    ours = run(PushSum(), START, lambda step: weights, 40)
    want = naive.push_sum(START, lambda step: weights, gradient, LR, 40)
    np.testing.assert_allclose(ours, want, atol=1e-12)
    start = RNG.standard_normal((NODES, SIZE))
    mean = run(PushSum(), start, lambda step: weights, 400, steps=0)
    np.testing.assert_allclose(mean, np.tile(start.mean(axis=0), (NODES, 1)), atol=1e-10)
    assert np.abs(run(DPSGD(), start, lambda step: weights, 400, steps=0) - start.mean(axis=0)).max() > 0.01


def some(values, step):
    """A third of the values, the same of all nodes."""
    kept = np.zeros_like(values)
    kept[step % SIZE :: SIZE] = values[step % SIZE :: SIZE]
    return kept


def test_choco_is_its_form_with_a_copy_of_every_node() -> None:
    weights = ring()(0)
    ours = run(Choco(0.4), START, ring(), 60, compress=some)
    want = naive.choco(START, weights, gradient, LR, 60, 0.4, some)
    np.testing.assert_allclose(ours, want, atol=1e-12)


def test_choco_reaches_the_mean_through_a_codec() -> None:
    start = RNG.standard_normal((NODES, SIZE))
    found = run(Choco(0.3), start, ring(), 900, steps=0, compress=some)
    np.testing.assert_allclose(found, np.tile(start.mean(axis=0), (NODES, 1)), atol=1e-8)


@pytest.mark.parametrize(
    ("graph", "nodes"), [(Ring(), 4), (Ring(), 8), (Ring(), 16), (Torus(), 9), (Exponential(), 16)]
)
def test_values_come_together_as_fast_as_the_second_eigenvalue_says(graph, nodes: int) -> None:
    weights = DPSGD().weights(graph.edges(tuple(range(nodes)), 0, 0))
    start = np.random.default_rng(1).standard_normal((nodes, 50))
    few, more = (run(DPSGD(), start, lambda step: weights, rounds, steps=0) for rounds in (10, 16))
    mean = start.mean(axis=0)
    measured = (np.linalg.norm(more - mean) / np.linalg.norm(few - mean)) ** (1 / 6)
    assert measured == pytest.approx(second_eigenvalue([weights]), rel=0.1)


def test_of_two_to_the_k_nodes_one_peer_gives_the_mean() -> None:
    graph = GRAPHS["one_peer_exponential"]()
    start = RNG.standard_normal((16, SIZE))
    found = run(
        DPSGD(), start, lambda step: DPSGD().weights(graph.edges(tuple(range(16)), step, 0)), 4, steps=0
    )
    np.testing.assert_allclose(found, np.tile(start.mean(axis=0), (16, 1)), atol=1e-14)
