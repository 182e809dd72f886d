"""Sums inside random buckets: to the bit, with silos that die, and what is seen of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from silofl.aggregation.bucketed_secagg import BucketedSecAgg
from silofl.aggregation.bucketing import Bucketing, DrawnBuckets
from silofl.aggregation.magnitudes import measure
from silofl.aggregation.protocols import PROTOCOLS
from silofl.aggregation.secagg import SecAggSum
from silofl.aggregation.spec import AggregationSpec, VectorSpec
from silofl.aggregation.sum_terms import Common
from silofl.comm import Communicator, run_in_threads
from silofl.comm.elastic_group import ElasticGroup
from silofl.config import SecureConfig
from silofl.errors import StoppedError
from silofl.types import Contribution
from tests.aggregation.harness import scaled_words, smallest_range, unit
from tests.aggregation.test_dropouts import Fault

SIZE, SILOS, BITS = 300, 10, 32


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SecAggSum.__init__.__kwdefaults__, "chunk", 80)  # type: ignore[misc]


def values_of(silo: int) -> NDArray[np.float64]:
    return np.random.default_rng(silo).uniform(-1, 1, SIZE) * (1 + silo)


def spec_of(silos: int, fewest: int, drawn: DrawnBuckets, size: int) -> AggregationSpec:
    vectors = (VectorSpec("x", SIZE, weighting="uniform"), VectorSpec("b", 5, "exact", "uniform"))
    bucketing = Bucketing(size, fewest, drawn=drawn)
    return AggregationSpec(
        vectors, np.dtype(np.float64), 7, 0, bytes(32), silos, 1, rows=True, recompute=1, bucketing=bucketing
    )


def rank_of(
    deaths: dict[int, str],
    fewest: int = 1,
    *,
    absent: tuple[int, ...] = (),
    earlier: Any = None,
    size: int = 3,
    spied: Callable[[Any], None] = lambda aggregator: None,
) -> Callable[[Communicator], Any]:
    """What a rank has in the end: buckets, by row the words and values of the slices that it serves."""

    def rank(comm: Communicator) -> Any:
        fault, group = Fault(comm, deaths.get(comm.rank)), ElasticGroup(comm)
        drawn = DrawnBuckets("run", earlier={} if earlier is None else {1: earlier})
        spec = spec_of(comm.size, fewest, drawn, size)
        made = PROTOCOLS["secagg"].build(group, SecureConfig(protocol="secagg", bits=BITS), spec, None)
        assert isinstance(made, BucketedSecAgg)
        spied(made)
        fault.armed = True
        silo = group.silo_id
        there = 0 if silo in absent else 1
        own = Contribution({"x": there * values_of(silo), "b": there * np.arange(5.0) * silo})
        try:
            made.reduce(own, 1, measure(own, spec), None, Common(absent=absent))
        except StoppedError as error:
            return error
        fault.reach("use")
        group.step(lambda: None)
        served = made.layout.shards.slices_of(silo, group.members)
        totals = [made.total(index) for index in served]
        words = [[one.words(index, "x") for index in served] for one in made._in_buckets.rows]
        rows = {
            name: [
                np.concatenate([total.rows[name][k] for total in totals])  # type: ignore[index]
                for k in range(len(words))
            ]
            for name in ("x", "b")
        }
        assert {total.buckets for total in totals} == {drawn.newest}
        found = drawn.newest, made.participants, [np.concatenate(one) for one in words], rows
        made.close()
        return found

    return rank


def run(silos: int, deaths: dict[int, str], **more: Any) -> list[Any]:
    return run_in_threads(silos, rank_of(deaths, **more), timeout_s=100)


def check(results: list[Any], silos: int) -> tuple[Any, ...]:
    """All have the same buckets, whose sums are the plain sums of fixed-point words; the buckets."""
    left = [one for one in results if one is not None]
    (buckets,) = {one[0] for one in left}
    assert {one[1] for one in left} == {tuple(sorted(silo for bucket in buckets for silo in bucket))}
    span = 4 * smallest_range(max(float(np.abs(values_of(silo)).max()) for silo in range(silos)))
    part = 1.0 / silos
    for k, bucket in enumerate(buckets):
        words = np.concatenate([one[2][k] for one in left])
        expected = sum(scaled_words(values_of(silo), BITS, silos, part, part, span) for silo in bucket)
        np.testing.assert_array_equal(words, np.asarray(expected).astype(np.uint32))
        rows = np.concatenate([one[3]["x"][k] for one in left])
        step = span / unit(BITS, silos) / (len(bucket) / silos)
        np.testing.assert_array_equal(rows, words.view(np.int32) * step)
        exact = np.concatenate([one[3]["b"][k] for one in left])
        np.testing.assert_allclose(exact, np.arange(5.0) * np.mean(bucket), rtol=1e-15)
    return buckets  # type: ignore[no-any-return]


def test_each_buckets_sum_is_the_plain_sum_of_its_words_bit_for_bit() -> None:
    buckets = check(run(SILOS, {}), SILOS)
    assert sorted(map(len, buckets)) == [3, 3, 4]
    assert sorted(silo for bucket in buckets for silo in bucket) == list(range(SILOS))


@pytest.mark.parametrize("step", ["mask", "draw", "collect middle", "collect last", "agree", "reveal", "use"])
def test_a_silo_that_dies_leaves_out_its_bucket_where_two_are_left(step: str) -> None:
    """Of ten silos in buckets of 3, 3 and 4: which one silo 4 is in, chance says."""
    results = run(SILOS, {4: step})
    assert [silo for silo, one in enumerate(results) if one is None] == [4]
    buckets = check(results, SILOS)
    here = {silo for bucket in buckets for silo in bucket}
    if step in ("mask", "draw"):  # nine are drawn anew
        assert here == {*range(SILOS)} - {4}
    elif step in ("reveal", "use"):
        assert here == {*range(SILOS)}
    else:
        assert len(here) in (7, 9, 10)
        assert all(len(bucket) >= 3 for bucket in buckets)


def test_with_too_few_buckets_nothing_is_opened() -> None:
    results = run(9, {4: "collect middle"}, fewest=3)
    assert {str(one) for one in results if one is not None} == {
        "round 1: 8 silos are left, 6 of them in 2 buckets of 3 silos or more, and robust.f takes 3 of them; "
        "nothing was opened: --resume goes on from the last committed round with the silos that are back; a "
        "larger robust.bucket, 4 at least, bears more deaths"
    }


def test_with_too_few_silos_in_the_buckets_that_are_left_nothing_is_opened() -> None:
    """One bucket is enough for the rule, and its three silos are fewer than the threshold."""
    results = run(6, {4: "collect middle"})
    (said,) = {str(one) for one in results if one is not None}
    assert said.startswith(
        "round 1: 5 silos are left, 3 of them in 1 buckets of 3 silos or more, and secure."
    )


def test_a_round_that_is_taken_again_is_in_the_buckets_of_before() -> None:
    """Silo 9 sat out then, or was in a bucket that was not opened; it sits out now."""
    before = ((0, 4, 8), (1, 2, 3), (5, 6, 7))
    assert check(run(SILOS, {}, absent=(9,), earlier=before), SILOS) == before


def test_buckets_of_before_that_lost_silos_are_more_than_would_be_drawn_now() -> None:
    """Three of four silos each, of which one of each bucket died then; the dead are not back."""
    before = ((0, 4, 8), (1, 2, 3), (5, 6, 7))
    assert check(run(9, {}, earlier=before, size=4), 9) == before
