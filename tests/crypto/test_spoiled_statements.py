"""Spoiled statements, words of small sums and claims of returning silos are refused, naming their sender."""

import json
import random

import pytest

from silofl import config as configuration
from silofl.crypto.identity import Identity
from silofl.crypto.rejoin_proof import challenge
from silofl.crypto.roster import Roster
from silofl.crypto.secagg import check_inputs, check_words, sign_words, state_inputs
from silofl.crypto.signer import Signer
from silofl.errors import ProtocolError
from silofl.federation.failure.admission import Admission
from tests.campaigns import mostly_long
from tests.crypto.harness import HEARD, INPUTS, Network, identities, make_round, random_vectors, repeatable

N = 4
HOW = ("flip", "burst", "cut", "longer", "noise", "empty", "replay", "another's", "forge")


def stages(number=1, session=None):
    context = make_round(N, number=number, **({} if session is None else {"session": session}))
    network = Network(context, random_vectors(N, 3, 16), entropy=repeatable)
    network.run("agree")
    return network.stages


def spoil(rng, how, data, replays, others, forge):
    """A message that is not the one that was sent."""
    if how == "flip":
        place = rng.randrange(8 * len(data))
        return xor(data, place // 8, 1 << place % 8)
    if how == "burst":
        for place in range(start := rng.randrange(len(data)), min(len(data), start + rng.randrange(1, 40))):
            data = xor(data, place, rng.randrange(1, 256))
        return data
    if how == "cut":
        return data[: rng.randrange(len(data))]
    if how == "longer":
        return data + rng.choice([rng.randbytes(rng.randrange(1, 70)), data, b"\0"])
    if how == "noise":
        return rng.randbytes(rng.randrange(400))
    if how in ("replay", "another's"):
        return rng.choice(replays if how == "replay" else others)
    return forge(rng) if how == "forge" else b""


def xor(data, place, mask):
    return data[:place] + bytes([data[place] ^ mask]) + data[place + 1 :]


@pytest.fixture(scope="module")
def rounds():
    """A round, the ones before and after it, and one of another session."""
    return stages(), [stages(0), stages(2), stages(session=bytes(16))]


def spoiled_words(rounds, rng):
    now, old = rounds
    sender, receiver = rng.sample(range(N), 2)
    words, at = rng.randbytes(12), rng.randrange(1000)
    data = sign_words(now[sender], at, HEARD, words)
    replays = [
        sign_words(rng.choice(old)[sender], at, HEARD, words),
        sign_words(now[sender], at + 1, HEARD, words),
        sign_words(now[sender], at, b"g" * 32, words),
    ]
    others = [sign_words(now[k], at, HEARD, words) for k in range(N) if k != sender]

    def forge(rng):
        altered = xor(words, rng.randrange(len(words)), rng.randrange(1, 256))
        return altered + rng.choice([data[len(words) :], rng.choice(others)[len(words) :]])

    spoiled = spoil(rng, how := rng.choice(HOW), data, replays, others, forge)
    return how, sender, lambda: check_words(now[receiver], sender, at, HEARD, spoiled)


def spoiled_statements(rounds, rng):
    now, old = rounds
    sender, receiver = rng.sample(range(N), 2)
    data = state_inputs(now[sender], INPUTS)
    others = [state_inputs(now[k], INPUTS) for k in range(N) if k != sender]
    replays = [state_inputs(rng.choice(old)[sender], INPUTS)]

    def forge(rng):
        altered = xor(data[:-64], rng.randrange(len(data) - 64), rng.randrange(1, 256))
        forger = rng.choice([k for k in range(N) if k != sender])
        return altered + identities(N)[forger].sign(b"silofl/2 signed message\0" + altered)

    spoiled = spoil(rng, how := rng.choice(HOW), data, replays, others, forge)
    return how, sender, lambda: check_inputs(now[receiver], INPUTS, {sender: spoiled})


@pytest.mark.covering(0)
@pytest.mark.parametrize("make", [spoiled_words, spoiled_statements])
@pytest.mark.parametrize("cases", mostly_long([400, 30_000], 0))
@pytest.mark.timeout(3600)
def test_spoiled_messages_are_refused_naming_their_sender(rounds, make, cases):
    rng, seen = random.Random(cases), set()
    for _ in range(cases):
        how, sender, take = make(rounds, rng)
        with pytest.raises(ProtocolError) as refusal:
            take()
        assert refusal.value.sender == sender
        assert f"silo {sender}" in str(refusal.value)
        seen.add(how)
    assert seen == set(HOW)


@pytest.fixture
def returning():
    """What survivors know of silo 1, as it comes back, and of another institution."""
    made = [Identity.generate() for _ in range(2)]
    roster = Roster.ephemeral([one.public for one in made])
    config = configuration.parse({"data": {"path": "own.csv"}})
    survivor, own, other = (
        Admission(config, silo, "model", "", Signer(made[silo], roster)) for silo in (0, 1, 0)
    )
    data = json.loads(json.loads(own.claim(b"s" * 48))["statement"])["data"]
    survivor.take_over({"session": (b"s" * 16).hex(), "data": ["", data], "columns": ["", ""]})
    return survivor, own, other


def meaning(claim):
    stated = json.loads(claim)
    return stated["statement"], bytes.fromhex(stated["signature"])


@pytest.mark.parametrize("cases", mostly_long([300, 30_000], 0))
@pytest.mark.timeout(3600)
def test_a_spoiled_claim_lets_nobody_in(returning, cases):
    survivor, own, other = returning
    rng, seen = random.Random(cases), set()
    for _ in range(cases):
        asked, earlier = (challenge(b"s" * 16, (1,), {0: rng.randbytes(16)}) for _ in range(2))
        claim = own.claim(asked)
        assert survivor.refusal(1, asked, claim) == ""
        stated = json.loads(claim)

        def forge(rng, stated=stated, asked=asked):
            name = rng.choice(["version", "data", "model", "roster"])
            altered = json.dumps(json.loads(stated["statement"]) | {name: "another"})
            signed = rng.choice([stated, json.loads(other.claim(asked))])["signature"]
            return json.dumps({"statement": altered, "signature": signed}).encode()

        how = rng.choice(HOW)
        spoiled = spoil(rng, how, claim, [own.claim(earlier)], [other.claim(asked)], forge)
        refused = survivor.refusal(1, asked, spoiled)
        if not refused:  # JSON and hexadecimal have many spellings: what it says is what was signed
            assert meaning(spoiled) == meaning(claim)
            continue
        seen.add(how)
    assert seen == set(HOW)
