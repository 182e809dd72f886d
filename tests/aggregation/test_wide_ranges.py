"""A silo whose values are so large that the others' round to zero says so by name; a false claim is told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from silofl.aggregation.claims import open_claims
from silofl.aggregation.formats.scaled import LEVEL, LEVELS, LOWEST, decode_ranges, encode_exponents
from silofl.aggregation.secagg_round import AdvertisedRound, SecAggRound, SmallSums
from silofl.aggregation.secure_session import open_session
from silofl.aggregation.wire_format import WireFormat
from silofl.comm import Communicator, run_in_threads
from silofl.comm.elastic_group import ElasticGroup
from silofl.comm.protocol import SimulatedCrash
from silofl.comm.threads import ThreadCommunicator
from silofl.crypto.secagg import Rules
from silofl.errors import ProtocolError
from silofl.types import Contribution
from tests.aggregation.harness import Case, VectorSpec, outcomes

PROTOCOLS = pytest.mark.parametrize("protocol", ["secagg", "additive"])


def of(scales: list[float], samples: list[int] | None = None, **more: Any) -> Case:
    """A vector a silo, of one shape and these magnitudes."""
    given = [
        Contribution({"x": (np.random.default_rng(k).uniform(-1, 1, 200) * scale).astype(np.float32)})
        for k, scale in enumerate(scales)
    ]
    return Case((VectorSpec("x", 200),), given, samples or [10] * len(scales), **more)


def told(case: Case, protocol: str) -> tuple[Any, list[tuple[str, ...]]]:
    """At how many silos tensors were lost, and what each rank says of its own."""
    qualities = [one.quality for one in outcomes(case, protocol)]
    assert all(one == qualities[0] for one in qualities)
    return qualities[0].lost, [one.widest for one in qualities]


@PROTOCOLS
def test_the_silo_that_asked_for_the_range_knows_it_and_no_other(protocol: str) -> None:
    assert told(of([1.0, 0.5, 1e25, 0.3]), protocol) == ({"x": 3}, [(), (), ("x",), ()])


@PROTOCOLS
@pytest.mark.parametrize(
    "case",
    [
        of([1.0, 0.5, 20.0, 0.3]),
        of([1.0] * 4, [1, 10, 10**7, 10**7]),  # lost, too, but to small shares of the samples
        of([1.0, 0.5, 1e25, 0.3], config={"range": 1e25}),  # by the configuration's word, no silo's
    ],
    ids=["alike", "unlike shares", "configured"],
)
def test_nothing_is_told_where_no_silo_asked_for_too_much(protocol: str, case: Case) -> None:
    assert told(case, protocol)[1] == [()] * 4


def test_one_wide_silo_among_many_that_are_small_does_not_hide_behind_a_silent_tensor() -> None:
    """A silo without values has lost none: most of the others is enough."""
    assert told(of([1.0, 0.0, 1e25, 0.3, 1.0]), "secagg") == ({"x": 3}, [(), (), ("x",), (), ()])


@pytest.fixture
def lying(monkeypatch: pytest.MonkeyPatch) -> None:
    """The silo of 13 samples claims values that it has not, and says nothing of it."""
    stated = WireFormat.exponents

    def lie(wire: WireFormat, magnitudes: Any, weight: float) -> Any:
        if wire.spec.samples == 13:
            return encode_exponents(np.array([2.0**95]), wire._words)
        return stated(wire, magnitudes, weight)

    monkeypatch.setattr(WireFormat, "exponents", lie)


FALSE = of([1.0, 0.5, 0.4, 0.3], [10, 10, 13, 10])
LIAR = 2


def claimed(case: Case) -> dict[str, tuple[int, ...]]:
    """Who asked for the range of x, the same on every rank."""
    found = [dict(one.quality.claimed) for one in outcomes(case, "secagg")]
    assert all(one == found[0] for one in found)
    return found[0]


@pytest.mark.covering(0)
@pytest.mark.usefixtures("lying")
@pytest.mark.parametrize("bits", [8, 16, 32])
def test_a_false_claim_is_named_by_all_whatever_its_silo_says(bits: int) -> None:
    case = replace(FALSE, bits=bits, dtype=np.float64 if bits == 32 else np.float32)
    assert told(case, "secagg") == ({"x": 4}, [()] * 4)
    assert claimed(case) == {"x": (LIAR,)}


def test_a_true_claim_is_named_alike_and_none_where_ranges_fit() -> None:
    assert claimed(of([1.0, 0.5, 1e25, 0.3])) == {"x": (LIAR,)}
    assert claimed(of([1.0, 0.5, 20.0, 0.3])) == {}
    assert claimed(of([1.0, 0.5, 1e25, 0.3], config={"range": 1e25})) == {}


@pytest.mark.usefixtures("lying")
def test_masks_that_were_made_up_to_hide_a_claim_name_the_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    pair_words = SecAggRound.pair_words

    def lie(keys: SecAggRound, *places: Any) -> Any:
        words = pair_words(keys, *places)
        if keys.masking.me == LIAR:
            words[0] = words[0] + 1  # as if to have zeros left over
        return words

    monkeypatch.setattr(SecAggRound, "pair_words", lie)
    assert claimed(FALSE) == {"x": (0, LIAR)}


@pytest.mark.usefixtures("lying")
@pytest.mark.parametrize("words", [b"", b"of another length"])
def test_a_silo_that_opens_nothing_is_named(monkeypatch: pytest.MonkeyPatch, words: bytes) -> None:
    signed = SecAggRound.signed

    def lie(keys: SecAggRound, sent: bytes, *place: Any) -> bytes:
        opening = len(sent) == 3 * LEVEL.itemsize
        return signed(keys, words if opening and keys.masking.me == LIAR else sent, *place)

    monkeypatch.setattr(SecAggRound, "signed", lie)
    assert claimed(FALSE) == {"x": (LIAR,)}


def test_words_of_no_other_level_are_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """A word for each peer and tensor that was spoilt: as many as a level has."""
    sent: list[int] = []
    signed = SecAggRound.signed
    monkeypatch.setattr(
        SecAggRound,
        "signed",
        lambda keys, words, *place: (sent.append(len(words)), signed(keys, words, *place))[1],
    )
    claimed(of([1.0, 0.5, 1e25, 0.3]))
    asked = LEVELS * LEVEL.itemsize  # of the agreement before
    assert [length for length in sent if length != asked] == [3 * LEVEL.itemsize] * 4


@pytest.mark.usefixtures("lying")
def test_words_that_were_altered_on_the_wire_make_no_other_silo_the_liar(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is added to one silo's words and taken off another's leaves the sum, and so the vote, as it is."""
    gather, place = ThreadCommunicator._allgather_bytes, 95 - LOWEST

    def altered(comm: ThreadCommunicator, payload: bytes) -> list[bytes]:
        rows = gather(comm, payload)
        if len(payload) // LEVEL.itemsize in range(LEVELS, LEVELS + 9):
            for silo, change in ((0, 1), (1, -1)):
                row = np.frombuffer(rows[silo], np.uint16, LEVELS * 4).copy()
                row[place * 4 : place * 4 + 1] += np.uint16(change % 2**16)  # wraps
                rows[silo] = row.tobytes() + rows[silo][row.nbytes :]
        return rows

    monkeypatch.setattr(ThreadCommunicator, "_allgather_bytes", altered)
    with pytest.raises(ProtocolError, match="silo 0's words of a small sum are refused") as refusal:
        claimed(FALSE)
    assert refusal.value.sender == 0


