"""Small sums that are taken again without a lost silo: under masks that were never used, or not at all."""

from __future__ import annotations

import threading
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from silofl.aggregation import secagg_round
from silofl.aggregation.formats.scaled import decode_ranges, encode_exponents
from silofl.aggregation.secagg_round import AdvertisedRound, SmallSums
from silofl.aggregation.secure_session import open_session
from silofl.comm import Communicator, run_in_threads
from silofl.comm.elastic_group import ElasticGroup
from silofl.comm.protocol import SimulatedCrash
from silofl.comm.threads import ThreadCommunicator
from silofl.crypto.secagg import Rules
from silofl.errors import ProtocolError

SILOS, WIDTHS = 5, (3, 50, 2)


def test_no_mask_is_used_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silos 3 and 4 are lost one after the other within one sum, which goes before and after another one."""
    used: dict[int, list[tuple[int, int]]] = {}
    add_masks = secagg_round.add_masks

    def spy(words: Any, masks: Any, *, offset: int) -> None:
        used.setdefault(threading.get_ident(), []).append((offset, offset + len(words)))
        add_masks(words, masks, offset=offset)

    monkeypatch.setattr(secagg_round, "add_masks", spy)

    def rank(comm: Communicator) -> Any:
        group = ElasticGroup(comm)
        session = open_session(group, Rules(bits=16, threshold=3), bytes(32))
        sums = SmallSums(
            session,
            AdvertisedRound(comm, session.round(session.take_number()), session.identity).keys(1),
            bytes(32),
        )

        def encode(number: int, silos: int) -> Any:
            dying = (silos == 5 and group.silo_id == 4) or (silos == 4 and group.silo_id == 3)
            if dying and number == 1:
                raise SimulatedCrash
            return np.full(WIDTHS[number], 10**group.silo_id, np.uint16)

        totals = []
        for number in range(3):
            words, silos = sums.total(partial(encode, number), repeatable=True) or (None, 0)
            totals.append((None if words is None else words.tolist(), silos))
        return totals

    expected = [([11111] * 3, 5), ([111] * 50, 3), ([111] * 2, 3)]
    assert run_in_threads(SILOS, rank, timeout_s=100) == [*[expected] * 3, None, None]
    for places in used.values():
        assert all(end <= start for (_, end), (start, _) in pairwise(sorted(places)))
    assert max(map(len, used.values())) >= 4


def test_who_tells_a_sum_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silo 0 dies; of the others silo 2 alone says that it has seen the sum."""
    gather = ThreadCommunicator._allgather_bytes

    def told(self: Any, payload: bytes) -> list[bytes]:
        seen = len(payload) == 10 and len(self.members) == 3
        return gather(self, (b"ab" if self.members[self.rank] == 2 else b"") if seen else payload)

    monkeypatch.setattr(ThreadCommunicator, "_allgather_bytes", told)
    with pytest.raises(ProtocolError, match="silo 2's words of a small sum are refused") as refusal:
        test_a_sum_that_somebody_saw_is_void(repeatable=True)
    assert refusal.value.sender == 2


@pytest.mark.parametrize("repeatable", [False, True])
def test_a_sum_that_somebody_saw_is_void(repeatable: bool) -> None:
    """Silo 0 has the sum, and dies; the others have it, too, but not all know that of each other."""

    def rank(comm: Communicator) -> Any:
        group = ElasticGroup(comm)
        session = open_session(group, Rules(bits=16), bytes(32))
        sums = SmallSums(
            session,
            AdvertisedRound(comm, session.round(session.take_number()), session.identity).keys(1),
            bytes(32),
        )
        barrier = comm.barrier

        def dying() -> None:
            if comm.rank == 0:
                raise SimulatedCrash
            barrier()

        comm.barrier = dying  # type: ignore[method-assign]
        total = sums.total(lambda silos: np.full(1, 10**group.silo_id, np.uint16), repeatable=repeatable)
        return None if total is None else (total[0].tolist(), total[1])

    kept = ([1111], 4) if repeatable else None
    assert run_in_threads(4, rank, timeout_s=100) == [None, kept, kept, kept]


def test_a_sum_whose_words_may_all_have_gone_out_is_void() -> None:
    """All masked words on the wire add up to the sum: whoever reads them needs no rank that has it."""

    def rank(comm: Communicator) -> Any:
        group = ElasticGroup(comm)
        session = open_session(group, Rules(bits=16), bytes(32))
        sums = SmallSums(
            session,
            AdvertisedRound(comm, session.round(session.take_number()), session.identity).keys(1),
            bytes(32),
        )
        allgather = comm.allgather_bytes

        def dying(payload: bytes) -> list[bytes]:
            if comm.rank == 0:  # its words may be out, the others have not heard
                raise SimulatedCrash
            return allgather(payload)

        comm.allgather_bytes = dying  # type: ignore[method-assign]
        return sums.total(lambda silos: np.full(1, 10**group.silo_id, np.uint16), repeatable=False)

    assert run_in_threads(4, rank, timeout_s=100) == [None] * 4


def test_words_are_drawn_again_for_a_sum_that_is_taken_again() -> None:
    """The first words of a lost silo may be known: less the second sum, they must not be left over."""
    drawn: dict[int, list[bytes]] = {}

    def rank(comm: Communicator) -> Any:
        group = ElasticGroup(comm)
        session = open_session(group, Rules(bits=16), bytes(32))
        sums = SmallSums(
            session,
            AdvertisedRound(comm, session.round(session.take_number()), session.identity).keys(1),
            bytes(32),
        )

        def encode(silos: int) -> Any:
            words = encode_exponents(np.array([2.0**group.silo_id]), np.dtype(np.uint16))
            drawn.setdefault(group.silo_id, []).append(words.tobytes())
            if group.silo_id == 3:
                raise SimulatedCrash
            return words

        found = sums.total(encode, repeatable=True)
        assert found is not None
        return decode_ranges(found[0], ("x",)).tolist()

    assert run_in_threads(4, rank, timeout_s=100) == [[4.0]] * 3 + [None]
    assert all(len(set(drawn[silo])) == len(drawn[silo]) == 2 for silo in range(3))
