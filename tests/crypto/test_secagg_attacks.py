"""Forged, replayed, duplicated, truncated and altered messages are refused, naming their sender."""

import random
import traceback

import pytest

from silofl.crypto.framing import HEADER
from silofl.crypto.secagg import mask, reveal, share, unmask
from silofl.errors import ProtocolError
from tests.crypto.harness import (
    SESSION,
    Network,
    identities,
    make_round,
    plain_sum,
    random_vectors,
    remember_verifications,
    repeatable,
)
from tests.crypto.secrets_seen import secrets_of, secrets_shown

N = 4
TAKES = {  # the step that takes messages: the step that sent them
    "share": "advertise",
    "mask": "share",
    "reveal": "agree",
    "unmask": "reveal",
}


def record(stop, number=1, session=SESSION):
    """A round in which everybody is about to take the step `stop`; the same messages in every recording."""
    network = Network(
        make_round(N, number=number, session=session),
        random_vectors(N, 3, 16),
        {3: "mask"},
        entropy=repeatable,
    )
    network.run(stop)
    return network


def inbox_of(network, step, receiver):
    sent = network.sent[TAKES[step]]
    if step == "mask":
        return {s: packets[receiver] for s, packets in sent.items() if s != receiver}
    return {s: data for s, data in sent.items() if s != receiver}


def take(network, step, receiver, inbox):
    """The step, untaken as yet: a refused one leaves the stage as it was."""
    stage = network.stages[receiver]
    if step == "share":
        return share(stage, inbox)
    if step == "mask":
        return mask(stage, inbox, set(network.sent["share"]), network.length)
    return reveal(stage, inbox) if step == "reveal" else unmask(stage, inbox)


@pytest.fixture(scope="module")
def recordings():
    now = {step: record(step) for step in TAKES}
    old = [record("unmask", number=0), record("unmask", number=2), record("unmask", session=bytes(16))]
    return now, old


