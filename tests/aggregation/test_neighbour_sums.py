"""Weighted sums of neighbours' messages, in the clear and under masks, and silos that fail in them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from silofl.aggregation import masked_neighbour_sums, neighbour_sums
from silofl.aggregation.masked_neighbour_sums import MaskedNeighbourSums, fixed_point
from silofl.aggregation.neighbour_sums import PlainNeighbourSums
from silofl.aggregation.secure_session import open_session
from silofl.comm.elastic_group import ElasticGroup
from silofl.comm.protocol import SimulatedCrash
from silofl.comm.threads import run_in_threads
from silofl.crypto.neighbour_masks import NeighbourKeys
from silofl.crypto.secagg import Rules
from silofl.errors import DataError, ProtocolError, StoppedError
from silofl.mixing.graphs.registry import GRAPHS
from silofl.mixing.mixing_matrices import doubly_stochastic

SIZE = 50
KINDS = ["plain", "masked"]


def weights_of(graph: str, **keys: Any):
    made = GRAPHS[graph](**keys)
    return lambda silos, number: doubly_stochastic(made.edges(silos, number - 1, 0))


def sums_of(kind: str, group: ElasticGroup):
    if kind == "plain":
        return PlainNeighbourSums(group)
    return MaskedNeighbourSums(open_session(group, Rules(), b"c" * 32))


def message_of(silo: int, number: int = 1):
    return np.random.default_rng([silo, number]).standard_normal(SIZE) * 10 ** (silo % 5 - 2)


def exchange(kind: str, weights, silos: int, rounds: int = 1, on_mark=None, absent=(), **given: Any):
    """What every silo has of each round; None of one that failed."""

    def rank(comm):
        group = ElasticGroup(comm)
        made = sums_of(kind, group)
        if on_mark is not None:
            comm.on_mark(on_mark(comm))
        found = [
            made.exchange(message_of(group.silo_id, number), weights, number, absent, **given)
            for number in range(1, rounds + 1)
        ]
        made.close()
        return found

    return run_in_threads(silos, rank, timeout_s=30)


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbour_sums, "CHUNK_VALUES", 16)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("graph", "silos"), [("ring", 5), ("complete", 4), ("exponential", 8)])
def test_sums_are_those_of_the_matrix(kind: str, graph: str, silos: int) -> None:
    weights = weights_of(graph)
    every = exchange(kind, weights, silos, rounds=2)
    for number in (1, 2):
        messages = np.array([message_of(silo, number) for silo in range(silos)])
        w = weights(tuple(range(silos)), number)
        for silo, found in enumerate(every):
            one = found[number - 1]
            want = w[silo] @ messages - w[silo, silo] * messages[silo]
            np.testing.assert_allclose(one.total, want, atol=1e-10)
            assert one.weight == pytest.approx(w[silo, silo])
            assert one.silos == tuple(range(silos))


@pytest.mark.parametrize("kind", KINDS)
def test_absent_silos_send_and_receive_nothing(kind: str) -> None:
    every = exchange(kind, weights_of("ring"), 5, absent=(2,))
    assert all(found[0].silos == (0, 1, 3, 4) for found in every)
    assert not every[2][0].total.any()
    assert every[2][0].weight == 1
    np.testing.assert_allclose(every[1][0].total, (message_of(0) + message_of(3)) / 3, atol=1e-10)


def crash(silo: int, step: str, times: int = 1):
    """A silo's end at a step."""

    def of(comm):
        left = [times]

        def mark(at: str) -> None:
            if comm.members[comm.rank] == silo and at == step:
                left[0] -= 1
                if not left[0]:
                    raise SimulatedCrash

        return mark

    return of


@pytest.mark.parametrize(("kind", "step"), [("plain", "collect middle"), ("masked", "collect last")])
def test_neighbours_of_a_silo_that_fails_go_on_without_it(kind: str, step: str) -> None:
    every = exchange(kind, weights_of("ring"), 5, rounds=2, on_mark=crash(2, step))
    assert every[2] is None
    left = (0, 1, 3, 4)
    for number in (1, 2):
        messages = {silo: message_of(silo, number) for silo in range(5)}
        for place, silo in enumerate(left):
            around = messages[left[place - 1]] + messages[left[(place + 1) % 4]]
            np.testing.assert_allclose(every[silo][number - 1].total, around / 3, atol=1e-10)


def test_where_a_silo_fails_before_a_sum_is_open_it_stays_closed() -> None:
    """Silo 2 fails when others give what opens sums: its neighbours have none, the others theirs."""
    every = exchange("masked", weights_of("ring"), 6, rounds=2, on_mark=crash(2, "reveal"))
    assert every[2] is None
    for silo in (0, 1, 3, 4, 5):
        first, second = every[silo]
        assert first.closed == (silo in (1, 3))
        assert first.silos == (0, 1, 2, 3, 4, 5)
        assert not second.closed
        assert second.silos == (0, 1, 3, 4, 5)
        if not first.closed:
            around = message_of((silo + 1) % 6) + message_of((silo - 1) % 6)
            np.testing.assert_allclose(first.total, around / 3, atol=1e-10)


