"""What tests of lying members share: a round stopped before a step, and messages with other content."""

import dataclasses

import pytest

from silofl.crypto.graph import Bounds
from silofl.crypto.sealing import associated_data, unseal
from silofl.crypto.secagg.messages import Reveal, sign
from silofl.crypto.secagg.step2_share import _box, seed_commitment
from silofl.crypto.secret import Secret
from silofl.crypto.shamir import Share
from silofl.errors import ProtocolError
from tests.crypto.harness import Network, identities, make_round, random_vectors, repeatable

N, MAJORITY = 5, 3
SPARSE = Bounds(colluding=0.1, dropping=0.1, security_bits=3, correctness_bits=3, complete_up_to=4)
"""Bounds so weak that 20 silos are not all neighbours."""


def network_at(stop, dies=None, threshold=MAJORITY, **rules):
    network = Network(
        make_round(N, threshold=threshold, **rules),
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
    return sign(message, identities(N)[sender])


def retold(data, sender, **changes):
    """The same reveal with other content; it bears no signature."""
    return dataclasses.replace(Reveal.decode(data, sender), **changes).encode()


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


def recommitted(network, dealer, honest):
    commitment = seed_commitment(network.context, 2, honest.seed)
    pairs = {}
    lie = dataclasses.replace(dealer.deal, seed_commitment=commitment)
    public = lie.encode()
    for k, packet in network.sent["share"][2].items():
        receiver = network.stages[k]
        bound = associated_data(network.context.session, 1, 2, k, packet[:-160])
        plain = unseal(receiver.channels.box_key(2, k), packet[-160:], bound, sender=2).expose()
        pairs[k] = Share(k + 1, Secret(plain[:66])), Share(k + 1, Secret(plain[66:]))
    dealer.deal = lie
    return {k: public + _box(honest, dealer.channels, public, k, pair) for k, pair in pairs.items()}
