"""Steps 5 and 6: never both secrets of one silo, and nothing is told before all saw the same round."""

import dataclasses

import numpy as np
import pytest

from silofl.crypto.identity import SIGNATURE_BYTES
from silofl.crypto.secagg import SumInputs, agree, bind, mask, reveal
from silofl.crypto.secagg.messages import KEY_SHARE, SEED_SHARE, Reveal, Vote, sign
from silofl.crypto.secret import Secret
from silofl.errors import ProtocolError, ThresholdError
from tests.crypto.harness import (
    HEARD,
    INPUTS,
    Network,
    identities,
    make_round,
    random_vectors,
    repeatable,
)
from tests.crypto.insiders import SPARSE, N, network_at, others, recommitted, refused, resigned


def test_a_second_set_of_survivors_is_refused():
    network = network_at("agree")
    stage = network.stages[0]
    agreed, vote = agree(stage, {0, 1, 2, 3}, HEARD)
    for second in ({0, 1, 2}, {1, 2, 3}, {0, 2, 3}):
        with pytest.raises(ProtocolError, match="already taken the step agree"):
            agree(stage, second, HEARD)
    again, same = agree(stage, {3, 2, 1, 0}, HEARD)
    assert again is agreed
    assert same == vote


def test_a_vote_for_other_survivors_is_refused_from_any_silo():
    network = network_at("reveal")
    votes = others(network, "agree", 0)
    for silo in (1, 2, 3):
        lie = resigned(Vote, votes[silo], silo, survivors=frozenset({0, 1, 2}))
        with refused(silo, "both would open both secrets"):
            reveal(network.stages[0], {**votes, silo: lie})


def test_a_split_vote_opens_nothing():
    """Half agreed on one set and half on another: no side has a majority, whatever is left out."""
    network = network_at("agree", dies={})
    first, second = frozenset(range(5)), frozenset({0, 1, 2, 3})
    sides, votes = {0: first, 1: first, 2: second, 3: second}, {}
    for k, side in sides.items():
        network.stages[k], votes[k] = agree(network.stages[k], side, HEARD)
    for k, side in sides.items():
        with pytest.raises(ProtocolError):
            reveal(network.stages[k], {s: v for s, v in votes.items() if s != k})
        same_side = {s: v for s, v in votes.items() if s != k and sides[s] == side}
        with pytest.raises(ThresholdError, match="2 silos voted in round 1 and 3 must; nothing was revealed"):
            reveal(network.stages[k], same_side)


@pytest.mark.parametrize("threshold", [3, None])
def test_one_double_voter_and_a_split_network_open_both_secrets_at_a_bare_majority_alone(threshold):
    """Silo 0 votes on either side of a network of five; half of the others hears one vote, half the other."""
    network = network_at("agree", dies={}, threshold=threshold)
    whole, less = frozenset(range(N)), frozenset(range(N)) - {4}
    told = []
    for side, survivors in (((1, 2), whole), ((3, 4), less)):
        agreed = {k: agree(network.stages[k], survivors, HEARD) for k in side}
        honest = Vote.decode(agreed[side[0]][1][:-SIGNATURE_BYTES], side[0])
        lie = sign(dataclasses.replace(honest, sender=0), identities(N)[0])
        votes = {k: vote for k, (_, vote) in agreed.items()} | {0: lie}
        for k in side:
            heard = {s: vote for s, vote in votes.items() if s != k}
            if threshold is None:
                with pytest.raises(ThresholdError, match="3 silos voted in round 1 and 4 must; nothing was"):
                    reveal(agreed[k][0], heard)
            else:
                told += Reveal.decode(reveal(agreed[k][0], heard)[1], k).shares
    kinds = [kind for dealer, kind, _ in told if dealer == 4]
    assert kinds == ([] if threshold is None else [SEED_SHARE, SEED_SHARE, KEY_SHARE, KEY_SHARE])
    # With silo 0's own shares of either kind, that is three of each: both secrets of silo 4 are open.


def test_revealing_again_tells_nothing_new():
    network = network_at("reveal")
    votes = others(network, "agree", 0)
    once, twice = (reveal(network.stages[0], votes)[1] for _ in range(2))
    fewer = reveal(network.stages[0], {s: votes[s] for s in (1, 2)})[1]
    assert once == twice == fewer


def test_each_silo_reveals_one_kind_a_dealer():
    network = network_at("unmask", dies={3: "agree", 4: "mask"})
    for silo, data in network.sent["reveal"].items():
        shares = Reveal.decode(data, silo).shares
        assert [(dealer, kind) for dealer, kind, _ in shares] == [
            (0, SEED_SHARE),
            (1, SEED_SHARE),
            (2, SEED_SHARE),
            (3, SEED_SHARE),
            (4, KEY_SHARE),
        ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"transcript": bytes(32)}, "other adverts, shares or silos"),
        ({"length": 4}, "masked 4 words of 16 bits, this silo 3 of 16"),
        ({"bits": 8}, "masked 3 words of 8 bits"),
    ],
)
def test_votes_on_something_else_are_refused(changes, words):
    network = network_at("reveal")
    votes = others(network, "agree", 0)
    with refused(1, words):
        reveal(network.stages[0], {**votes, 1: resigned(Vote, votes[1], 1, **changes)})


def test_silos_that_disagree_on_who_shared_find_out_before_any_reveal():
    network = network_at("mask", dies={})
    packets = network.sent["share"]
    votes = {}
    for k in range(5):
        shared = set(range(5)) if k else set(range(4))
        inbox = {s: packets[s][k] for s in range(5) if s != k}
        masking = mask(network.stages[k], inbox, shared, 3)
        bind(masking, INPUTS)
        network.stages[k], votes[k] = agree(masking, {0, 1, 2, 3}, HEARD)
    for silo, other in ((1, 0), (0, 1)):
        with refused(other, "other adverts, shares or silos"):
            reveal(network.stages[silo], votes)


