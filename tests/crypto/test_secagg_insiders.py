"""Members who sign what is not allowed, and callers who ask for too much, are refused by name."""

import copy
import dataclasses
import pickle
import struct

import pytest

from silofl.crypto.agreement import KeyPair
from silofl.crypto.graph import Bounds
from silofl.crypto.sealing import associated_data, seal, unseal
from silofl.crypto.secagg import Round, Rules, advertise, agree, mask, reveal, share, unmask
from silofl.crypto.secagg.audience import gather_audience
from silofl.crypto.secagg.messages import KEY_SHARE, SEED_SHARE, Advert, Pledge, Reveal, Vote, post
from silofl.crypto.secagg.step2_share import _box, box_key, seed_commitment, share_digest
from silofl.crypto.secret import Secret
from silofl.crypto.shamir import Share
from silofl.errors import ConfigError, ProtocolError, ThresholdError
from tests.crypto.harness import Network, identities, make_round, random_vectors, repeatable, roster

N = 5


def network_at(stop, dies=None, **rules):
    network = Network(
        make_round(N, **rules),
        random_vectors(N, 3, 16),
        {4: "mask"} if dies is None else dies,
        entropy=repeatable,
    )
    network.run(stop)
    return network


def others(network, step, receiver):
    return {s: data for s, data in network.sent[step].items() if s != receiver}


def resigned(kind, data, sender, **changes):
    """The same message with other content, signed by its sender: an insider's lie."""
    message = dataclasses.replace(kind.decode(data[:-64], sender), **changes)
    return post(message, identities(N)[sender])


def refused(sender, words):
    return _Refused(sender, words)


class _Refused:
    def __init__(self, sender, words):
        self.sender, self.inner = sender, pytest.raises(ProtocolError, match=words)

    def __enter__(self):
        self.info = self.inner.__enter__()

    def __exit__(self, *error):
        done = self.inner.__exit__(*error)
        assert self.info.value.sender == self.sender
        return done


# --- never both secrets of one silo ---------------------------------------------------------------


def test_a_second_set_of_survivors_is_refused():
    network = network_at("agree")
    stage, pledges = network.stages[0], others(network, "mask", 0)
    agreed, vote = agree(stage, {0, 1, 2, 3}, pledges)
    for second in ({0, 1, 2}, {1, 2, 3}, {0, 2, 3}):
        with pytest.raises(ProtocolError, match="already taken the step agree"):
            agree(stage, second, pledges)
    again, same = agree(stage, {3, 2, 1, 0}, pledges)
    assert again is agreed
    assert same == vote


def test_a_vote_for_other_survivors_is_refused_whoever_asks():
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
        network.stages[k], votes[k] = agree(network.stages[k], side, others(network, "mask", k))
    for k, side in sides.items():
        with pytest.raises(ProtocolError):
            reveal(network.stages[k], {s: v for s, v in votes.items() if s != k})
        same_side = {s: v for s, v in votes.items() if s != k and sides[s] == side}
        with pytest.raises(ThresholdError, match="2 silos voted in round 1 and 3 must; nothing was revealed"):
            reveal(network.stages[k], same_side)


def test_revealing_again_tells_nothing_new():
    network = network_at("reveal")
    votes = others(network, "agree", 0)
    once, twice = (reveal(network.stages[0], votes)[1] for _ in range(2))
    fewer = reveal(network.stages[0], {s: votes[s] for s in (1, 2)})[1]
    assert once == twice == fewer


def test_each_silo_reveals_one_kind_a_dealer():
    network = network_at("unmask", dies={3: "agree", 4: "mask"})
    for silo, data in network.sent["reveal"].items():
        shares = Reveal.decode(data[:-64], silo).shares
        assert [(dealer, kind) for dealer, kind, _ in shares] == [
            (0, SEED_SHARE),
            (1, SEED_SHARE),
            (2, SEED_SHARE),
            (3, SEED_SHARE),
            (4, KEY_SHARE),
        ]


def test_the_opened_mask_key_of_a_lost_silo_opens_no_sealed_shares():
    """Two key pairs: else whoever opens a lost silo's masks reads everybody's shares sealed to it."""
    network = network_at("unmask")
    party = network.stages[4].party
    assert party.mask_pair.public != party.seal_pair.public
    packet = network.sent["share"][0][4]
    audience = network.stages[0].masking.audience
    opened = dataclasses.replace(party, seal_pair=party.mask_pair)
    assert box_key(party, audience, 0, 4) != box_key(opened, audience, 0, 4)
    assert len(packet) > 160


