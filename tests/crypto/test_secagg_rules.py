"""Improper rounds, parties and numbers of silos are refused; every rule is in the digests."""

import dataclasses
import struct

import pytest

from silofl.crypto.graph import Bounds
from silofl.crypto.secagg import Round, Rules, advertise
from silofl.crypto.secagg.messages import KEY_SHARE, SEED_SHARE
from silofl.crypto.secagg.step2_share import share_digest
from silofl.crypto.secret import Secret
from silofl.crypto.shamir import Share
from silofl.errors import ConfigError, ThresholdError
from tests.crypto.harness import Network, identities, make_round, random_vectors, roster


def test_too_few_silos_are_refused_by_number():
    with pytest.raises(ConfigError, match="needs at least three"):
        make_round(1)
    with pytest.raises(ConfigError, match=r"allow it by name with secure\.allow_two = true"):
        make_round(2)
    for threshold in (0, 1, 2, 6):
        with pytest.raises(ConfigError, match="more than half of 5"):
            make_round(5, threshold=threshold)
    assert [make_round(n).threshold for n in (3, 4, 5, 6, 7)] == [2, 3, 4, 4, 5]
    assert [make_round(n).minimum for n in (3, 4, 5, 6, 7)] == [3, 3, 4, 4, 5]
    assert make_round(3, allow_two=True).minimum == 2


def test_a_sum_over_two_survivors_of_three_is_refused():
    network = Network(make_round(3), random_vectors(3, 3, 16), {2: "mask"})
    with pytest.raises(
        ThresholdError, match=r"2 are left: a sum over two shows.*allow_two.*nothing was revealed"
    ):
        network.run()
    assert "agree" not in network.sent


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
        make_round(5, threshold=3),
        make_round(5, allow_two=True),
        make_round(5, bounds=Bounds(colluding=0.2)),
        make_round(5, bounds=Bounds(dropping=0.2)),
        make_round(5, bounds=Bounds(security_bits=41)),
        make_round(5, bounds=Bounds(correctness_bits=31)),
        make_round(5, bounds=Bounds(complete_up_to=4)),
        make_round(6, members=(0, 1, 2, 3, 5)),
        dataclasses.replace(make_round(5), matter=b"\1"),
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
