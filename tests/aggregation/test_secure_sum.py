"""`silofl.secure_sum` from any mpi4py program."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import silofl
from silofl.comm.mpi_library import mpi_info
from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads
from silofl.config import SecureConfig
from silofl.crypto.identity import Identity
from silofl.crypto.roster import Roster
from silofl.errors import ConfigError, DataError, SiloflError
from silofl.launcher.environment import THREAD_VARIABLES
from tests.conftest import ROOT
from tests.exchange_ways import UNEQUAL, use_hosts


def check(comm: Any, rank: int, size: int) -> None:
    x = np.random.default_rng(rank).standard_normal((7, 11)).astype(np.float32)
    expected = sum(np.random.default_rng(k).standard_normal((7, 11)).astype(np.float32) for k in range(size))
    total = silofl.secure_sum(x, comm=comm, bits=32)
    assert total.shape == (7, 11)
    assert total.dtype == np.float32
    np.testing.assert_allclose(total, expected, atol=1e-5)
    tensor = silofl.secure_sum(torch.from_numpy(x).double(), comm=comm, bits=32)
    assert tensor.dtype == torch.float64
    torch.testing.assert_close(tensor, torch.from_numpy(np.asarray(expected, np.float64)), atol=1e-5, rtol=0)


@pytest.mark.covering(0)
@pytest.mark.parametrize("silos", [3, 6])
def test_arrays_and_tensors_in_threads(silos: int) -> None:
    run_in_threads(silos, lambda comm: check(comm, comm.rank, comm.size))


@pytest.mark.covering(0)
@pytest.mark.parametrize("places", UNEQUAL, ids=str)
def test_unequal_hosts_have_the_bits_of_one(places: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CHUNK_BYTES", "FAR_CHUNK_BYTES"):  # slices go in more pieces than are under way
        monkeypatch.setattr(f"silofl.aggregation.reduce_scatter.{name}", 1024)

    def rank(comm: Communicator) -> list[bytes]:
        drawn = np.random.default_rng(comm.rank).standard_normal((2, 5001)).astype(np.float32)
        with silofl.SecureAggregator(comm, 5001) as aggregator:
            return [aggregator.sum(x).tobytes() for x in drawn]

    expected = run_in_threads(len(places), rank)
    use_hosts(places, monkeypatch)
    assert run_in_threads(len(places), rank) == expected


def test_one_aggregator_adds_up_often_and_lengths_and_types_may_change() -> None:
    def rank(comm: Communicator) -> None:
        with silofl.SecureAggregator(comm, bits=32) as aggregator:
            for size, dtype in ((5, "f8"), (5, "f8"), (1000, "f8"), (1000, "f4"), (3, "f4")):
                total = aggregator.sum(np.full(size, comm.rank + 0.5, dtype))
                assert total.dtype == dtype
                np.testing.assert_allclose(total, 4.5, atol=1e-6)

    run_in_threads(3, rank)


def test_a_sum_is_written_where_a_rank_wants_it() -> None:
    def rank(comm: Communicator) -> None:
        drawn = np.random.default_rng(comm.rank).standard_normal((3, 5))
        with silofl.SecureAggregator(comm, bits=32) as aggregator:
            expected = aggregator.sum(drawn)
            kept = np.full((3, 5), np.nan) if comm.rank else None  # each rank for itself
            total = aggregator.sum(drawn, out=kept)
            assert kept is None or total is kept
            np.testing.assert_array_equal(total, expected)
            tensor = torch.from_numpy(drawn.copy())
            assert aggregator.sum(tensor, out=tensor) is tensor
            np.testing.assert_array_equal(tensor.numpy(), expected)

    run_in_threads(3, rank)


@pytest.mark.parametrize(
    ("out", "words"),
    [
        (np.empty((5, 3)), r"float64 of shape \[5, 3\] where x is float64 of shape \[3, 5\]"),
        (np.empty((3, 5), np.float32), "out is float32 of shape"),
        (torch.empty(3, 5, dtype=torch.float64), "what x is"),
        (np.empty((3, 10))[:, ::2], "in C order"),
        (np.frombuffer(bytes(120)).reshape(3, 5), "writable"),
    ],
)
def test_an_out_that_is_none_for_the_sum_is_refused_on_every_rank(out: Any, words: str) -> None:
    def rank(comm: Communicator) -> None:
        x = np.ones((3, 5))
        with silofl.SecureAggregator(comm, bits=32) as aggregator:
            with pytest.raises(SiloflError, match=words if comm.rank == 1 else "rank 1"):
                aggregator.sum(x, out=out if comm.rank == 1 else None)
            np.testing.assert_allclose(aggregator.sum(x), 3)

    run_in_threads(3, rank)


@pytest.mark.parametrize(("silos", "words"), [(1, "at least three"), (2, "each the other")])
def test_too_few_ranks_are_refused(silos: int, words: str) -> None:
    def rank(comm: Communicator) -> None:
        with pytest.raises(ConfigError, match=words):
            silofl.secure_sum(np.ones(3), comm=comm)

    run_in_threads(silos, rank)


def test_other_types_are_refused() -> None:
    def rank(comm: Communicator) -> None:
        x = np.arange(3) if comm.rank == 1 else np.ones(3)
        with pytest.raises(DataError, match="float32 or float64, not int64"):
            silofl.secure_sum(x, comm=comm)

    run_in_threads(3, rank)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"x": np.ones(5)}, "the same shape on all ranks: it is [4] on rank 0 and [5] on rank 2"),
        ({"x": np.ones((2, 2))}, "the same shape on all ranks: it is [4] on rank 0 and [2, 2] on rank 2"),
        (
            {"x": np.ones(4, "f4")},
            "same dtype on all ranks: it is 'float64' on rank 0 and 'float32'",
        ),
        ({"bits": 32}, "the same bits on all ranks: it is 16 on rank 0 and 32 on rank 2"),
        ({"value_range": 2.0}, "the same range on all ranks: it is 1.0 on rank 0 and 2.0 on rank 2"),
        ({"value_range": None}, "the same range on all ranks: it is 1.0 on rank 0 and None on rank 2"),
        (
            {"rounding": "stochastic"},
            "same rounding on all ranks: it is 'nearest' on rank 0",
        ),
        ({"threshold": 3}, "the same threshold on all ranks: it is 2 on rank 0 and 3 on rank 2"),
    ],
    ids=["size", "shape", "dtype", "bits", "range", "no range", "rounding", "threshold"],
)
def test_what_differs_between_ranks_is_one_sentence_on_all(given: dict[str, Any], sentence: str) -> None:
    def rank(comm: Communicator) -> str:
        own: dict[str, Any] = {"x": np.ones(4), "bits": 16, "value_range": 1.0}
        secure: dict[str, Any] = {"threshold": 2}
        for key, value in (given if comm.rank == 2 else {}).items():
            (secure if key in ("rounding", "threshold") else own)[key] = value
        try:
            with silofl.SecureAggregator(
                comm, bits=own["bits"], value_range=own["value_range"], config=SecureConfig(**secure)
            ) as aggregator:
                aggregator.sum(own["x"])
        except SiloflError as error:
            return str(error)
        return ""

    ends = run_in_threads(3, rank, timeout_s=20)
    assert len(set(ends)) == 1
    assert sentence in ends[0]


def test_an_identity_on_some_ranks_alone_is_refused_on_all() -> None:
    def rank(comm: Communicator) -> None:
        config = SecureConfig() if comm.rank == 1 else SecureConfig(identity="own.pem", roster="roster.toml")
        with pytest.raises(ConfigError, match=r"rank 1 has no secure\.identity .* set both on every rank"):
            silofl.SecureAggregator(comm, config=config)

    run_in_threads(3, rank, timeout_s=20)


def test_an_aggregator_whose_arrays_change_on_one_rank_alone() -> None:
    def rank(comm: Communicator) -> None:
        with silofl.SecureAggregator(comm) as aggregator:
            aggregator.sum(np.ones(4))
            with pytest.raises(DataError, match="the same shape") as caught:
                aggregator.sum(np.ones(5 if comm.rank else 4))
            assert caught.value.__context__ is None  # a traceback has this error alone

    run_in_threads(3, rank, timeout_s=20)


@pytest.mark.parametrize(
    ("secure", "sentence"),
    [
        ({"protocol": "plain"}, "secure.protocol = 'plain' does nothing"),
        ({"committee": 3}, "secure.committee = 3 does nothing"),
        ({"recompute": 1}, "secure.recompute = 1 does nothing"),
        ({"bits": 32}, "give it as bits="),
        ({"range": 1.0}, "give it as value_range="),
        ({"identity": "no-such.pem", "roster": "none.toml"}, "none.toml"),
        ({"identity": "no-such.pem"}, "belong together"),
    ],
)
def test_keys_that_do_nothing_or_name_no_file_are_refused(secure: dict[str, Any], sentence: str) -> None:
    def rank(comm: Communicator) -> None:
        with pytest.raises(ConfigError, match=re.escape(sentence)):
            silofl.SecureAggregator(comm, config=SecureConfig(**secure))

    run_in_threads(3, rank, timeout_s=20)


def test_institutions_identities_are_used(tmp_path: Path) -> None:
    own = [Identity.generate() for _ in range(3)]
    for number, identity in enumerate(own):
        identity.save(tmp_path / f"{number}.pem")
    roster = tmp_path / "roster.toml"
    roster.write_text(Roster.ephemeral([one.public for one in own]).dumps())

    def rank(comm: Communicator, swapped: bool) -> Any:
        number = (comm.rank + swapped) % 3
        config = SecureConfig(identity=str(tmp_path / f"{number}.pem"), roster=str(roster))
        with silofl.SecureAggregator(comm, config=config) as aggregator:
            assert aggregator._session.identity.public == own[comm.rank].public
            return aggregator.sum(np.ones(4))[0]

    assert run_in_threads(3, lambda comm: rank(comm, swapped=False)) == pytest.approx([3.0] * 3, abs=1e-3)
    with pytest.raises(ConfigError, match="is the key of silo 1 and this is rank 0"):
        run_in_threads(3, lambda comm: rank(comm, swapped=True), timeout_s=20)


@pytest.mark.mpi(min_size=3)
def test_over_mpi() -> None:
    from mpi4py import MPI

    check(MPI.COMM_WORLD, MPI.COMM_WORLD.rank, MPI.COMM_WORLD.size)


SUMS = """
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np