# --- steps are taken once -------------------------------------------------------------------------


def test_steps_with_other_requests_are_refused():
    network = network_at("never")
    adverts, packets = network.sent["advertise"], network.sent["share"]
    fresh = network_at("share").stages[0]
    first = share(fresh, adverts)
    assert share(fresh, adverts) is first
    with pytest.raises(ProtocolError, match="already taken the step share"):
        share(fresh, {k: adverts[k] for k in (0, 1, 2)})
    stage = network_at("mask").stages[0]
    inbox = {k: packets[k][0] for k in (1, 2, 3, 4)}
    assert mask(stage, inbox, range(5), 3) is mask(stage, inbox, range(5), 3)
    for shared, length in ((range(4), 3), (range(5), 4)):
        with pytest.raises(ProtocolError, match="already taken the step mask"):
            mask(stage, inbox, shared, length)


@pytest.mark.parametrize("stop", ["share", "mask", "agree", "reveal", "unmask"])
def test_stages_are_not_copied(stop):
    stage = network_at(stop).stages[0]
    for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="never pickled or copied"):
            duplicate(stage)


# --- lies of insiders -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "words"),
    [("roster", "another roster"), ("config", "another configuration"), ("terms", "rules")],
)
def test_adverts_of_another_run_are_refused(field, words):
    network = network_at("share")
    adverts = network.sent["advertise"]
    lie = resigned(Advert, adverts[2], 2, **{field: b"\x01" * 32})
    with refused(2, words):
        share(network.stages[0], {**adverts, 2: lie})


def test_a_copied_public_key_is_refused():
    network = network_at("share")
    adverts = network.sent["advertise"]
    key = Advert.decode(adverts[1][:-64], 1).mask_public
    for field in ("mask_public", "seal_public"):
        with refused(2, "silos 1 and 2 advertise the same key"):
            share(network.stages[0], {**adverts, 2: resigned(Advert, adverts[2], 2, **{field: key})})


def test_a_public_key_of_small_order_is_refused():
    network = network_at("share")
    adverts = dict(network.sent["advertise"])
    adverts[2] = resigned(Advert, adverts[2], 2, seal_public=bytes(32))
    with refused(2, "gives no secret"):
        share(network.stages[0], adverts)


def test_other_shares_than_committed_are_refused():
    network = network_at("mask")
    dealer = network.stages[2]
    packet = network.sent["share"][2][0]
    public = packet[:-160]
    context = network.context
    bound = associated_data(context.session, context.number, 2, 0, public)
    key = box_key(dealer.party, dealer.audience, 2, 0)
    lie = public + seal(key, Secret(bytes(132)), bound, bytes(12))
    inbox = {k: network.sent["share"][k][0] for k in (1, 2, 3, 4)}
    with refused(2, "sealed other shares than it committed to"):
        mask(network.stages[0], {**inbox, 2: lie}, range(5), 3)


def test_shares_sealed_for_another_are_refused():
    network = network_at("mask")
    inbox = {k: network.sent["share"][k][0] for k in (1, 2, 3, 4)}
    with refused(2, "do not open"):
        mask(network.stages[0], {**inbox, 2: network.sent["share"][2][1]}, range(5), 3)


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
            packets = _recommitted(network, dealer, honest)
            network.sent["share"][2] = packets
        network.sent["mask"] = network.step("mask", network.mask)
        network.survivors = frozenset(network.sent["mask"])
        network.sent["agree"] = network.step("agree", network.agree)
        network.sent["reveal"] = network.step("reveal", network.reveal)
        with refused(2, "silo 2 dealt do not give the secret"):
            unmask(network.stages[0], others(network, "reveal", 0))


def _recommitted(network, dealer, honest):
    commitment = seed_commitment(network.context, 2, honest.seed)
    pairs = {}
    lie = dataclasses.replace(dealer.deal, seed_commitment=commitment)
    public = post(lie, identities(N)[2])
    for k, packet in network.sent["share"][2].items():
        receiver = network.stages[k]
        bound = associated_data(network.context.session, 1, 2, k, packet[:-160])
        plain = unseal(
            box_key(receiver.party, receiver.audience, 2, k), packet[-160:], bound, sender=2
        ).expose()
        pairs[k] = Share(k + 1, Secret(plain[:66])), Share(k + 1, Secret(plain[66:]))
    dealer.deal = lie
    return {k: public + _box(honest, dealer.audience, public, k, pair) for k, pair in pairs.items()}


