"""Additive sharing: the exact sum, slice by slice, for every committee; improper messages refused by name."""

import numpy as np
import pytest

from silofl.crypto import additive
from silofl.crypto.secagg import advertise, share
from silofl.errors import ConfigError, ProtocolError, ThresholdError
from tests.crypto.harness import identities, make_round, plain_sum, random_vectors, repeatable
from tests.crypto.naive import DTYPES, mask_words


def begin(context, n):
    begun = {k: advertise(context, k, identities(n)[k], entropy=repeatable(k)) for k in range(n)}
    return {k: stage for k, (stage, _) in begun.items()}, {k: advert for k, (_, advert) in begun.items()}


def dealt_round(n, committee, **rules):
    context = make_round(n, **rules)
    stages, adverts = begin(context, n)
    dealt = {k: additive.deal(stages[k], adverts, committee) for k in range(n)}
    return {k: stage for k, (stage, _) in dealt.items()}, {k: packets for k, (_, packets) in dealt.items()}


def inbox_of(packets, member):
    return {k: sent[member] for k, sent in packets.items() if k != member}


@pytest.mark.parametrize("bits", [8, 16, 32])
@pytest.mark.parametrize(
    ("n", "committee"), [(3, (0, 1, 2)), (3, (0, 2)), (5, (1, 3, 4)), (6, (0, 1, 2, 3, 4, 5))]
)
def test_the_sum_is_exact(bits, n, committee):
    length = 4 * len(committee) + 3  # slices of unequal lengths
    vectors = random_vectors(n, length, bits)
    stages, packets = dealt_round(n, committee, bits=bits, prg="chacha20")
    members = {k: additive.receive_seeds(stages[k], inbox_of(packets, k)) for k in committee}
    slices = dict(zip(committee, np.array_split(np.arange(length), len(committee)), strict=True))
    for owner, place in slices.items():
        total = np.zeros(len(place), DTYPES[bits])
        for k in range(n):
            total += (vectors[k] + mask_words(stages[k].residual_keys(owner), bits, length))[place]
        for member in committee:
            if member != owner:
                total += mask_words(members[member].total_keys(owner), bits, length)[place]
        np.testing.assert_array_equal(total, plain_sum(vectors, range(n))[place])


def test_residuals_take_a_seed_of_every_other_member():
    """Without any one member's seed a residual stays masked: m - 1 members learn nothing."""
    stages, packets = dealt_round(4, (0, 1, 2, 3))
    members = {k: additive.receive_seeds(stages[k], inbox_of(packets, k)) for k in range(4)}
    for owner in range(4):
        for silo in range(4):
            residual = stages[silo].residual_keys(owner)
            assert set(residual.signs) == {-1}
            known = {key for m in range(4) if m != owner for key in members[m].total_keys(owner).expose()}
            assert len(residual) == 3
            assert set(residual.expose()) <= known
            for absent in range(4):
                if absent != owner:
                    rest = {
                        key
                        for m in range(4)
                        if m not in (owner, absent)
                        for key in members[m].total_keys(owner).expose()
                    }
                    assert len(set(residual.expose()) - rest) == 1


def test_spoiled_packets_are_refused_naming_their_sender():
    stages, packets = dealt_round(3, (0, 1, 2))
    inbox = inbox_of(packets, 0)
    later, _ = dealt_round(3, (0, 1, 2), prg="chacha20")
    other_committee = inbox_of(dealt_round(3, (0, 1))[1], 0)
    data = inbox[1]
    spoiled = [data[:-1], data + b"\0", data[:50], inbox[2], packets[1][2], other_committee[1], b"x"]
    spoiled += [data[:k] + bytes([data[k] ^ 1]) + data[k + 1 :] for k in range(len(data))]
    for one in spoiled:
        with pytest.raises(ProtocolError) as refusal:
            additive.receive_seeds(stages[0], {**inbox, 1: one})
        assert refusal.value.sender == 1
    assert later[0].committee == (0, 1, 2)
    with pytest.raises(ThresholdError, match="silo 2 is missing, and the additive protocol recovers from no"):
        additive.receive_seeds(stages[0], {1: data})


def test_seeds_dealt_over_other_adverts_are_refused():
    """Silo 2 signs two adverts and shows each member another: the members notice at once."""
    context = make_round(3)
    stages, adverts = begin(context, 3)
    _, second = advertise(context, 2, identities(3)[2], entropy=repeatable(9))
    dealt, _ = additive.deal(stages[0], adverts, (0, 1))
    _, packets = additive.deal(stages[1], {**adverts, 2: second}, (0, 1))
    with pytest.raises(ProtocolError, match="deals over other adverts") as refusal:
        additive.receive_seeds(dealt, {1: packets[0], 2: b"x"})
    assert refusal.value.sender == 1


def test_a_missing_silo_is_refused():
    context = make_round(4)
    stages, adverts = begin(context, 4)
    del adverts[3]
    with pytest.raises(ThresholdError, match="silo 3 is missing"):
        additive.deal(stages[0], adverts, (0, 1, 2))


def test_improper_requests_are_refused():
    context = make_round(4)
    stages, adverts = begin(context, 4)
    for committee in ((), (1,), (1, 1), (0, 9)):
        with pytest.raises(ConfigError, match="two or more"):
            additive.deal(stages[0], adverts, committee)
    dealt, _ = additive.deal(stages[0], adverts, (1, 2))
    with pytest.raises(ProtocolError, match="no member of the committee"):
        additive.receive_seeds(dealt, {})
    with pytest.raises(ProtocolError, match="no member of the committee"):
        dealt.residual_keys(3)
    with pytest.raises(ProtocolError, match="already taken"):
        additive.deal(stages[0], adverts, (1, 3))
    with pytest.raises(ProtocolError, match="already taken"):
        share(stages[0], adverts)
    stages, packets = dealt_round(3, (0, 1))
    member = additive.receive_seeds(stages[0], inbox_of(packets, 0))
    with pytest.raises(ProtocolError, match="adds residuals to its own slice"):
        member.total_keys(0)
