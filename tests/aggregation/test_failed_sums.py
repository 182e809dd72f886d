"""A rank that fails alone in a secure sum by itself: all ranks raise, none waits, the next sum is right."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import silofl
import silofl.aggregation.openable_sum
from silofl.aggregation.wire_format import WireFormat
from silofl.comm.threads import ThreadCommunicator, run_in_threads
from silofl.config import SecureConfig
from silofl.errors import DataError, SiloflError
from tests.conftest import Start

RANKS, ODD = 3, 1
MESSAGES = ("advert", "make", "share", "ranges", "tail", "vote", "reveal")
MARKS = ("advertise", "share", "mask", "collect first", "collect last", "agree", "reveal", "unmask")
EXCHANGES = pytest.mark.parametrize("messages", [False, True], ids=["shared memory", "messages"])


def ends(
    fail: Callable[[ThreadCommunicator], Any], value_range: float | None = None, *, warm: bool = False
) -> list[SiloflError]:
    """What each rank raises in a sum that `fail(comm)` is to break; a sum after it is right."""

    def rank(comm: ThreadCommunicator) -> SiloflError:
        values = np.full(500, comm.rank + 0.5)
        with silofl.SecureAggregator(comm, value_range=value_range) as aggregator:
            if warm:
                aggregator.sum(values)
            x = fail(comm)
            with pytest.raises(SiloflError) as caught:
                aggregator.sum(values if x is None else x)
            comm.on_mark(lambda step: None)
            np.testing.assert_allclose(aggregator.sum(values), 4.5, atol=1e-3)
            return caught.value

    found = run_in_threads(RANKS, rank, timeout_s=10)
    assert all(error.rank is not None for error in found)  # so that all leave `with` together
    return found


def by_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks that share no memory."""
    monkeypatch.setattr(ThreadCommunicator, "shared_buffer", lambda comm, nbytes: None)


