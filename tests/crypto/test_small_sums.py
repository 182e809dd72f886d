"""Masks of small sums cancel over exactly the silos they are for, and opened keys do not give them."""

import dataclasses

import numpy as np
import pytest

from silofl.crypto.agreement import KeyPair
from silofl.crypto.secagg import bind, small_keys
from silofl.crypto.secagg.channels import Channels
from silofl.errors import ProtocolError, ThresholdError
from tests.crypto.harness import HEARD, INPUTS, Network, make_round, random_vectors, repeatable
from tests.crypto.insiders import SPARSE, network_at, refused
from tests.crypto.naive import DTYPES, mask_words

LENGTH = 40


def hidden(network, silo, among):
    masks = small_keys(network.stages[silo], among, HEARD)
    return network.vectors[silo] + mask_words(masks, 16, LENGTH)


def masking_round(n, dies=None, **rules):
    network = Network(make_round(n, **rules), random_vectors(n, LENGTH, 16), dies or {}, entropy=repeatable)
    network.run("agree")
    return network


@pytest.mark.parametrize(
    ("n", "among", "rules"),
    [
        (4, range(4), {}),
        (5, (0, 1, 2, 4), {}),
        (5, (1, 3, 4), {"threshold": 3}),
        (20, range(20), {"bounds": SPARSE}),
        (20, [k for k in range(20) if k not in (3, 11)], {"bounds": SPARSE}),
    ],
)
def test_small_masks_cancel_over_their_silos_only(n, among, rules):
    network = masking_round(n, **rules)
    rows = {k: hidden(network, k, among) for k in among}
    plain = sum((network.vectors[k] for k in among), np.zeros(LENGTH, DTYPES[16]))
    np.testing.assert_array_equal(sum(rows.values(), np.zeros(LENGTH, DTYPES[16])), plain)
    for absent in among:
        part = sum((row for k, row in rows.items() if k != absent), np.zeros(LENGTH, DTYPES[16]))
        assert np.mean(part == plain - network.vectors[absent]) < 0.1


def test_small_masks_outlive_an_opened_mask_key():
    """All that a reveal opens of a lost silo is its mask key: it gives none of the small sums' keys."""
    network = masking_round(4, {3: "mask"})
    keys = set(small_keys(network.stages[0], range(4), HEARD).expose())
    lost = network.stages[3].party
    opened = dataclasses.replace(lost, seal_pair=KeyPair(lost.mask_pair.private))
    channels = Channels(opened, network.stages[0].participants)
    assert Channels(lost, network.stages[0].participants).small_key(0, HEARD).expose() in keys
    assert channels.small_key(0, HEARD).expose() not in keys
    vector_keys = bind(network.stages[0], INPUTS)
    assert not keys & set(vector_keys.expose())


def test_each_pair_of_silos_agrees_once(monkeypatch):
    """One X25519 agreement a peer and a pair of keys: for boxes both ways and small sums, and for masks."""
    calls, agreed = [], KeyPair.agree
    monkeypatch.setattr(KeyPair, "agree", lambda *args, **named: calls.append(1) or agreed(*args, **named))
    network = masking_round(4)
    for k in range(4):
        small_keys(network.stages[k], range(4), HEARD)
    assert len(calls) == 2 * 4 * 3


def test_improper_small_sums_are_refused():
    network = network_at("agree", dies={4: "share"})
    stage = network.stages[0]
    with pytest.raises(ProtocolError, match="silo 0 is not among the silos"):
        small_keys(stage, (1, 2, 3), HEARD)
    with refused(4, "in which it shared nothing"):
        small_keys(stage, range(5), HEARD)
    with pytest.raises(ThresholdError, match="needs 3 silos and 2 are in a small sum"):
        small_keys(stage, (0, 1), HEARD)
    sparse = masking_round(20, bounds=SPARSE)
    participants = sparse.stages[0].participants
    lost = sorted(participants.neighbours[0])[: len(participants.holders[0]) - participants.threshold + 1]
    left = [k for k in range(20) if k not in lost]
    assert len(left) >= sparse.context.minimum
    with pytest.raises(ThresholdError, match=r"hold shares of silo \d+"):
        small_keys(sparse.stages[0], left, HEARD)