def test_a_dealer_who_tells_everybody_something_else_is_found_before_any_reveal():
    """The boxes open and are in order each for itself; the votes show that the deals were not the same."""
    network = network_at("mask", dies={})
    dealer = network.stages[2]
    other_seed = dataclasses.replace(dealer.party, seed=Secret(b"\x05" * 32))
    network.sent["share"][2][0] = recommitted(network, dealer, other_seed)[0]
    network.sent["mask"] = network.step("mask", network.mask)
    network.survivors = frozenset(range(5))
    network.sent["agree"] = network.step("agree", network.agree)
    for silo, other in ((0, 1), (1, 0)):
        with refused(other, "other adverts, shares or silos"):
            reveal(network.stages[silo], {other: network.sent["agree"][other]})


def test_a_deal_altered_for_a_silo_without_a_box_is_found_at_the_vote():
    """A silo that is no neighbour of the dealer has its deal without a box; the transcripts differ by it."""
    network = Network(make_round(20, bounds=SPARSE), random_vectors(20, 3, 16), entropy=repeatable)
    network.run("mask")
    neighbours = network.stages[0].participants.neighbours
    far = min(set(range(1, 20)) - neighbours[0])
    packet = network.sent["share"][0][far]
    network.sent["share"][0][far] = packet[:-1] + bytes([packet[-1] ^ 1])
    network.sent["mask"] = network.step("mask", network.mask)
    network.survivors = frozenset(range(20))
    network.sent["agree"] = network.step("agree", network.agree)
    for silo in sorted(set(range(20)) - {far}):
        with refused(far, "other adverts, shares or silos"):
            reveal(network.stages[silo], others(network, "agree", silo))
    with refused(0, "other adverts, shares or silos"):
        reveal(network.stages[far], others(network, "agree", far))


def test_a_silo_that_shared_nothing_cannot_survive():
    network = network_at("agree", dies={4: "share"})
    with refused(4, "cannot survive"):
        agree(network.stages[0], {0, 1, 2, 4}, HEARD)
    stage = network_at("mask", dies={4: "advertise"}).stages[0]
    with refused(4, "without an advert"):
        mask(stage, {}, range(5), 3)
    with pytest.raises(ProtocolError, match="not counted"):
        mask(stage, {}, {1, 2, 3}, 3)


def test_a_message_in_another_s_name_is_refused():
    network = network_at("reveal")
    votes = others(network, "agree", 0)
    lie = sign(dataclasses.replace(Vote.decode(votes[2][:-64], 2), sender=1), identities(N)[2])
    with refused(2, "it says that it is from silo 1"):
        reveal(network.stages[0], {**votes, 2: lie})


ANOTHER = bytes([9]) * 32
OTHERS = {
    "global model": dataclasses.replace(INPUTS, model=ANOTHER),
    "terms of the sum": dataclasses.replace(INPUTS, terms=ANOTHER),
    "total of sample counts": dataclasses.replace(INPUTS, weights=ANOTHER),
    "ranges": dataclasses.replace(INPUTS, ranges=ANOTHER),
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_sum_that_something_else_decides_for_one_silo_stays_closed(what):
    network = Network(make_round(N), random_vectors(N, 3, 16), inputs={3: OTHERS[what]})
    network.run("reveal")
    for silo, other in ((0, 3), (3, 0)):
        with refused(other, f"were given different {what}"):
            reveal(network.stages[silo], others(network, "agree", silo))


def test_small_sums_that_were_changed_for_one_silo_are_refused():
    network = network_at("agree", dies={})
    votes = {}
    for k in range(N):
        network.stages[k], votes[k] = agree(network.stages[k], set(range(N)), HEARD if k else ANOTHER)
    with refused(0, "different words of the small sums"):
        reveal(network.stages[1], {s: v for s, v in votes.items() if s != 1})


def test_a_sum_is_noise_to_those_from_whom_the_odd_silo_s_vote_is_kept():
    """Who hides the votes that differ still opens nothing: masks depend on what decides the sum."""
    vectors = {k: np.zeros(4000, np.uint16) for k in range(N)}
    network = Network(make_round(N), vectors, inputs={3: OTHERS["ranges"]})
    network.run("reveal")
    for k in (0, 1, 2, 4):
        votes = {s: v for s, v in network.sent["agree"].items() if s not in (k, 3)}
        network.stages[k], network.sent.setdefault("reveal", {})[k] = reveal(network.stages[k], votes)
    total = sum(network.masked.values(), np.zeros(4000, np.uint16))
    opened = network.unmask(0, total)
    counts = np.bincount(opened.view(np.uint8), minlength=256)
    assert 150 < ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 400


def test_a_round_is_bound_once():
    network = Network(make_round(N), random_vectors(N, 3, 16))
    network.run("agree")
    stage = network.stages[0]
    assert bind(stage, INPUTS).expose() == bind(stage, INPUTS).expose()
    with pytest.raises(ProtocolError, match="masked for other inputs"):
        bind(stage, SumInputs())


def test_nobody_votes_for_a_sum_that_nothing_decides():
    network = Network(make_round(N), random_vectors(N, 3, 16))
    network.run("mask")
    packets = {s: sent[0] for s, sent in network.sent["share"].items() if s}
    with pytest.raises(RuntimeError, match="is bound to what decides it"):
        agree(mask(network.stages[0], packets, range(N), 3), range(N), HEARD)
