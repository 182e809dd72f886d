"""No public object shows a secret in repr, str, format or its variables, and none can be pickled."""

import copy
import pickle

import pytest

from silofl.crypto import additive
from silofl.crypto.agreement import KeyPair
from silofl.crypto.identity import Identity
from silofl.crypto.secagg import advertise, bind, mask
from silofl.crypto.secret import Secret
from silofl.crypto.shamir import split
from tests.crypto.harness import INPUTS, Network, identities, make_round, random_vectors, repeatable
from tests.crypto.secrets_seen import parts, secrets_of, secrets_shown

RAW = b"\x5a\xc3" * 16


def shown_forms(value):
    yield repr(value)
    yield str(value)
    yield f"{value}"
    yield "%s %r" % (value, value)  # noqa: UP031
    if hasattr(value, "__dict__"):
        yield str(vars(value))


def test_a_secret_shows_its_length_only():
    secret = Secret(RAW)
    for form in shown_forms(secret):
        assert not secrets_shown(form, {RAW})
    assert repr(secret) == "Secret(32 bytes)"
    assert not secrets_shown(f"{[secret]} { ({'key': secret}) }", {RAW})
    with pytest.raises(TypeError):
        vars(secret)
    with pytest.raises(TypeError):
        f"{secret:x}"


def test_the_search_finds_what_is_shown():
    for form in (RAW.hex(), RAW.hex().upper(), repr(RAW), str(int.from_bytes(RAW))):
        assert secrets_shown(f"key = {form}!", {RAW}) == [RAW]


def test_secrets_compare_and_do_not_hash():
    assert Secret(RAW) == Secret(bytearray(RAW))
    assert Secret(RAW) != Secret(RAW[:-1])
    assert Secret(RAW) != RAW
    assert len(Secret(RAW)) == 32
    with pytest.raises(TypeError):
        hash(Secret(RAW))
    with pytest.raises(TypeError):
        {Secret(RAW)}


@pytest.mark.parametrize(
    "make",
    [
        lambda: Secret(RAW),
        lambda: KeyPair(Secret(RAW)),
        lambda: Identity.from_private_bytes(RAW),
        lambda: split(Secret(RAW), 2, [1, 2])[1],
    ],
)
def test_nothing_secret_is_pickled_or_copied(make):
    value = make()
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match="never pickled"):
            pickle.dumps(value, protocol)
    for duplicate in (copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="never pickled"):
            duplicate(value)
    for form in shown_forms(value):
        assert not secrets_shown(form, {RAW})


@pytest.mark.covering(0)
@pytest.mark.parametrize("stop", ["share", "mask", "agree", "reveal", "unmask", None])
def test_nothing_in_a_round_shows_a_secret(stop):
    network = Network(make_round(4), random_vectors(4, 3, 16), {3: "mask"}, entropy=repeatable)
    network.run(stop)
    hidden = secrets_of(network) | {bytes([k]) * 32 for k in range(1, 4)}
    assert len(hidden) >= 4 * 3
    for stage in network.stages.values():
        _check_all(stage, hidden, set())


def _check_all(value, hidden, seen):
    if id(value) in seen:
        return
    seen.add(id(value))
    if not isinstance(value, int | bytes | Secret):
        for form in shown_forms(value):
            assert not secrets_shown(form, hidden), type(value)
    for part in parts(value):
        _check_all(part, hidden, seen)


def test_mask_keys_show_their_number_only():
    network = Network(make_round(4), random_vectors(4, 3, 16), entropy=repeatable)
    network.run("mask")
    masks = bind(network_mask(network), INPUTS)
    assert repr(masks) == "MaskKeys(4 of aes-128-ctr, 4 added)"
    assert not secrets_shown(repr(masks) + str(masks) + f"{masks}", set(masks.expose()))
    with pytest.raises(TypeError, match="never pickled"):
        pickle.dumps(masks)


def network_mask(network):
    packets = {s: sent[0] for s, sent in network.sent["share"].items() if s}
    return mask(network.stages[0], packets, range(4), 3)


def test_additive_stages_show_no_secret():
    context = make_round(3)
    begun = [advertise(context, k, identities(3)[k], entropy=repeatable(k)) for k in range(3)]
    adverts = {k: advert for k, (_, advert) in enumerate(begun)}
    dealt = [additive.deal(stage, adverts, (0, 1))[0] for stage, _ in begun]
    hidden = {seed.expose() for one in dealt for seed in one._seeds.values()}
    assert len(hidden) == 6
    for one in dealt:
        _check_all(one, hidden, set())
