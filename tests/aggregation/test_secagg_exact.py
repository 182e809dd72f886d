"""The secure sum is the plain integer sum, bit for bit, whatever the silos, weights, rings and chunks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from silofl.aggregation.magnitudes import measure
from silofl.aggregation.openable_sum import OpenableSum
from silofl.aggregation.secagg import SecAggSum
from silofl.aggregation.secure_session import SecureSession, common_prg, open_session
from silofl.aggregation.spec import VectorSpec
from silofl.comm import Communicator
from silofl.comm.elastic_group import ElasticGroup
from silofl.crypto.secagg import Rules
from silofl.errors import DataError
from silofl.types import Contribution
from silofl_kernels import add_masks, ring_dtype
from tests.aggregation.harness import (
    Case,
    expected,
    in_ranks,
    one_vector,
    outcomes,
    scaled_words,
    shares,
    unit,
    whole,
)
from tests.campaigns import mostly_long
from tests.exchange_ways import WAYS, use

CASES = [
    # silos, bits, prg, size, chunk
    (3, 8, "aes-128-ctr", 1, 7),
    (3, 16, "aes-128-ctr", 1000, 64),
    (4, 16, "chacha20", 4099, 512),
    (4, 32, "aes-256-ctr", 63, 1 << 19),
    (5, 32, "chacha20", 257, 100),
    (7, 16, "aes-256-ctr", 2048, 999),
    (12, 8, "aes-128-ctr", 777, 5000),
    (12, 16, "aes-128-ctr", 5001, 1024),
    (12, 32, "aes-128-ctr", 12, 3),
]


def session(comm: Communicator, **rules: Any) -> SecureSession:
    return open_session(ElasticGroup(comm), Rules(**rules), bytes(32))


def opened(sums: SecAggSum, case: Case, silo: int, number: int = 1) -> OpenableSum:
    own, spec = case.contributions[silo], case.spec(silo)
    return sums.open(own, float(sum(case.samples)), number, measure(own, spec))


@pytest.mark.covering(1)
@pytest.mark.parametrize(
    ("silos", "bits", "prg", "size", "chunk"), mostly_long(CASES, 0, 1, 2, 3, 5, 6, 7, 8)
)
@pytest.mark.parametrize("way", WAYS)
def test_the_secure_integer_sum_is_the_plain_integer_sum(
    silos: int, bits: Any, prg: str, size: int, chunk: int, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(way, monkeypatch)
    case = one_vector(silos, size, bits=bits)
    values = [given.vectors["x"] for given in case.contributions]
    span = float(max(np.abs(v).max() for v in values))

    def rank(comm: Communicator) -> NDArray[Any]:
        sums = SecAggSum(
            session(comm, bits=bits, prg=prg), case.spec(comm.rank), value_range=span, chunk=chunk
        )
        found = opened(sums, case, comm.rank)
        words: NDArray[Any] = found.collection.sums.of(comm.rank).copy()
        if words.size:
            add_masks(words, found.left, offset=sums.wire.layout.shards.bounds[comm.rank])
        assert found.tail.weights == float(sum(shares(case.samples)))
        assert found.tail.quality.clipped_silos == 0
        sums.close()
        return words

    secure = np.concatenate(in_ranks(silos, rank))
    exact = np.zeros(size, np.int64)
    for value, share in zip(values, map(float, shares(case.samples)), strict=True):
        exact += scaled_words(value, bits, silos, share, share, span)
    assert np.abs(exact).max() < 1 << (bits - 1)  # nothing wrapped
    np.testing.assert_array_equal(secure, exact.astype(ring_dtype(bits)))


@pytest.mark.covering(0)
@pytest.mark.parametrize(
    ("bits", "rounding"), [(8, "nearest"), (16, "nearest"), (32, "nearest"), (16, "stochastic")]
)
def test_the_mean_is_within_the_bound_of_its_fixed_point(bits: Any, rounding: str) -> None:
    silos, size = 5, 3000
    case = one_vector(silos, size, bits=bits, config={"rounding": rounding})
    case.samples = [3, 1, 40, 7, 1_000_000]
    values = [given.vectors["x"] for given in case.contributions]
    exactly = np.average(np.array(values, np.float64), axis=0, weights=case.samples)
    mean = whole(outcomes(case, "secagg"))["x"]
    span = 2.0 ** np.ceil(np.log2(max(np.abs(v).max() for v in values)))
    stochastic = rounding == "stochastic"
    step = span / unit(bits, silos, stochastic=stochastic)
    bound = step * silos * (1.0 if stochastic else 0.5) + np.abs(exactly).max() * 2.0**-20
    error = np.abs(mean - exactly)
    assert 0 < error.max() <= bound
    if not stochastic:
        np.testing.assert_array_equal(mean, expected(case)["x"])


def test_each_tensor_has_the_range_of_its_largest_exponent_and_nothing_is_clipped() -> None:
    rows = [[0.3, -7.9, 1e-20], [0.0, 0.0, 0.0], [2.0, 8.0, 0.0]]
    vector = VectorSpec("x", 3, ends=np.array([1, 2, 3], np.int64))
    given = [Contribution({"x": np.array(row, np.float32)}) for row in rows]
    case = Case((vector,), given, [1, 1, 1], bits=32)

    def rank(comm: Communicator) -> Any:
        found = opened(SecAggSum(session(comm, bits=32), case.spec(comm.rank)), case, comm.rank)
        return found.ranges["x"].tolist(), found.tail.quality.clipped_silos

    assert in_ranks(3, rank) == [([2.0, 8.0, 2.0**-64], 0)] * 3


def test_values_beyond_a_configured_range_are_clipped_and_counted() -> None:
    given = [Contribution({"x": np.full(70, v, np.float32)}) for v in (0.5, 3.0, -2.0)]
    case = Case((VectorSpec("x", 70),), given, [1, 1, 1], bits=32, config={"range": 1.0})
    results = outcomes(case, "secagg")
    assert {found.quality.clipped_silos for found in results} == {2}
    np.testing.assert_allclose(whole(results)["x"], 0.5 / 3, atol=1e-6)


def bad_case(where: str, value: float, dtype: Any = np.float64) -> Case:
    """Silo 1 brings `value` as one number of a vector, a scalar, or its weight of the round."""
    vectors = (
        VectorSpec("update", 300, weighting="round", tensors=("w", "b"), ends=np.array([200, 300])),
        VectorSpec("buffers", 5, "exact", tensors=("mean", "var"), ends=np.array([2, 5])),
    )
    given = []
    for silo in range(3):
        update, buffers = np.full(300, 0.5, dtype), np.ones(5, dtype)
        spoilt = silo == 1
        update[250] = value if spoilt and where == "b" else 0.5
        buffers[4] = value if spoilt and where == "var" else 1.0
        loss = value if spoilt and where == "loss" else 2.0
        weight = value if spoilt and where == "weight of the round" else 1.0
        given.append(Contribution({"update": update, "buffers": buffers}, {"loss": loss}, weight))
    return Case(vectors, given, [1, 2, 3], dtype, scalars=("loss",))


@pytest.mark.covering(1)
@pytest.mark.parametrize("value_range", [None, 1.0])
@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("b", np.nan), ("b", -np.inf), ("var", np.nan), ("var", 1e300), ("loss", np.inf), ("loss", -1e40),
        ("weight of the round", 0.0), ("weight of the round", -1.0), ("weight of the round", np.nan),
        ("weight of the round", 1e30),
    ],
)  # fmt: skip
def test_what_has_no_sum_is_named_on_every_rank_and_no_rank_uses_the_rest(
    where: str, value: float, value_range: float | None
) -> None:
    good, bad = bad_case("", 0.0), bad_case(where, value)
    good.config = {"range": value_range}
    told = "w|weight of the round" if where.startswith("weight") and value_range is None else where

    def rank(comm: Communicator) -> None:
        group = ElasticGroup(comm)
        aggregator = good.make("secagg", group)
        own = good.contributions[comm.rank]
        aggregator.reduce(own, 1, measure(own, aggregator.spec))
        own = bad.contributions[comm.rank]
        with pytest.raises(DataError, match=rf"silos?'s? ({told}) has values that are not finite") as caught:
            aggregator.reduce(own, 2, measure(own, aggregator.spec))
        assert caught.value.rank == 0
        with pytest.raises(RuntimeError, match="nothing was added up"):  # not the last sum, overwritten
            aggregator.total(comm.rank)

    in_ranks(3, rank)


def test_small_sums_are_exact_and_use_no_position_twice() -> None:
    case = one_vector(3, 64)

    def rank(comm: Communicator) -> list[Any]:
        sums = SecAggSum(session(comm, bits=16), case.spec(comm.rank))
        early = sums.sum_scalars(np.array([float(comm.rank)]))
        opened(sums, case, comm.rank)
        later = [sums.sum_scalars(np.array([0.1 * comm.rank, -1e11, 2.0**-24])) for _ in range(3)]
        bad = sums.sum_scalars(np.array([np.inf if comm.rank else 1.0, 4.0]))
        return [early[0], [list(one) for one in later], list(bad)]

    for early, later, bad in in_ranks(3, rank):
        assert early == 3.0
        assert later == [[0.1 + 0.2, -3e11, 3 * 2.0**-24]] * 3
        assert np.isnan(bad[0])
        assert bad[1] == 12.0


def test_masks_of_two_sums_of_one_round_never_overlap() -> None:
    """What is on the wire in the later sum must not be the earlier sum's masks again."""
    wire: list[bytes] = []
    case = one_vector(3, 128)

    def rank(comm: Communicator) -> None:
        sums = SecAggSum(session(comm, bits=16), case.spec(comm.rank))
        opened(sums, case, comm.rank)
        original = comm.allgather_bytes

        def spy(payload: bytes) -> list[bytes]:
            if comm.rank == 0:
                wire.append(payload)
            return original(payload)

        comm.allgather_bytes = spy  # type: ignore[method-assign]
        sums.sum_scalars(np.zeros(4))
        sums.sum_scalars(np.zeros(4))

    in_ranks(3, rank)
    first, second = wire
    assert first != second  # the same zeros under other masks


def test_the_generator_is_common(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(in_ranks(3, common_prg)) == {"aes-128-ctr"}
    monkeypatch.setenv("SILOFL_KERNEL_PATH", "portable")
    assert set(in_ranks(3, common_prg)) == {"chacha20"}