def spoil(rng, step, sender, receiver, now, old):
    """A spoiled version of what `sender` sent to `receiver`, and how it was spoiled."""
    inbox = inbox_of(now, step, receiver)
    data = inbox[sender]
    how = rng.choice(
        ["flip", "flip", "burst", "cut", "longer", "replay", "copy", "kind", "forge", "noise", "empty"]
    )
    if how == "flip":
        place = rng.randrange(8 * len(data))
        data = _xor(data, place // 8, 1 << place % 8)
    elif how == "burst":
        start = rng.randrange(len(data))
        stop = min(len(data), start + rng.randrange(1, 40))
        data = data[:start] + bytes(byte ^ rng.randrange(1, 256) for byte in data[start:stop]) + data[stop:]
    elif how == "cut":
        data = data[: rng.randrange(len(data))]
    elif how == "longer":
        data += rng.choice([rng.randbytes(rng.randrange(1, 70)), data, b"\0"])
    elif how == "replay":
        data = inbox_of(rng.choice(old), step, receiver)[sender]
    elif how == "copy":
        data = inbox[rng.choice([s for s in inbox if s != sender])]
    elif how == "kind":
        other = rng.choice([one for one in TAKES if one != step and TAKES[one] in now.sent] or ["share"])
        data = inbox_of(now, other, receiver).get(sender, b"") if other != step else b""
    elif how == "forge":
        data = _forged(rng, step, data, sender)
    else:
        data = rng.randbytes(rng.randrange(400)) if how == "noise" else b""
    return data, how


def _xor(data, place, mask_byte):
    return data[:place] + bytes([data[place] ^ mask_byte]) + data[place + 1 :]


def _forged(rng, step, data, sender):
    """Altered in `sender`'s name: a deal beside the true box, told shares, or another's signature."""
    behind = {"mask": 160, "unmask": 0}.get(step, 64)  # box, nothing, signature
    content, rest = data[: len(data) - behind], data[len(data) - behind :]
    altered = _xor(content, rng.randrange(HEADER.size, len(content)), rng.randrange(1, 256))
    if step in ("mask", "unmask"):
        return altered + rest
    forger = rng.choice([k for k in range(N) if k != sender])
    return altered + identities(N)[forger].sign(b"silofl/2 signed message\0" + altered)


def fuzz(recordings, cases, seed):
    now, old = recordings
    rng = random.Random(seed)
    hidden = set().union(*(secrets_of(network) for network in now.values()))
    kinds = set()
    for _ in range(cases):
        step = rng.choice(list(TAKES))
        network = now[step]
        receiver = rng.choice(
            network.alive("agree" if step in ("reveal", "unmask") else step if step != "share" else "share")
        )
        inbox = inbox_of(network, step, receiver)
        sender = rng.choice(list(inbox))
        spoiled, how = spoil(rng, step, sender, receiver, network, old)
        with pytest.raises(ProtocolError) as refusal:
            take(network, step, receiver, {**inbox, sender: spoiled})
        assert refusal.value.sender == sender, (step, how, str(refusal.value))
        assert f"silo {sender}" in str(refusal.value)
        text = (
            "".join(traceback.format_exception(refusal.value))
            + repr(refusal.value)
            + repr(refusal.value.args)
        )
        assert not secrets_shown(text, hidden)
        kinds.add((step, how))
    return kinds


def test_spoiled_messages_are_refused_naming_their_sender(recordings, monkeypatch):
    remember_verifications(monkeypatch)
    kinds = fuzz(recordings, 1000, seed=1)
    assert len(kinds) == 4 * 10  # every way of spoiling at every step


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_hundred_thousand_spoiled_messages(recordings, monkeypatch):
    remember_verifications(monkeypatch)
    fuzz(recordings, 100_000, seed=2)


def test_every_bit_of_every_message_counts(monkeypatch):
    remember_verifications(monkeypatch)
    for step in ("reveal", "unmask"):  # votes and told shares; the fuzzing draws from the others
        network = record(step)
        inbox = inbox_of(network, step, 0)
        for place in range(8 * len(inbox[1])):
            spoiled = _xor(inbox[1], place // 8, 1 << place % 8)
            with pytest.raises(ProtocolError) as refusal:
                take(network, step, 0, {**inbox, 1: spoiled})
            assert refusal.value.sender == 1


@pytest.mark.parametrize("step", TAKES)
def test_after_a_refusal_the_round_goes_on(step):
    """The same stage takes the right messages afterwards, and the sum is exact."""
    network = record(step)
    for receiver in network.alive("agree" if step in ("reveal", "unmask") else step):
        inbox = inbox_of(network, step, receiver)
        sender = min(inbox)
        with pytest.raises(ProtocolError):
            take(network, step, receiver, {**inbox, sender: _xor(inbox[sender], 40, 1)})
        take(network, step, receiver, inbox)
    whole = Network(network.context, network.vectors, network.dies, entropy=repeatable)
    for result in whole.run().values():
        assert (result == plain_sum(network.vectors, range(3))).all()


def test_strangers_are_refused():
    network = record("share")
    outsider = Network(make_round(5, members=(0, 1, 2, 3, 4)), random_vectors(5, 3, 16))
    outsider.run("share")
    inbox = inbox_of(network, "share", 0)
    with pytest.raises(ProtocolError, match="silo 4 is no member of round 1") as refusal:
        take(network, "share", 0, {**inbox, 4: outsider.sent["advertise"][4]})
    assert refusal.value.sender == 4
    with pytest.raises(ProtocolError, match="own advert came back altered"):
        take(network, "share", 0, {**inbox, 0: inbox[1]})
    for step, words in (("reveal", "without having shared"), ("unmask", "without having shared")):
        network = record(step)
        with pytest.raises(ProtocolError, match=words) as refusal:
            take(network, step, 0, {**inbox_of(network, step, 0), 9: b"x"})
        assert refusal.value.sender == 9


def test_a_missing_packet_names_its_silo():
    network = record("mask")
    inbox = inbox_of(network, "mask", 0)
    del inbox[2]
    with pytest.raises(ProtocolError, match="silo 2"):
        take(network, "mask", 0, inbox)