def test_a_sum_that_some_have_opened_stays_theirs_and_nobody_opens_two(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Silo 2 fails when it is to give silo 3 what opens its sum: words have changed hands once."""
    collected: dict[int, list[tuple[int, ...]]] = {silo: [] for silo in range(6)}
    real, collect = NeighbourKeys.box, MaskedNeighbourSums._collect

    def box(keys, receiver, number, decided, sent):
        if keys._me == 2 and receiver == 3:
            raise SimulatedCrash
        return real(keys, receiver, number, decided, sent)

    def noted(sums, *given):
        taken = collect(sums, *given)
        collected[sums._group.silo_id].append(taken.now.silos)
        return taken

    monkeypatch.setattr(NeighbourKeys, "box", box)
    monkeypatch.setattr(MaskedNeighbourSums, "_collect", noted)
    every = exchange("masked", weights_of("ring"), 6)
    assert all(found == [(0, 1, 2, 3, 4, 5)] for found in collected.values())
    assert [silo for silo, found in enumerate(every) if found and found[0].closed] == [1, 3]


def test_words_on_the_wire_hide_each_message_until_a_sum_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a receiver has of one sender is far from its message; of all of them, it is their sum."""
    seen: dict[int, np.ndarray] = {}
    real = MaskedNeighbourSums._open

    def kept(sums, taken):
        seen[sums._group.silo_id] = taken.total.copy()
        return real(sums, taken)

    monkeypatch.setattr(MaskedNeighbourSums, "_open", kept)
    exchange("masked", weights_of("ring"), 4)
    for silo in range(4):
        clear = fixed_point(message_of((silo + 1) % 4), 1 / 3) + fixed_point(message_of(silo - 1 & 3), 1 / 3)
        away = (seen[silo] - clear).view(np.int64).astype(float)
        assert np.median(np.abs(away)) > 2.0**60  # uniform over 64 bits, of which the sum fills few


def test_masks_of_a_pair_stay_on_when_senders_give_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A receiver that takes off one sender's own mask is left with its mask of the pair."""
    rows: dict[int, Any] = {}

    def rank(comm):
        group = ElasticGroup(comm)
        made = sums_of("masked", group)
        now = made.round(weights_of("complete"), 1, ())
        taken = masked_neighbour_sums._Collected(now, 7, b"d" * 32, np.zeros(SIZE, np.uint64))
        message = message_of(group.silo_id)
        if group.silo_id == 1:  # what it would send to silo 0, without its own mask
            words = fixed_point(message, 0.25)
            for stream, sign in made._streams(taken, 0)[:-1]:
                masked_neighbour_sums.add_keystream(words, stream, sign, 0)
            rows[1] = words
        made.close()

    run_in_threads(4, rank, timeout_s=30)
    away = (rows[1] - fixed_point(message_of(1), 0.25)).view(np.int64).astype(float)
    assert np.median(np.abs(away)) > 2.0**60


def test_words_that_were_changed_on_their_way_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    real = NeighbourKeys.unbox

    def unbox(keys, sender, number, decided, received, box):
        changed = bytes(32) if (keys._me, sender) == (3, 2) else received
        return real(keys, sender, number, decided, changed, box)

    monkeypatch.setattr(NeighbourKeys, "unbox", unbox)
    with pytest.raises(ProtocolError, match="silo 2's sealed"):
        exchange("masked", weights_of("ring"), 4)


def test_masks_that_do_not_cancel_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silo 1 has other weights, and its boxes open all the same."""
    real = MaskedNeighbourSums._streams

    def other(sums, taken, place):
        streams = real(sums, taken, place)
        return streams[1:] if sums._group.silo_id == 1 else streams

    monkeypatch.setattr(MaskedNeighbourSums, "_streams", other)
    with pytest.raises(ProtocolError, match="do not cancel"):
        exchange("masked", weights_of("ring"), 4)


def test_silos_that_have_other_weights_cannot_open_each_others_boxes() -> None:
    mixed = weights_of("ring")

    def rank(comm):
        def lied(silos, number):
            return 0.9 * mixed(silos, number) + 0.1 * np.eye(len(silos))

        made = sums_of("masked", ElasticGroup(comm))
        made.exchange(message_of(comm.rank), lied if comm.rank == 1 else mixed, 1)

    with pytest.raises(ProtocolError, match="sealed"):
        run_in_threads(4, rank, timeout_s=30)


def test_one_neighbour_is_refused_and_large_values_are() -> None:
    with pytest.raises(StoppedError, match="silo 0 has one neighbour among the 4 silos of round 1"):
        exchange("masked", weights_of("one_peer_exponential"), 4)
    with pytest.raises(StoppedError, match="one neighbour"):
        exchange("masked", weights_of("ring"), 3, on_mark=crash(1, "collect last"))

    def rank(comm):
        group = ElasticGroup(comm)
        message = np.full(SIZE, 2.0**20 if comm.rank == 2 else 1.0)
        sums_of("masked", group).exchange(message, weights_of("ring"), 1)

    with pytest.raises(DataError, match="silo 2: a value of its model is 2\\^20 or more"):
        run_in_threads(4, rank, timeout_s=30)


def test_the_authorizer_is_asked_before_a_sum_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(silos):
        assert silos == (0, 1, 2, 3)
        raise StoppedError("round 1 stays closed", rank=None)

    monkeypatch.setattr(NeighbourKeys, "box", lambda *given: pytest.fail("a key was given"))
    with pytest.raises(StoppedError, match="stays closed"):
        exchange("masked", weights_of("ring"), 4, authorizer=refuse)


def test_plain_messages_cost_a_row_for_each_neighbour_and_masked_ones_two() -> None:
    def sent(kind: str) -> int:
        def rank(comm):
            made = sums_of(kind, ElasticGroup(comm))
            before = comm.bytes_sent
            made.exchange(message_of(comm.rank).astype(np.float32), weights_of("ring"), 1)
            return comm.bytes_sent - before

        return run_in_threads(6, rank, timeout_s=30)[0]

    assert sent("plain") == 2 * SIZE * 4
    assert 2 * SIZE * 8 < sent("masked") < 2 * SIZE * 8 + 2000