def test_a_wrong_revealed_share_is_named():
    network = network_at("unmask")
    reveals = others(network, "reveal", 0)
    shares = list(Reveal.decode(reveals[1][:-64], 1).shares)
    for place in range(5):
        dealer, kind, value = shares[place]
        altered = bytearray(value.expose())
        altered[-1] ^= 1
        lie = [*shares[:place], (dealer, kind, Secret(bytes(altered))), *shares[place + 1 :]]
        with refused(1, f"wrong share of silo {dealer}'s secret"):
            unmask(network.stages[0], {**reveals, 1: resigned(Reveal, reveals[1], 1, shares=tuple(lie))})
    del reveals[1]
    unmask(network.stages[0], reveals)  # without the liar two others are left: three shares, the threshold


def test_reveals_of_more_fewer_or_other_shares_are_refused():
    network = network_at("unmask")
    reveals = others(network, "reveal", 0)
    shares = Reveal.decode(reveals[1][:-64], 1).shares
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
            unmask(network.stages[0], {**reveals, 1: resigned(Reveal, reveals[1], 1, shares=tuple(lie))})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"transcript": bytes(32)}, "other adverts, shares or silos"),
        ({"length": 4}, "masks 4 words of 16 bits, this silo 3 of 16"),
        ({"bits": 8}, "masks 3 words of 8 bits"),
    ],
)
def test_pledges_to_something_else_are_refused(changes, words):
    network = network_at("agree")
    pledges = others(network, "mask", 0)
    with refused(1, words):
        agree(
            network.stages[0], network.survivors, {**pledges, 1: resigned(Pledge, pledges[1], 1, **changes)}
        )


def test_votes_and_reveals_on_another_transcript_are_refused():
    network = network_at("reveal")
    votes = others(network, "agree", 0)
    with refused(1, "another transcript"):
        reveal(network.stages[0], {**votes, 1: resigned(Vote, votes[1], 1, transcript=bytes(32))})
    network = network_at("unmask")
    reveals = others(network, "reveal", 0)
    with refused(1, "another transcript"):
        unmask(network.stages[0], {**reveals, 1: resigned(Reveal, reveals[1], 1, transcript=bytes(32))})


def test_silos_that_disagree_on_who_shared_find_out_before_any_reveal():
    network = network_at("mask", dies={})
    packets = network.sent["share"]
    pledges = {}
    for k in range(5):
        shared = set(range(5)) if k else set(range(4))
        inbox = {s: packets[s][k] for s in range(5) if s != k}
        network.stages[k], _, pledges[k] = mask(network.stages[k], inbox, shared, 3)
    with refused(0, "other adverts, shares or silos"):
        agree(network.stages[1], {0, 1, 2, 3}, pledges)
    with refused(1, "other adverts, shares or silos"):
        agree(network.stages[0], {0, 1, 2, 3}, pledges)


def test_silos_that_took_other_adverts_are_found_at_once():
    network = network_at("share", dies={})
    adverts = network.sent["advertise"]
    network.stages[0], _ = share(network.stages[0], {k: adverts[k] for k in range(4)})
    _, packets = share(network.stages[1], adverts)
    inbox = {1: packets[0]}
    with refused(1, "took other adverts"):
        mask(network.stages[0], inbox, {0, 1, 2}, 3)


def test_a_silo_that_shared_nothing_cannot_survive():
    network = network_at("agree", dies={4: "share"})
    with refused(4, "cannot survive"):
        agree(network.stages[0], {0, 1, 2, 4}, others(network, "mask", 0))
    stage = network_at("mask", dies={4: "advertise"}).stages[0]
    with refused(4, "without an advert"):
        mask(stage, {}, range(5), 3)
    with pytest.raises(ProtocolError, match="not counted"):
        mask(stage, {}, {1, 2, 3}, 3)


def test_a_message_in_another_s_name_is_refused():
    network = network_at("reveal")
    votes = others(network, "agree", 0)
    lie = post(dataclasses.replace(Vote.decode(votes[2][:-64], 2), sender=1), identities(N)[2])
    with refused(2, "it says that it is from silo 1"):
        reveal(network.stages[0], {**votes, 2: lie})


# --- sizes ----------------------------------------------------------------------------------------