def test_a_silo_that_was_told_the_outcome_by_others_is_not_named_for_one_that_died() -> None:
    """Silo 4 claims and dies when all but silo 1 have its words."""

    def rank(comm: Communicator) -> Any:
        group = ElasticGroup(comm)
        session = open_session(group, Rules(bits=16), bytes(32))
        keys = AdvertisedRound(comm, session.round(session.take_number()), session.identity).keys(1)
        sums, me, gather, barrier = (
            SmallSums(session, keys, bytes(32)),
            comm.rank,
            comm.allgather_bytes,
            comm.barrier,
        )

        def gathered(payload: bytes) -> list[bytes]:
            rows = gather(payload)
            if me == 1:
                barrier()
            return rows

        def crash() -> None:
            if me == 4:
                raise SimulatedCrash
            barrier()

        comm.allgather_bytes, comm.barrier = gathered, crash  # type: ignore[method-assign]
        own = np.array([2.0 ** (60 if me == 4 else 0)])
        found = sums.total(lambda silos: encode_exponents(own, np.dtype(np.uint16)), repeatable=True)
        assert found is not None
        wide = decode_ranges(found[0], ("x",))[0]
        return (
            wide,
            open_claims(group.comm, keys, sums.held, {0: wide}),
            len(sums.held.messages) if sums.held else 0,
        )

    nobody = (2.0**60, {0: ()})
    assert run_in_threads(5, rank, timeout_s=60) == [
        *[(*nobody, 0 if silo == 1 else 5) for silo in range(4)],
        None,
    ]
