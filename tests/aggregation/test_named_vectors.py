"""Several vectors, formats and weights in one sum, through every protocol, bit for bit where it is secure."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from silofl.aggregation.magnitudes import measure
from silofl.aggregation.spec import VectorSpec
from silofl.aggregation.sum_terms import Common
from silofl.comm import Communicator, run_in_threads
from silofl.comm.elastic_group import ElasticGroup
from silofl.comm.protocol import SimulatedCrash
from silofl.errors import ProtocolError
from silofl.types import Contribution
from tests.aggregation.harness import (
    KINDS,
    Case,
    exact_sum,
    expected,
    in_ranks,
    outcomes,
    read,
    reduce_and_read,
    shares,
    whole,
)

ENDS = np.array([1, 65, 65, 300, 357], np.int64)
VECTORS = (
    VectorSpec("update", 357, ends=ENDS, tensors=("a", "b", "c", "d", "e")),
    VectorSpec("buffers", 3, "exact", "uniform"),
    VectorSpec("control", 130, weighting="round"),
    VectorSpec("drift", 66, "exact", "round"),
    VectorSpec("counts", 1, "exact", "samples"),
)
WEIGHTS = [1e-4, 3.0, 2e5, 0.1, 7.0]


def case(silos: int, dtype: Any, bits: Any, **more: Any) -> Case:
    rng = np.random.default_rng(silos)
    scales = np.repeat([1e5, 0.05, 1e-7, 2.0], [1, 64, 235, 57])
    given = [
        Contribution(
            {
                "update": (rng.standard_normal(357) * scales).astype(dtype),
                "buffers": np.array([1e5 + k, 0.05 * (k + 1), 1e-30 * (k + 1)], dtype),
                "control": rng.standard_normal(130).astype(dtype),
                "drift": rng.standard_normal(66).astype(dtype),
                "counts": np.array([17], dtype),
            },
            {"loss": 0.1 + k / 3, "steps": 10.0},
            WEIGHTS[k],
        )
        for k in range(silos)
    ]
    samples = [1, 400, 7, 10_000_000, 50][:silos]
    return Case(VECTORS, given, samples, dtype, bits, ("loss", "steps"), **more)


@pytest.mark.covering(1)
@pytest.mark.parametrize(("dtype", "bits"), KINDS)
@pytest.mark.parametrize("silos", [3, 4, 5])
@pytest.mark.parametrize("protocol", ["secagg", "additive"])
def test_secure_means_are_those_of_integers_and_fractions(
    protocol: str, silos: int, bits: Any, dtype: Any
) -> None:
    one = case(silos, dtype, bits, config={"committee": 2} if protocol == "additive" else {})
    results = outcomes(one, protocol, (1, 2))
    found, wanted = whole(results), expected(one)
    for vector in VECTORS:
        assert found[vector.name].dtype == dtype
        np.testing.assert_array_equal(found[vector.name], wanted[vector.name], err_msg=vector.name)
    parts = shares(one.samples)
    loss = exact_sum(
        [float(p) * given.scalars["loss"] for p, given in zip(parts, one.contributions, strict=True)]
    )
    for result in results:
        assert result.scalars == {"loss": float(loss) / float(sum(parts)), "steps": 10.0}
        assert result.silos == silos


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("silos", [1, 3, 4, 5])
def test_the_clear_sum_is_the_weighted_mean(silos: int, dtype: Any) -> None:
    one = case(silos, dtype, 32)
    results = outcomes(one, "plain")
    for vector in VECTORS:
        weights = {"samples": one.samples, "uniform": [1] * silos, "round": WEIGHTS[:silos]}[vector.weighting]
        rows = [given.vectors[vector.name].astype(np.float64) for given in one.contributions]
        wanted = np.average(rows, axis=0, weights=weights)
        found, most = whole(results)[vector.name], np.abs(rows).max(axis=0)
        assert (np.abs(found - wanted) <= 2 * silos * np.finfo(dtype).eps * most).all(), vector.name
    losses = [given.scalars["loss"] for given in one.contributions]
    assert results[0].scalars["loss"] == pytest.approx(np.average(losses, weights=one.samples))
    assert results[0].scalars["steps"] == pytest.approx(10.0, rel=1e-15)


def test_protocols_agree_within_half_a_step_a_silo() -> None:
    one = case(4, np.float64, 16)
    plain, *secure = (whole(outcomes(one, name)) for name in ("plain", "secagg", "additive"))
    np.testing.assert_array_equal(secure[0]["update"], secure[1]["update"])
    start = 0
    for end in ENDS:
        largest = max(
            np.abs(given.vectors["update"][start:end]).max(initial=0) for given in one.contributions
        )
        bound = 4 / 2 * 2 * largest / (2**15 - 3) + largest * 1e-6  # half a step each, of at most twice that
        assert (np.abs(secure[0]["update"] - plain["update"])[start:end] <= bound).all()
        start = end
    for name in ("buffers", "drift", "counts"):
        np.testing.assert_allclose(secure[0][name], plain[name], rtol=1e-14, atol=2.0**-97)


@pytest.mark.parametrize("protocol", ["plain", "secagg"])
@pytest.mark.parametrize("step", ["collect first", "use"])
def test_vectors_and_scalars_survive_a_rank_failure_together(protocol: str, step: str) -> None:
    one = case(5, np.float64, 32, replica_count=2)

    def rank(comm: Communicator) -> Any:
        group = ElasticGroup(comm)
        aggregator = one.make(protocol, group)

        def die(reached: str) -> None:
            if comm.rank == 3 and reached == step:
                raise SimulatedCrash

        comm.on_mark(die)
        result = reduce_and_read(aggregator, one, group)
        die("use")
        group.step(lambda: None)
        return result if step != "use" else read(aggregator, one, group)

    results = in_ranks(5, rank)
    assert results[3] is None
    left = [result for result in results if result is not None]
    among = [0, 1, 2, 4] if step != "use" else [0, 1, 2, 3, 4]
    assert {result.participants for result in left} == {tuple(among)}
    assert {result.silos for result in left} == {len(among)}
    found = whole(left)
    if protocol == "secagg":
        for name, wanted in expected(one, among).items():
            np.testing.assert_array_equal(found[name], wanted, err_msg=name)
    losses = [one.contributions[k].scalars["loss"] for k in among]
    weights = [one.samples[k] for k in among]
    assert left[0].scalars["loss"] == pytest.approx(np.average(losses, weights=weights), rel=1e-4)


def nothing(of: Contribution) -> Contribution:
    return Contribution(
        {name: np.zeros_like(values) for name, values in of.vectors.items()},
        dict.fromkeys(of.scalars, 0.0),
    )


@pytest.mark.parametrize("absent", [(1,), (0, 3)])
@pytest.mark.parametrize("protocol", ["plain", "secagg", "additive"])
def test_means_are_over_the_silos_that_bring_something(protocol: str, absent: tuple[int, ...]) -> None:
    """Of two sums the difference is what the absent bring: so they bring nothing at all, and no weight."""
    config = {"committee": 2} if protocol == "additive" else {}
    one, present = case(5, np.float64, 32, config=config), tuple(k for k in range(5) if k not in absent)
    one.samples = [10, 400, 70, 100, 50]
    one.contributions = [nothing(own) if k in absent else own for k, own in enumerate(one.contributions)]

    def rank(comm: Communicator) -> Any:
        group = ElasticGroup(comm)
        aggregator = one.make(protocol, group)
        own, asked = one.contributions[comm.rank], []
        aggregator.reduce(own, 1, measure(own, aggregator.spec), asked.append, Common(absent=absent))
        found = read(aggregator, one, group)
        found = replace(found, mean={name: part.copy() for name, part in found.mean.items()})
        assert asked == [present]
        aggregator.close()
        return found

    results = run_in_threads(5, rank, timeout_s=60)
    found = whole(results)
    for vector in VECTORS:
        weights = {"samples": one.samples, "uniform": [1] * 5, "round": WEIGHTS}[vector.weighting]
        rows = [one.contributions[k].vectors[vector.name] for k in present]
        wanted = np.average(rows, axis=0, weights=[weights[k] for k in present])
        most = np.abs(rows).max() * (1e-15 if vector.format == "exact" else 1e-7)
        np.testing.assert_allclose(found[vector.name], wanted, rtol=0, atol=8 * most, err_msg=vector.name)
    for result in results:
        assert (result.silos, result.participants) == (len(present), present)
        assert result.scalars["steps"] == pytest.approx(10.0, rel=1e-12)
        assert "b" not in (result.quality.coarse or {})  # zeros are not rounded


def test_silos_that_disagree_who_is_absent_open_nothing() -> None:
    one = case(4, np.float32, 16)

    def rank(comm: Communicator) -> Any:
        aggregator = one.make("secagg", ElasticGroup(comm))
        own = one.contributions[comm.rank]
        common = Common(absent=() if comm.rank == 2 else (3,))
        try:
            aggregator.reduce(own, 1, measure(own, aggregator.spec), common=common)
        except ProtocolError as error:
            return error.sender
        return None

    found = run_in_threads(4, rank, timeout_s=60)
    assert found[2] != 2
    assert {found[0], found[1], found[3]} == {2}
