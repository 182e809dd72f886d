"""A signature that answers one challenge, by one silo, with one statement, and nothing else."""

import pytest

from silofl.crypto.identity import Identity
from silofl.crypto.rejoin_proof import challenge, prove, proves
from silofl.crypto.roster import Institution, Roster
from silofl.errors import ProtocolError

OWN, OTHER = Identity.generate(), Identity.generate()
ROSTER = Roster((Institution("north", OTHER.public), Institution("south", OWN.public)))
SESSION, NONCES = b"s" * 16, {0: b"a" * 16, 2: b"b" * 16}
ASKED = challenge(SESSION, (1,), NONCES)


def test_a_silo_proves_what_it_states():
    assert proves(ROSTER, ASKED, 1, b"statement", prove(OWN, ASKED, 1, b"statement"))


@pytest.mark.parametrize(
    ("identity", "asked", "silo", "statement"),
    [
        (OTHER, ASKED, 1, b"statement"),
        (OWN, challenge(b"t" * 16, (1,), NONCES), 1, b"statement"),
        (OWN, challenge(SESSION, (1, 3), NONCES), 1, b"statement"),
        (OWN, challenge(SESSION, (1,), {0: b"a" * 16, 2: b"c" * 16}), 1, b"statement"),
        (OWN, challenge(SESSION, (1,), {0: b"a" * 16, 3: b"b" * 16}), 1, b"statement"),
        (OWN, ASKED, 0, b"statement"),
        (OWN, ASKED, 1, b"another statement"),
    ],
    ids=["another's key", "session", "silos", "an old nonce", "survivors", "silo", "statement"],
)
def test_nothing_else_does(identity, asked, silo, statement):
    assert not proves(ROSTER, ASKED, 1, b"statement", prove(identity, asked, silo, statement))


@pytest.mark.parametrize("signature", [b"", bytes(64), bytes(63)], ids=len)
def test_no_signature_is_none(signature):
    assert not proves(ROSTER, ASKED, 1, b"statement", signature)
    assert not proves(ROSTER, ASKED, 2, b"statement", signature)


def test_a_bad_nonce_names_its_silo():
    with pytest.raises(ProtocolError, match="silo 2"):
        challenge(SESSION, (1,), {0: b"a" * 16, 2: b"b"})