from silofl.aggregation.secure_sum import SecureAggregator
from silofl.comm import run_on_ranks


def body(comm, shutdown):
    drawn = np.random.default_rng(comm.rank).standard_normal((3, 3_000_001)).astype(np.float32)
    with SecureAggregator(comm, drawn.shape[1]) as aggregator:
        told = " ".join(sha256(aggregator.sum(x).tobytes()).hexdigest() for x in drawn)
    assert comm.allgather_bytes(told.encode()) == [told.encode()] * comm.size
    if comm.rank == 0:
        Path(sys.argv[1]).write_text(f"{comm.several_hosts} {told}")


sys.exit(run_on_ranks(body))
"""


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("megabits", [100.0, 1000.0])
def test_ranks_on_two_hosts_have_the_bits_of_one(hosts: Any, tmp_path: Path, megabits: float) -> None:
    """Of several sums, in more pieces than are under way at a time."""
    program, environ = tmp_path / "sums.py", dict(os.environ) | dict.fromkeys(THREAD_VARIABLES, "1")
    program.write_text(SUMS)
    environ |= {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")])}
    mpirun, told = mpi_info().launchers[0], dict[bool, str]()
    for several in (True, False):
        argv, path = [sys.executable, str(program), str(tmp_path / str(several))], tmp_path / str(several)
        with hosts.two_hosts(megabits) as both:
            if several:
                assert both.mpirun(mpirun, 2, argv, environ, 120) == 0
            else:
                line = [mpirun, "--allow-run-as-root", "--oversubscribe", "-n", "4", *argv]
                assert both.start(line, environ).wait(120) == 0
        where, _, told[several] = path.read_text().partition(" ")
        assert where == str(several)
    assert told[True] == told[False]