@pytest.fixture
def altered(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Callable[[ThreadCommunicator], None]]:
    """`altered(k)` begins to count messages: for one rank a bit of rank 0's k-th is flipped."""

    def of(place: int) -> Callable[[ThreadCommunicator], None]:
        left = [-1]

        def begin(comm: ThreadCommunicator) -> None:
            if comm.rank == ODD:
                left[0] = place

        def spoiling(receive: Any) -> Any:
            def call(comm: ThreadCommunicator, payload: Any) -> list[bytes]:
                found: list[bytes] = receive(comm, payload)
                if comm.rank == ODD and left[0] >= 0:
                    left[0] -= 1
                    if left[0] == -1:
                        spoiled = bytearray(found[0])
                        spoiled[len(spoiled) // 2] ^= 1
                        found[0] = bytes(spoiled)
                return found

            return call

        for name in ("_allgather_bytes", "_alltoall_bytes"):
            monkeypatch.setattr(ThreadCommunicator, name, spoiling(getattr(ThreadCommunicator, name)))
        return begin

    return of


@pytest.mark.covering(1)
@EXCHANGES
@pytest.mark.parametrize("warm", [False, True], ids=["first", "second"])
@pytest.mark.parametrize(
    ("message", "value_range"),
    [
        *((message, None) for message in MESSAGES if message != "make"),
        *((message, 8.0) for message in MESSAGES if message not in ("make", "ranges")),
    ],
)
def test_a_message_that_was_altered_for_one_rank_ends_all(
    monkeypatch: pytest.MonkeyPatch,
    altered: Any,
    message: str,
    value_range: float | None,
    warm: bool,
    messages: bool,
) -> None:
    left_out = ({"make"} if warm else set()) | ({"ranges"} if value_range else set())
    sent = [one for one in MESSAGES if one not in left_out]
    if messages:
        by_messages(monkeypatch)
    found = ends(altered(sent.index(message)), value_range, warm=warm)
    if message == "reveal":
        assert str(found[ODD]).startswith("silo 0 reveals other shares")
        assert {str(found[0]), str(found[2])} == {
            "rank 1 could not open the sum, and the error there says why"
        }
    else:
        assert len({str(one) for one in found}) == 1
        assert len({one.rank for one in found}) == 1
        assert "rank 1: " in str(found[0]) or "ranks 0, 1 and 2: " in str(found[0])


@pytest.mark.covering(1)
@EXCHANGES
@pytest.mark.parametrize("warm", [False, True], ids=["first", "second"])
@pytest.mark.parametrize("mark", MARKS)
def test_an_error_of_one_rank_between_messages_ends_all_and_shows_nothing_of_its_values(
    monkeypatch: pytest.MonkeyPatch, mark: str, warm: bool, messages: bool
) -> None:
    if messages:
        by_messages(monkeypatch)

    def fail(comm: ThreadCommunicator) -> None:
        def at(step: str) -> None:
            if comm.rank == ODD and step == mark:
                raise ZeroDivisionError("of 3.75")

        comm.on_mark(at)

    found = ends(fail, warm=warm)
    assert all(error.rank == ODD for error in found)
    if mark != "unmask":
        assert {type(one) for one in found} == {SiloflError}
        assert len({str(one) for one in found}) == 1
        assert str(found[0]).startswith("rank 1 raised ZeroDivisionError (test_failed_sums.py:")
    assert "3.75" not in str(found[0])
    assert isinstance(found[ODD].__cause__, ZeroDivisionError)


@EXCHANGES
def test_an_error_while_the_sum_is_read_is_told_with_its_pieces(
    monkeypatch: pytest.MonkeyPatch, messages: bool
) -> None:
    if messages:
        by_messages(monkeypatch)
    work, reading = silofl.aggregation.openable_sum.reduce_rows, set[int]()

    def failing(*arguments: Any, **more: Any) -> None:
        if threading.get_ident() in reading:
            reading.clear()
            raise MemoryError("no room")
        work(*arguments, **more)

    def fail(comm: ThreadCommunicator) -> None:
        if comm.rank == ODD:
            me = threading.get_ident()
            comm.on_mark(lambda step: reading.add(me) if step == "unmask" else None)

    monkeypatch.setattr(silofl.aggregation.openable_sum, "reduce_rows", failing)
    found = ends(fail, 8.0)
    assert "rank 1 raised MemoryError: no room" in str(found[ODD])
    assert {str(found[0]), str(found[2])} == {"rank 1 could not open the sum, and the error there says why"}


def test_a_range_that_is_none_for_one_rank_alone_ends_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has to take part in the collection of words that it has none for."""
    ranges, odd = WireFormat.ranges, []

    def refused(wire: WireFormat, sums: Any) -> Any:
        if odd:
            odd.pop()
            raise DataError("a silo's array has values that are not finite", rank=0)
        return ranges(wire, sums)

    def fail(comm: ThreadCommunicator) -> None:
        odd.append(True) if comm.rank == ODD else None

    monkeypatch.setattr(WireFormat, "ranges", refused)
    found = ends(fail)
    (said,) = {str(one) for one in found}
    assert said.startswith("rank ")
    assert said.endswith(": a silo's array has values that are not finite")


@pytest.mark.parametrize("x", [np.arange(3), np.ones(0), "none"], ids=["type", "size", "no array"])
@pytest.mark.parametrize("warm", [False, True], ids=["first", "second"])
def test_what_is_no_array_on_one_rank_ends_all(x: Any, warm: bool) -> None:
    found = ends(lambda comm: x if comm.rank == ODD else None, warm=warm)
    (said,) = {str(one) for one in found}
    assert said.startswith("rank 1: a secure sum ")


def test_values_that_are_not_finite_end_all(monkeypatch: pytest.MonkeyPatch) -> None:
    for value_range in (None, 8.0):
        found = ends(lambda comm: np.full(500, np.nan if comm.rank == ODD else 0.5), value_range, warm=True)
        (said,) = {str(one) for one in found}
        assert "values that are not finite" in said


@pytest.mark.parametrize("place", range(7))
def test_messages_altered_for_one_rank_before_the_first_sum_end_all(altered: Any, place: int) -> None:
    """Settings, identities, keys, nonces."""

    config = SecureConfig(prg="aes-128-ctr")

    def rank(comm: ThreadCommunicator) -> str:
        begin(comm)
        try:
            with silofl.SecureAggregator(comm, 50, config=config) as aggregator:
                return str(aggregator.sum(np.ones(50))[0])
        except SiloflError as error:
            return f"refused by {error.rank}: {error}"

    begin = altered(place)
    found = run_in_threads(RANKS, rank, timeout_s=10)
    assert all(one.startswith("refused by ") and "by None" not in one for one in found)


PROGRAM = """
import sys, numpy as np, silofl
from mpi4py import MPI
from silofl.comm.mpi import MpiCommunicator
comm, received = MPI.COMM_WORLD, MpiCommunicator._allgather_bytes
def altered(self, payload):
    rows = received(self, payload)
    if comm.rank == 1 and payload.startswith(b"SFL"):
        rows[0] = bytes([*rows[0][:99], rows[0][99] ^ 1, *rows[0][100:]])
    return rows
MpiCommunicator._allgather_bytes = altered
silofl.secure_sum(np.ones(1000), comm=comm)
print("a sum")
"""


@pytest.mark.long
def test_a_program_of_one_s_own_ends_on_all_ranks(start: Start, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    job = start(RANKS, ranks=[[str(tmp_path / "program.py")]] * RANKS).wait(60)
    assert job.code != 0
    assert "a sum" not in job.out
    lines = {one for one in (job.out + job.err).splitlines() if one.startswith("silofl.errors")}
    refused = "silo 0's advert is refused: its signature is not that of the silo in the roster"
    assert lines == {f"silofl.errors.ProtocolError: rank 1: {refused}"}
