"""Words that are sent again when a rank fails: the same under the same masks, whatever met them meanwhile.

Two different texts under one mask show their difference to whoever reads the wire.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from silofl.aggregation.magnitudes import measure
from silofl.aggregation.secagg import SecAggSum
from silofl.aggregation.secure_session import open_session
from silofl.aggregation.shards import Shards
from silofl.aggregation.spec import AggregationSpec, VectorSpec
from silofl.aggregation.wire_format import EncodedContribution, WireFormat
from silofl.comm import Communicator
from silofl.comm.elastic_group import ElasticGroup
from silofl.comm.protocol import SimulatedCrash
from silofl.crypto.secagg import Rules
from silofl.types import Contribution
from silofl_kernels import MaskSet
from tests.aggregation.harness import Case, in_ranks, one_vector, outcomes

MASKS = MaskSet("aes-128-ctr", [bytes(16)], [1])


def wire() -> tuple[WireFormat, Contribution]:
    rng = np.random.default_rng(3)
    ends = np.array([7, 2000, 5003], np.int64)
    vectors = (VectorSpec("x", 5003, ends=ends), VectorSpec("y", 9, "exact", "uniform"))
    spec = AggregationSpec(vectors, np.dtype(np.float32), 5, 0, bytes(32), 3, 0, ("loss",))
    x = rng.standard_normal(5003) * np.repeat([1.0, 1e-4, 5e-3], [2000, 1000, 2003])
    own = Contribution(
        {"x": x.astype(np.float32), "y": rng.standard_normal(9).astype(np.float32)},
        {"loss": 0.3},
    )
    return WireFormat(spec, 16, Shards(0, (0, 1, 2)), stochastic=False), own


@pytest.mark.parametrize("first_pass", ["whole", "part"])
def test_vectors_and_tail_are_the_same_in_other_pieces(first_pass: str) -> None:
    one, own = wire()
    size = one.layout.shards.size

    def sent(encoded: Any, width: int, stop: int = size) -> tuple[Any, Any]:
        out = np.zeros(size, np.uint16)
        encoded.begin()
        for start in range(0, stop, width):
            end = min(start + width, stop)
            encoded.fill(start, end, out[start:end], MASKS)
        return out, encoded.tail() if stop == size else None

    def encoded() -> Any:
        return one.encode(own, 0.4, measure(own, one.spec), one.fixed_ranges(8.0))

    words, tail = sent(encoded(), size)
    again = encoded()
    if first_pass == "whole":
        sent(again, size)
        later = sent(again, 77)
        np.testing.assert_array_equal(later[1], tail)
        again.begin()  # a pass that is broken off changes nothing of what was sent
        again.fill(0, 3000, np.empty(3000, np.uint16), MASKS)
        np.testing.assert_array_equal(again.tail(), tail)
    else:
        sent(again, 1000, 3000)
        later = sent(again, 1000)
        np.testing.assert_array_equal(later[1], sent(encoded(), 1000)[1])  # no trace of the first pass
    np.testing.assert_array_equal(later[0], words)


def test_the_tail_on_the_wire_is_the_same_when_it_is_sent_again() -> None:
    """Silo 4 dies when its tail is out. The others' second tails go with slices that are cut otherwise."""
    case = one_vector(5, 4000)
    case.samples = [3, 1, 4, 1, 5]
    tails: dict[int, list[bytes]] = {}

    def rank(comm: Communicator) -> None:
        group = ElasticGroup(comm)
        session = open_session(group, Rules(bits=16), bytes(32))
        sums = SecAggSum(session, case.spec(comm.rank), chunk=500)
        width = 2 * sums.wire.tail.words

        def spied(comm: Any) -> None:
            allgather, recover = comm.allgather_bytes, comm.recover

            def spy(payload: bytes) -> list[bytes]:
                if len(payload) == width:
                    tails.setdefault(group.silo_id, []).append(payload)
                    if group.silo_id == 4:
                        raise SimulatedCrash
                return allgather(payload)  # type: ignore[no-any-return]

            def recovered() -> Any:
                other = recover()
                spied(other)
                return other

            comm.allgather_bytes, comm.recover = spy, recovered

        spied(comm)
        own = case.contributions[comm.rank]
        sums.open(own, 14.0, 1, measure(own, sums.spec))

    in_ranks(5, rank)
    assert sorted(map(len, tails.values())) == [1, 2, 2, 2, 2]
    assert all(len(set(sent)) == 1 for sent in tails.values())


@pytest.mark.covering(0)
@pytest.mark.parametrize("protocol", ["secagg", "additive"])
def test_every_word_is_masked_up_to_the_ragged_ends(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What silos send of three vectors of zeros, in many sums: bytes as good as drawn at each position."""
    rounds, size, fill = 60, 131 + 3 * 45 + 67, EncodedContribution.fill
    sent: dict[int, list[int]] = {}
    vectors = (VectorSpec("x", 131), VectorSpec("y", 3, "exact", "uniform"), VectorSpec("z", 67))
    zeros = {one.name: np.zeros(one.size, np.float32) for one in vectors}
    case = Case(vectors, [Contribution(zeros)] * 3, [1, 1, 1], np.float32, 8)

    def spy(self: Any, first: int, last: int, out: Any, masks: Any) -> None:
        fill(self, first, last, out, masks)
        for place, word in enumerate(out.tolist(), first):
            sent.setdefault(place, []).append(word)

    monkeypatch.setattr(f"silofl.aggregation.{protocol}.compile_kernels", lambda *_, **__: None)
    monkeypatch.setattr(EncodedContribution, "fill", spy)
    outcomes(case, protocol, range(1, rounds + 1))
    assert sorted(sent) == list(range(size))
    for place, words in sent.items():
        assert len(words) == 3 * rounds, place
        assert len(set(words)) > 90, place  # of 180 drawn bytes 129 +- 5 are different
