"""Protocols: what each states of itself, measured over all of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from silofl.aggregation.protocols import PROTOCOLS, build, choose_protocol, protocol_name
from silofl.aggregation.spec import VectorSpec
from silofl.comm import Communicator
from silofl.comm.elastic_group import ElasticGroup
from silofl.comm.protocol import SharedBuffer, SimulatedCrash
from silofl.config import SecureConfig
from silofl.crypto.threshold import default_threshold
from silofl.errors import ConfigError, StoppedError
from silofl.types import Contribution
from tests.aggregation.harness import Case, expected, in_ranks, one_vector, outcomes, reduce_and_read, whole

every_protocol = pytest.mark.parametrize("name", list(PROTOCOLS))
MARK = 1234.5


class Watched:
    """A communicator that keeps every byte that goes out, by message or by shared memory."""

    def __init__(self, comm: Any, out: list[bytes]) -> None:
        self._comm, self._out = comm, out

    def __getattr__(self, name: str) -> Any:
        return getattr(self._comm, name)

    def duplicate(self) -> Any:
        return Watched(self._comm.duplicate(), self._out)

    def allgather_bytes(self, payload: bytes) -> Any:
        self._out.append(payload)
        return self._comm.allgather_bytes(payload)

    def alltoall_bytes(self, payloads: Any) -> Any:
        self._out += payloads
        return self._comm.alltoall_bytes(payloads)

    def alltoall(self, send: Any, receive: Any) -> None:
        self._out.append(send.tobytes())
        self._comm.alltoall(send, receive)

    def allreduce(self, values: Any, *op: Any) -> Any:
        self._out.append(values.tobytes())
        return self._comm.allreduce(values, *op)

    def shared_buffer(self, nbytes: int) -> SharedBuffer | None:
        return None


@every_protocol
def test_private_protocols_alone_show_no_value_of_a_silo(name: str) -> None:
    """All silos bring one known value, as words of the format and as floats: sought in all that goes out."""
    values = [np.full(2000, MARK, np.float64) for _ in range(3)]
    given = [Contribution({"x": one}, {"loss": MARK}) for one in values]
    case = Case((VectorSpec("x", 2000),), given, [1, 1, 1], np.float64, 32, ("loss",))

    def rank(comm: Communicator) -> list[bytes]:
        out: list[bytes] = []
        group = ElasticGroup(Watched(comm, out))  # type: ignore[arg-type]
        reduce_and_read(case.make(name, group), case, group)
        return out

    for sent in in_ranks(3, rank):
        whole = b"".join(sent)
        constant = any(one[:800] == one[:8] * 100 for one in sent if len(one) >= 800)
        shown = constant or np.float64(MARK).tobytes() in whole
        assert shown == (not PROTOCOLS[name].private)


@every_protocol
def test_private_protocols_alone_show_no_sample_count(name: str) -> None:
    """Each silo's count, as integers, floats and text: sought in all that it sends from the start on."""
    samples = [1_000_003, 2_000_029, 3_000_047]
    case = replace(one_vector(3, 300, bits=32), samples=samples)

    def rank(comm: Communicator) -> list[bytes]:
        out: list[bytes] = []
        group = ElasticGroup(Watched(comm, out))  # type: ignore[arg-type]
        reduce_and_read(case.make(name, group), case, group)
        return out

    for own, sent in zip(samples, in_ranks(3, rank), strict=True):
        whole = b"".join(sent)
        forms = (np.int64(own).tobytes(), np.float64(own).tobytes(), str(own).encode(), own.to_bytes(3))
        shown = any(form in whole for form in forms[:3]) or forms[3][::-1] + b"\0\0\0" in whole
        assert shown == (not PROTOCOLS[name].private)


@every_protocol
def test_a_round_goes_on_when_a_rank_fails_where_a_protocol_recovers(name: str) -> None:
    case = one_vector(4, 300, bits=32)

    def rank(comm: Communicator) -> Any:
        group = ElasticGroup(comm)
        aggregator = case.make(name, group)
        count = 0

        def die(*_: Any) -> None:
            nonlocal count
            count += 1
            if comm.rank == 2:
                raise SimulatedCrash

        if comm.rank == 2:  # at its first message of the round
            comm.allgather_bytes = comm.alltoall = comm.allreduce = comm.shared_buffer = die  # type: ignore[method-assign, assignment]
            comm.barrier = die  # type: ignore[method-assign]
        try:
            return reduce_and_read(aggregator, case, group).participants
        except StoppedError as error:
            return type(error)

    found = in_ranks(4, rank)
    assert found[2] is None
    survived = [one == (0, 1, 3) for k, one in enumerate(found) if k != 2]
    assert survived == [PROTOCOLS[name].recovers] * 3
    if not PROTOCOLS[name].recovers:
        assert [found[k] for k in (0, 1, 3)] == [StoppedError] * 3


