"""The secure sum is the plain integer sum, bit for bit, whatever the silos, weights, rings and chunks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from silofl.aggregation.agreed_rules import common_prg
from silofl.aggregation.fixed_point import fixed_point
from silofl.aggregation.row_exchange import MessageExchange
from silofl.aggregation.secagg import SecAgg, SecureVectorSum
from silofl.aggregation.secure_session import open_session
from silofl.comm.elastic_group import ElasticGroup
from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads
from silofl.crypto.secagg import Rules
from silofl_kernels import add_masks, ring_dtype

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


def updates(silos: int, size: int) -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(silos * 1000 + size)
    return [
        (rng.standard_normal(size) * 10.0 ** rng.integers(-3, 2)).astype(np.float32) for _ in range(silos)
    ]


def session(comm: Communicator, **rules: Any) -> Any:
    return open_session(ElasticGroup(comm), Rules(**rules), bytes(32))


@pytest.mark.parametrize(("silos", "bits", "prg", "size", "chunk"), CASES)
@pytest.mark.parametrize("messages", [False, True], ids=["window", "messages"])
def test_the_secure_integer_sum_is_the_plain_integer_sum(
    silos: int, bits: int, prg: str, size: int, chunk: int, messages: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if messages:
        monkeypatch.setattr("silofl.aggregation.reduce_scatter.open_exchange", MessageExchange)
    values = updates(silos, size)
    weights = [10 ** (k % 8) for k in range(silos)]  # 1 to 1e7
    shares = [w / sum(weights) for w in weights]
    value_range = float(max(np.abs(v).max() for v in values))

    def rank(comm: Communicator) -> NDArray[Any]:
        vectors = SecureVectorSum(
            session(comm, bits=bits, prg=prg), size, value_range=value_range, chunk=chunk
        )
        opened = vectors.open(values[comm.rank], shares[comm.rank], 1.0, 1)
        words: NDArray[Any] = opened.masked(comm.rank).copy()
        if words.size:
            add_masks(words, opened.left, offset=vectors.shards.bounds[comm.rank])
        assert opened.weights == pytest.approx(1.0, abs=2.0**-39)
        assert opened.clipped_silos == 0
        vectors.close()
        return words

    secure = np.concatenate(run_in_threads(silos, rank))
    exact = np.zeros(size, np.int64)
    for value, share in zip(values, shares, strict=True):
        exact += naive_words(value, bits, value_range, silos, share)
    assert np.abs(exact).max() < 1 << (bits - 1)  # nothing wrapped
    np.testing.assert_array_equal(secure.astype(ring_dtype(bits)), exact.astype(ring_dtype(bits)))


def naive_words(
    value: NDArray[Any], bits: int, value_range: float, silos: int, share: float
) -> NDArray[np.int64]:
    """round(x * scale) in the arithmetic that the kernels state: float32 up to 16 bits, float64 above."""
    numbers = fixed_point(bits, value_range, silos, share, stochastic=False)  # type: ignore[arg-type]
    kind = np.float32 if bits <= 16 else np.float64
    words = np.rint(value.astype(kind) * kind(numbers.scale)).astype(np.int64)
    return np.clip(words, -numbers.limit, numbers.limit)


@pytest.mark.parametrize("bits", [8, 16, 32])
@pytest.mark.parametrize("stochastic", [False, True], ids=["nearest", "stochastic"])
def test_the_mean_is_within_the_bound_of_its_fixed_point(bits: int, stochastic: bool) -> None:
    silos, size = 5, 3000
    values, weights = updates(silos, size), [3, 1, 40, 7, 1_000_000]
    expected = np.average(np.array(values, np.float64), axis=0, weights=weights)

    def rank(comm: Communicator) -> NDArray[Any]:
        vectors = SecureVectorSum(session(comm, bits=bits), size, rounding_seed=7 if stochastic else None)
        secagg = SecAgg(vectors, np.dtype(np.float32), weight=weights[comm.rank])
        secagg.reduce(values[comm.rank], 1)
        return secagg.mean(comm.rank)

    mean = np.concatenate(run_in_threads(silos, rank))
    value_range = 2.0 ** np.ceil(np.log2(max(np.abs(v).max() for v in values)))
    step = fixed_point(bits, value_range, silos, 1.0, stochastic=stochastic).step  # type: ignore[arg-type]
    bound = step * silos * (1.0 if stochastic else 0.5) + np.abs(expected).max() * 2.0**-20
    error = np.abs(mean - expected)
    assert error.max() <= bound
    assert error.max() > 0


def test_only_an_exponent_of_the_range_is_agreed_and_nothing_is_clipped() -> None:
    values = [np.array([0.3, -7.9, 1e-20], np.float32), np.zeros(3, np.float32), np.full(3, 8.0, np.float32)]

    def rank(comm: Communicator) -> tuple[float, int]:
        opened = SecureVectorSum(session(comm, bits=32), 3).open(values[comm.rank], 1 / 3, 1.0, 1)
        return opened.step, opened.clipped_silos

    expected = fixed_point(32, 8.0, 3, 1 / 3, stochastic=False).step
    assert run_in_threads(3, rank) == [(expected, 0)] * 3


def test_values_beyond_a_configured_range_are_clipped_and_counted() -> None:
    values = [np.full(70, v, np.float32) for v in (0.5, 3.0, -2.0)]

    def rank(comm: Communicator) -> tuple[NDArray[Any], int]:
        vectors = SecureVectorSum(session(comm, bits=32), 70, value_range=1.0)
        secagg = SecAgg(vectors, np.dtype(np.float32), weight=1)
        secagg.reduce(values[comm.rank], 1)
        return secagg.mean(comm.rank), secagg.clipped_silos

    results = run_in_threads(3, rank)
    assert {clipped for _, clipped in results} == {2}
    np.testing.assert_allclose(np.concatenate([mean for mean, _ in results]), 0.5 / 3, atol=1e-6)


@pytest.mark.parametrize("value_range", [None, 1.0])
def test_values_that_are_not_finite_stop_every_rank(value_range: float | None) -> None:
    from silofl.errors import DataError

    def rank(comm: Communicator) -> None:
        x = np.ones(300, np.float32)
        x[7] = np.nan if comm.rank == 1 else 0.5
        vectors = SecureVectorSum(session(comm, bits=16), 300, value_range=value_range)
        with pytest.raises(DataError, match=r"silos? .*not finite"):
            vectors.open(x, 1 / 3, 1.0, 1)

    run_in_threads(3, rank)


def test_small_sums_are_exact_and_use_no_position_twice() -> None:
    def rank(comm: Communicator) -> list[Any]:
        vectors = SecureVectorSum(session(comm, bits=16), 64)
        early = vectors.sum_scalars(np.array([float(comm.rank)]))
        vectors.open(np.ones(64, np.float32), 1 / 3, 1.0, 1)
        later = [vectors.sum_scalars(np.array([0.1 * comm.rank, -1e11, 2.0**-24])) for _ in range(3)]
        bad = vectors.sum_scalars(np.array([np.inf if comm.rank else 1.0, 4.0]))
        return [early[0], [list(one) for one in later], list(bad)]

    for early, later, bad in run_in_threads(3, rank):
        assert early == 3.0
        assert all(abs(one[0] - 0.3) < 1e-6 for one in later)
        assert all(one[1:] == [-3e11, 3 * 2.0**-24] for one in later)
        assert np.isnan(bad[0])
        assert bad[1] == 12.0


def test_masks_of_two_sums_of_one_round_never_overlap() -> None:
    """What is on the wire in the later sum must not be the earlier sum's masks again."""
    wire: list[bytes] = []

    def rank(comm: Communicator) -> None:
        vectors = SecureVectorSum(session(comm, bits=16), 128)
        vectors.open(np.zeros(128, np.float32), 1 / 3, 1.0, 1)
        original = comm.allgather_bytes

        def spy(payload: bytes) -> list[bytes]:
            if comm.rank == 0:
                wire.append(payload)
            return original(payload)

        comm.allgather_bytes = spy  # type: ignore[method-assign]
        vectors.sum_scalars(np.zeros(4))
        vectors.sum_scalars(np.zeros(4))

    run_in_threads(3, rank)
    first, second = wire
    assert first != second  # the same zeros under other masks


def test_the_generator_is_common(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(run_in_threads(3, common_prg)) == {"aes-128-ctr"}
    monkeypatch.setenv("SILOFL_KERNEL_PATH", "portable")
    assert set(run_in_threads(3, common_prg)) == {"chacha20"}