def test_too_few_silos_are_refused_by_number():
    with pytest.raises(ConfigError, match="needs at least three"):
        make_round(1)
    with pytest.raises(ConfigError, match=r"allow it by name with secure\.allow_two = true"):
        make_round(2)
    for threshold in (0, 1, 2, 6):
        with pytest.raises(ConfigError, match="more than half of 5"):
            make_round(5, threshold=threshold)
    assert [make_round(n).threshold for n in (3, 4, 5, 6)] == [2, 3, 3, 4]
    assert [make_round(n).minimum for n in (3, 4, 5, 6)] == [3, 3, 3, 4]
    assert make_round(3, allow_two=True).minimum == 2


def test_a_sum_over_two_survivors_of_three_is_refused():
    network = Network(make_round(3), random_vectors(3, 3, 16), {2: "mask"})
    with pytest.raises(
        ThresholdError, match=r"2 are left: a sum over two shows.*allow_two.*nothing was revealed"
    ):
        network.run()
    assert "agree" not in network.sent


def test_too_few_holders_in_a_sparse_graph_stop_the_round_before_masking():
    bounds = Bounds(colluding=0.1, dropping=0.1, security_bits=3, correctness_bits=3, complete_up_to=4)
    network = Network(make_round(20, bounds=bounds), random_vectors(20, 3, 16), entropy=repeatable)
    network.run("share")
    audience = gather_audience(network.stages[0], network.sent["advertise"])
    lost = sorted(audience.neighbours[0])[: len(audience.neighbours[0]) + 2 - audience.threshold]
    network.dies = dict.fromkeys(lost, "share")
    assert len(network.alive("share")) >= network.context.minimum
    network.sent["share"] = network.step("share", network.share)
    with pytest.raises(ThresholdError, match=r"hold shares of silo \d+ and .* needed; nothing was revealed"):
        network.sent["mask"] = network.step("mask", network.mask)


def test_too_few_reveals_void_the_round():
    network = network_at("unmask")
    with pytest.raises(ThresholdError, match="2 of the 3 shares that open silo 0's mask are left: the round"):
        unmask(network.stages[0], {1: network.sent["reveal"][1]})


def test_improper_rounds_and_parties_are_refused():
    good = make_round(4)
    for changes in (
        {"session": bytes(15)},
        {"config_digest": bytes(31)},
        {"number": -1},
        {"number": 1 << 64},
        {"members": (0, 1, 2, 4)},
        {"members": (1, 0, 2)},
        {"members": (0, 0, 1, 2)},
        {"members": ()},
    ):
        with pytest.raises(ConfigError):
            dataclasses.replace(good, **changes)
    with pytest.raises(ConfigError):
        Rules(prg="rot13")
    with pytest.raises(ConfigError):
        Rules(bits=64)
    with pytest.raises(ConfigError, match="no member"):
        advertise(make_round(4, members=(0, 1, 2)), 3, identities(4)[3])
    with pytest.raises(ConfigError, match="another public key"):
        advertise(good, 0, identities(4)[1])


def test_every_rule_is_in_the_terms():
    base = make_round(5).terms_digest
    for changed in (
        make_round(5, prg="chacha20"),
        make_round(5, bits=32),
        make_round(5, threshold=4),
        make_round(5, allow_two=True),
        make_round(5, bounds=Bounds(colluding=0.2)),
        make_round(5, bounds=Bounds(dropping=0.2)),
        make_round(5, bounds=Bounds(security_bits=41)),
        make_round(5, bounds=Bounds(correctness_bits=31)),
        make_round(5, bounds=Bounds(complete_up_to=4)),
        make_round(6, members=(0, 1, 2, 3, 5)),
    ):
        assert changed.terms_digest != base
    assert Round(bytes(16), 9, roster(5), bytes(32), tuple(range(5))).terms_digest == base


def test_share_digests_bind_all_that_they_name():
    context = make_round(4)
    part = Share(1, Secret(bytes(66)))
    digests = {
        share_digest(where, dealer, kind, one)
        for where in (context, make_round(4, number=2), make_round(4, session=bytes(16)))
        for dealer in (0, 1)
        for kind in (SEED_SHARE, KEY_SHARE)
        for one in (part, Share(2, part.value), Share(1, Secret(b"\1" + bytes(65))))
    }
    assert len(digests) == 3 * 2 * 2 * 3
    assert struct.calcsize(">QIIB") == 17