@every_protocol
def test_gives_the_sum_and_rows_only_where_it_says_so(name: str) -> None:
    protocol, case = PROTOCOLS[name], one_vector(3, 100)
    assert "sum" in protocol.gives
    assert not (protocol.private and "rows" in protocol.gives)

    def rank(comm: Communicator) -> Any:
        group = ElasticGroup(comm)
        aggregator = case.make(name, group)
        sums = reduce_and_read(aggregator, case, group).mean["x"].copy()
        assert aggregator.total(comm.rank).rows is None
        try:
            asked = build(group, case.secure(name), replace(case.spec(comm.rank), rows=True))
        except ConfigError as error:
            return str(error)
        found = reduce_and_read(asked, case, group)
        np.testing.assert_allclose(found.mean["x"], sums, rtol=1e-6)
        return asked.total(comm.rank).rows["x"]

    shown = in_ranks(3, rank)
    if "rows" in protocol.gives:
        for silo, own in enumerate(case.contributions):
            parts = [rows[silo] for rows in shown]
            np.testing.assert_array_equal(np.concatenate(parts), own.vectors["x"])
    else:
        assert shown == [shown[0]] * 3
        assert f'secure.protocol = "{name}" gives sums alone' in shown[0]


def test_a_silo_alone_has_its_own_row() -> None:
    case = one_vector(1, 100)

    def rank(comm: Communicator) -> Any:
        group = ElasticGroup(comm)
        aggregator = build(group, case.secure("plain"), replace(case.spec(0), rows=True))
        reduce_and_read(aggregator, case, group)
        return aggregator.total(0)

    total = in_ranks(1, rank)[0]
    own = case.contributions[0].vectors["x"]
    np.testing.assert_array_equal([*total.rows["x"], total.mean["x"]], [own, own])
    with pytest.raises(ValueError, match="read-only"):
        total.rows["x"][0].sort()


@every_protocol
@pytest.mark.parametrize("silos", [1, 2, 3, 7, 40])
@pytest.mark.parametrize("allow_two", [False, True])
def test_a_round_needs_as_many_silos_as_hide_each_other(name: str, silos: int, allow_two: bool) -> None:
    protocol, secure = PROTOCOLS[name], SecureConfig(protocol=name, allow_two=allow_two)  # type: ignore[arg-type]
    fewest = protocol.fewest(secure, silos)
    if protocol.private:
        assert fewest == max(default_threshold(silos), 2 if allow_two else 3)
        if silos < (2 if allow_two else 3):
            with pytest.raises(ConfigError, match="hides nothing"):
                choose_protocol(secure, silos)
    else:
        assert fewest == min(2, silos)
    assert bool(protocol.bears(secure, silos)) == protocol.private
    openers, why = protocol.openers(secure, silos)
    assert openers >= 1
    assert why
    assert (openers == 1) == (not protocol.private) or silos == 1


@every_protocol
def test_a_refusal_is_raised_on_every_rank_before_anything_is_made(name: str) -> None:
    case = one_vector(3, 10, config={"committee": 4})
    secure = case.secure(name)
    refusal = PROTOCOLS[name].refusal(secure, 3)
    assert (refusal is not None) == (name == "additive")

    def rank(comm: Communicator) -> Any:
        try:
            build(ElasticGroup(comm), secure, case.spec(comm.rank)).close()
        except ConfigError as error:
            return str(error)
        return None

    assert in_ranks(3, rank) == [refusal] * 3


def test_stochastic_rounding_is_the_same_whatever_hides_the_words() -> None:
    case = one_vector(3, 500, config={"rounding": "stochastic"})
    masked, dealt = (outcomes(case, name, (1, 2)) for name in ("secagg", "additive"))
    np.testing.assert_array_equal(whole(masked)["x"], whole(dealt)["x"])
    assert (whole(masked)["x"] != expected(case)["x"]).mean() > 0.2  # which rounds to nearest


def test_auto_is_secure_for_three_silos_and_clear_below() -> None:
    assert [protocol_name(SecureConfig(), n) for n in (1, 2, 3, 4)] == ["plain", "plain", "secagg", "secagg"]
    assert protocol_name(SecureConfig(allow_two=True), 2) == "secagg"


@every_protocol
def test_a_protocol_adds_up_round_after_round(name: str) -> None:
    first, last = outcomes(one_vector(3, 70), name), outcomes(one_vector(3, 70), name, (1, 2, 3))
    for one, other in zip(first, last, strict=True):
        np.testing.assert_array_equal(one.mean["x"], other.mean["x"])
