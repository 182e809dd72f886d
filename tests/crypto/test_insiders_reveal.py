"""Steps 6 and 7: wrong shares are refused by name, and opened keys open nothing else."""

import dataclasses

import pytest

from silofl.crypto.agreement import KeyPair
from silofl.crypto.secagg import unmask
from silofl.crypto.secagg.channels import Channels
from silofl.crypto.secagg.messages import Reveal
from silofl.crypto.secret import Secret
from silofl.errors import ThresholdError
from tests.crypto.harness import Network, make_round, random_vectors
from tests.crypto.insiders import N, network_at, others, recommitted, refused, retold


def test_the_opened_mask_key_of_a_lost_silo_opens_no_sealed_shares():
    """Two key pairs: else whoever opens a lost silo's masks reads everybody's shares sealed to it."""
    network = network_at("unmask")
    party = network.stages[4].party
    assert party.mask_pair.public != party.seal_pair.public
    packet = network.sent["share"][0][4]
    participants = network.stages[0].masking.participants
    opened = dataclasses.replace(party, seal_pair=party.mask_pair)
    keys = [Channels(one, participants).box_key(0, 4) for one in (party, opened)]
    assert keys[0] != keys[1]
    assert len(packet) > 160


def test_a_dealer_whose_shares_do_not_give_its_secret_is_named():
    """The dealer commits to shares of something else: found when they are opened, and it is to blame."""
    for dies, kept in (({}, "seed"), ({2: "mask"}, "mask_pair")):
        network = Network(make_round(N), random_vectors(N, 3, 16), dies)
        network.run("share")
        stage = network.stages[2]
        honest = stage.party
        other = {"seed": Secret(b"\x05" * 32), "mask_pair": KeyPair(Secret(b"\x05" * 32))}[kept]
        stage.party = dataclasses.replace(honest, **{kept: other})
        network.sent["share"] = network.step("share", network.share)
        dealer = network.stages[2]
        dealer.party = honest
        if kept == "seed":  # it advertises a commitment to the seed that it masks with
            packets = recommitted(network, dealer, honest)
            network.sent["share"][2] = packets
        network.sent["mask"] = network.step("mask", network.mask)
        network.survivors = frozenset(network.sent["mask"])
        network.sent["agree"] = network.step("agree", network.agree)
        network.sent["reveal"] = network.step("reveal", network.reveal)
        with refused(2, "silo 2 dealt do not give the secret"):
            unmask(network.stages[0], others(network, "reveal", 0))


def test_a_wrong_revealed_share_is_named():
    network = network_at("unmask")
    reveals = others(network, "reveal", 0)
    shares = list(Reveal.decode(reveals[1], 1).shares)
    for place in range(5):
        dealer, kind, value = shares[place]
        altered = bytearray(value.expose())
        altered[-1] ^= 1
        lie = [*shares[:place], (dealer, kind, Secret(bytes(altered))), *shares[place + 1 :]]
        with refused(1, f"wrong share of silo {dealer}'s secret"):
            unmask(network.stages[0], {**reveals, 1: retold(reveals[1], 1, shares=tuple(lie))})
    del reveals[1]
    unmask(network.stages[0], reveals)  # without the liar two others are left: three shares, the threshold


def test_reveals_of_more_fewer_or_other_shares_are_refused():
    network = network_at("unmask")
    reveals = others(network, "reveal", 0)
    shares = Reveal.decode(reveals[1], 1).shares
    dealer, kind, value = shares[0]
    for lie in (
        shares[:-1],
        shares[::-1],
        (*shares, shares[0]),
        (shares[0], *shares),
        ((dealer, 3 - kind, value), *shares[1:]),
        ((dealer, kind, value), (dealer, 3 - kind, value), *shares[1:]),
        (),
    ):
        with refused(1, "other shares than the survivors call for"):
            unmask(network.stages[0], {**reveals, 1: retold(reveals[1], 1, shares=tuple(lie))})


def test_reveals_in_another_transcript_are_refused():
    network = network_at("unmask")
    reveals = others(network, "reveal", 0)
    with refused(1, "another transcript"):
        unmask(network.stages[0], {**reveals, 1: retold(reveals[1], 1, transcript=bytes(32))})


def test_too_few_reveals_void_the_round():
    network = network_at("unmask")
    with pytest.raises(ThresholdError, match="2 of the 3 shares that open silo 0's mask are left: the round"):
        unmask(network.stages[0], {1: network.sent["reveal"][1]})
