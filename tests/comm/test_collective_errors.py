"""`raise_if_any` and `raise_on_all_ranks`: every rank raises the same error, or none does."""

import pytest

from silofl import errors
from silofl.comm import raise_if_any, raise_on_all_ranks, run_in_threads
from silofl.comm.collective_errors import LONGEST_TEXT, allgather_object
from silofl.errors import DataError, ProtocolError, SiloflError

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, SiloflError)]


def raised_on(n, body):
    """What each rank raised: (class, text, rank)."""

    def run(comm):
        try:
            body(comm)
        except SiloflError as error:
            return type(error), str(error), error.rank
        return None

    return run_in_threads(n, run, timeout_s=20)


def test_no_error_raises_nothing():
    assert raised_on(3, lambda comm: raise_if_any(comm, None)) == [None] * 3


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_class_travels(kind):
    def body(comm):
        raise_if_any(comm, kind("silo é\n2 has no data") if comm.rank == 1 else None)

    assert raised_on(3, body) == [(kind, r"silo é\n2 has no data", 1)] * 3


def test_a_peer_s_text_is_one_line_of_bounded_length():
    def body(comm):
        raise_if_any(comm, DataError("\x1b[31m" + "x" * 10**6) if comm.rank == 1 else None)

    ((kind, text, rank),) = set(raised_on(3, body))
    assert (kind, rank) == (DataError, 1)
    assert text.startswith(r"\x1b[31mxxx")
    assert len(text) < 2 * LONGEST_TEXT


def test_the_lowest_failing_rank_wins():
    assert (
        raised_on(4, lambda comm: raise_if_any(comm, DataError(f"{comm.rank}") if comm.rank > 1 else None))
        == [(DataError, "2", 2)] * 4
    )


def test_a_protocol_errors_sender_travels():
    def body(comm):
        with pytest.raises(ProtocolError) as caught:
            raise_if_any(comm, ProtocolError("forged", sender=7) if comm.rank == 0 else None)
        assert caught.value.sender == 7

    run_in_threads(2, body)


def test_values_are_exchanged_unless_a_rank_raises():
    def body(comm, failing=None):
        value = {"rank": comm.rank} if comm.rank else None
        return allgather_object(comm, value, DataError("no value") if comm.rank == failing else None)

    assert run_in_threads(3, body) == [[None, {"rank": 1}, {"rank": 2}]] * 3
    assert raised_on(3, lambda comm: body(comm, failing=2)) == [(DataError, "no value", 2)] * 3


def test_a_foreign_subclass_travels_as_its_ancestor():
    class LocalError(DataError):
        pass

    assert (
        raised_on(2, lambda comm: raise_if_any(comm, None if comm.rank else LocalError("x")))
        == [(DataError, "x", 0)] * 2
    )


def test_a_block_raises_together():
    def body(comm):
        with raise_on_all_ranks(comm):
            if comm.rank == 2:
                raise DataError("silo 2 is empty")

    assert raised_on(3, body) == [(DataError, "silo 2 is empty", 2)] * 3


def test_an_unexpected_exception_becomes_one_sentence():
    def body(comm):
        with raise_on_all_ranks(comm):
            [][comm.rank - 1 if comm.rank == 1 else slice(0)]

    (kind, text, rank), *others = raised_on(3, body)
    assert (kind, rank) == (SiloflError, 1)
    assert text.startswith("rank 1 raised IndexError: list index out of range (test_collective_errors.py:")
    assert others == [(kind, text, rank)] * 2
    assert kind.exit_code == 1


def test_a_decorated_function_raises_together_and_returns():
    def body(comm):
        @raise_on_all_ranks(comm)
        def step(value):
            if value > 2:
                raise DataError("too much")
            return value

        assert step(1) == 1
        step(comm.rank + 1)

    assert raised_on(3, body) == [(DataError, "too much", 2)] * 3


def test_the_failing_rank_keeps_its_own_traceback():
    cause = DataError("mine")

    def body(comm):
        with pytest.raises(DataError) as caught:
            raise_if_any(comm, cause if comm.rank == 0 else None)
        return caught.value.__cause__

    assert run_in_threads(2, body) == [cause, None]


def test_system_exit_passes_through():
    def body(comm):
        with raise_on_all_ranks(comm):
            raise SystemExit(3)

    with pytest.raises(SystemExit):
        run_in_threads(2, body)


@pytest.mark.parametrize(
    "message",
    [
        b"\xff\xfe",
        b"[]",
        b"{}",
        b"[" * 100_000 + b"]" * 100_000,
        b'{"value": 1, "error": null}',
        b'{"error": {"kind": "os", "text": "x", "sender": null}}',
        b'{"error": {"kind": "annotations", "text": "x", "sender": null}}',
        b'{"error": {"kind": "DataError", "text": 3, "sender": null}}',
        b'{"error": {"kind": "DataError", "text": "x", "sender": "y"}}',
    ],
    ids=lambda message: message[:20].decode(errors="replace"),
)
def test_what_no_rank_sends_is_refused_naming_the_rank(message):
    def body(comm):
        if comm.rank == 1:
            comm.allgather_bytes(message)
        else:
            allgather_object(comm, {"x": 1})

    sentence = f"rank 1 sent {len(message)} bytes that are no message"
    assert raised_on(3, body) == [(ProtocolError, sentence, 0), None, (ProtocolError, sentence, 0)]
