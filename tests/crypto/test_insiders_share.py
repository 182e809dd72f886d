"""Steps 1 to 3: adverts and deals that are not allowed are refused by name."""

import pytest

from silofl.crypto.sealing import associated_data, seal
from silofl.crypto.secagg import mask, share
from silofl.crypto.secagg.messages import Advert
from silofl.crypto.secagg.participants import gather_audience
from silofl.crypto.secret import Secret
from silofl.errors import ThresholdError
from tests.crypto.harness import Network, make_round, random_vectors, repeatable
from tests.crypto.insiders import SPARSE, network_at, refused, resigned


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
    key = dealer.channels.box_key(2, 0)
    lie = public + seal(key, Secret(bytes(132)), bound, bytes(12))
    inbox = {k: network.sent["share"][k][0] for k in (1, 2, 3, 4)}
    with refused(2, "sealed other shares than it committed to"):
        mask(network.stages[0], {**inbox, 2: lie}, range(5), 3)


def test_shares_sealed_for_another_are_refused():
    network = network_at("mask")
    inbox = {k: network.sent["share"][k][0] for k in (1, 2, 3, 4)}
    with refused(2, "do not open"):
        mask(network.stages[0], {**inbox, 2: network.sent["share"][2][1]}, range(5), 3)


def test_silos_that_took_other_adverts_are_found_at_once():
    network = network_at("share", dies={})
    adverts = network.sent["advertise"]
    network.stages[0], _ = share(network.stages[0], {k: adverts[k] for k in range(4)})
    _, packets = share(network.stages[1], adverts)
    inbox = {1: packets[0]}
    with refused(1, "took other adverts"):
        mask(network.stages[0], inbox, {0, 1, 2}, 3)


def test_too_few_holders_in_a_sparse_graph_stop_the_round_before_masking():
    network = Network(make_round(20, bounds=SPARSE), random_vectors(20, 3, 16), entropy=repeatable)
    network.run("share")
    participants = gather_audience(network.stages[0], network.sent["advertise"])
    lost = sorted(participants.neighbours[0])[: len(participants.neighbours[0]) + 2 - participants.threshold]
    network.dies = dict.fromkeys(lost, "share")
    assert len(network.alive("share")) >= network.context.minimum
    network.sent["share"] = network.step("share", network.share)
    with pytest.raises(ThresholdError, match=r"hold shares of silo \d+ and .* needed; nothing was revealed"):
        network.sent["mask"] = network.step("mask", network.mask)
