"""Every message is the same after encode and decode, in one form only; every key knows its whole context."""

import struct

import pytest

from silofl.crypto.masks import PRG_KEY_BYTES, MaskKeys, mask_key
from silofl.crypto.sealing import associated_data, seal, sealing_key, unseal
from silofl.crypto.secagg.inputs import SumInputs
from silofl.crypto.secagg.messages import (
    KEY_SHARE,
    SEED_SHARE,
    Advert,
    Deal,
    Reveal,
    SeedDeal,
    Statement,
    Vote,
    receive_signed,
)
from silofl.crypto.secret import Secret
from silofl.errors import ProtocolError
from tests.crypto.harness import INPUTS, make_round

HEAD = (bytes(range(16)), 7, 3)
MESSAGES = [
    Advert(*HEAD, *(bytes([k]) * 32 for k in range(5))),
    Deal(*HEAD, bytes(32), b"\1" * 32, ((0, b"a" * 16, b"b" * 16), (70000, b"c" * 16, b"d" * 16))),
    Deal(*HEAD, bytes(32), b"\1" * 32, ()),
    Vote(*HEAD, b"\3" * 32, 16, 2**40, frozenset({0, 2, 300}), INPUTS, b"\6" * 32),
    Vote(*HEAD, b"\3" * 32, 8, 0, frozenset(), SumInputs(), bytes(32)),
    Reveal(*HEAD, b"\4" * 32, ((0, SEED_SHARE, Secret(b"x" * 66)), (1, KEY_SHARE, Secret(b"y" * 66)))),
    SeedDeal(*HEAD, b"\5" * 32, frozenset({1, 2})),
    Statement(*HEAD, b"\7" * 32, INPUTS, b"\6" * 32),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda one: type(one).__name__)
def test_messages_survive_the_wire_in_one_form_only(message):
    data = message.encode()
    kind = type(message)
    assert kind.decode(data, 3) == message
    assert kind.decode(data, 3).encode() == data
    for length in range(len(data)):
        with pytest.raises(ProtocolError, match="silo 5") as refusal:
            kind.decode(data[:length], 5)
        assert refusal.value.sender == 5
    with pytest.raises(ProtocolError, match="1 bytes too many"):
        kind.decode(data + b"\0", 5)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda one: type(one).__name__)
def test_other_versions_and_kinds_are_refused(message):
    data, kind = message.encode(), type(message)
    for altered in (b"XFL" + data[3:], data[:3] + b"\1" + data[4:]):
        with pytest.raises(ProtocolError, match="not in version 2 of the protocol"):
            kind.decode(altered, 5)
    with pytest.raises(ProtocolError, match=f"kind 9 where kind {kind.KIND} is due"):
        kind.decode(data[:4] + b"\x09" + data[5:], 5)


def test_the_documented_layout():
    """Independent of the code: deal and vote, byte by byte as docs/protocol.md has them."""
    header = b"SFL" + struct.pack(">BB", 2, 3) + bytes(range(16)) + struct.pack(">QI", 7, 3)
    assert len(header) == 33
    bitmap = bytes([0b101]) + bytes(36) + bytes([1 << (300 - 296)])
    voted = b"\3" * 32 + struct.pack(">BQ", 16, 2**40) + b"\0\x26" + bitmap
    decided = b"".join(bytes([200 + k]) * 32 for k in range(4)) + b"\6" * 32
    assert MESSAGES[3].encode() == header + voted + decided
    rows = struct.pack(">HI", 2, 0) + b"a" * 16 + b"b" * 16 + struct.pack(">I", 70000) + b"c" * 16 + b"d" * 16
    assert MESSAGES[1].encode() == header[:4] + b"\2" + header[5:] + bytes(32) + b"\1" * 32 + rows


def test_every_mask_key_knows_its_context():
    secret, keys = Secret(b"s" * 32), []
    for prg, purpose, session, number, silos, salt in (
        ("aes-128-ctr", "pair mask", bytes(16), 1, (0, 1), b""),
        ("aes-256-ctr", "pair mask", bytes(16), 1, (0, 1), b""),
        ("chacha20", "pair mask", bytes(16), 1, (0, 1), b""),
        ("chacha20", "self mask", bytes(16), 1, (0, 1), b""),
        ("chacha20", "pair mask", b"\1" + bytes(15), 1, (0, 1), b""),
        ("chacha20", "pair mask", bytes(16), 2, (0, 1), b""),
        ("chacha20", "pair mask", bytes(16), 1, (0, 2), b""),
        ("chacha20", "pair mask", bytes(16), 1, (1, 0), b""),
        ("chacha20", "pair mask", bytes(16), 1, (0,), b""),
        ("chacha20", "pair mask", bytes(16), 1, (0, 1), b"salt"),
    ):
        key = mask_key(prg, secret, purpose, session, number, *silos, salt=salt)
        assert len(key) == PRG_KEY_BYTES[prg]
        keys.append(key.expose()[:16])
    assert len(set(keys)) == len(keys)
    assert len(MaskKeys("chacha20", (), ())) == 0


def test_every_box_knows_its_context():
    base = (bytes(16), 1, 2, 3)
    keys = {
        sealing_key(Secret(b"s" * 32), *where, salt=salt).expose()
        for where in (
            base,
            (b"\1" * 16, 1, 2, 3),
            (bytes(16), 2, 2, 3),
            (bytes(16), 1, 3, 2),
            (bytes(16), 1, 2, 4),
        )
        for salt in (b"", b"salt")
    }
    assert len(keys) == 10
    key, plain = Secret(b"k" * 32), Secret(b"plain")
    box = seal(key, plain, associated_data(*base, b"public"), bytes(12))
    assert unseal(key, box, associated_data(*base, b"public"), sender=2) == plain
    for other in (
        associated_data(b"\1" * 16, 1, 2, 3, b"public"),
        associated_data(bytes(16), 2, 2, 3, b"public"),
        associated_data(bytes(16), 1, 4, 3, b"public"),
        associated_data(bytes(16), 1, 2, 4, b"public"),
        associated_data(*base, b"other"),
    ):
        with pytest.raises(ProtocolError, match="do not open") as refusal:
            unseal(key, box, other, sender=2)
        assert refusal.value.sender == 2
    for length in range(len(box)):
        with pytest.raises(ProtocolError, match=r"cut short|do not open"):
            unseal(key, box[:length], associated_data(*base, b"public"), sender=2)


def test_a_set_of_more_silos_than_there_can_be_is_refused_unread():
    vote = Vote(*HEAD, b"\3" * 32, 16, 7, frozenset({0}), INPUTS, b"\6" * 32).encode()
    place = vote.index(b"\0\1\1", 33 + 32 + 9)
    huge = vote[:place] + struct.pack(">H", 65535) + b"\xff" * 65535 + vote[place + 3 :]
    with pytest.raises(ProtocolError, match="its set has 65535 bytes, of 65536 silos at most"):
        Vote.decode(huge, 3)


def test_a_message_that_nobody_signed_is_not_read(monkeypatch):
    context = make_round(4)
    vote = Vote(context.session, context.number, 1, b"\3" * 32, 16, 7, frozenset({0}), INPUTS, b"\6" * 32)

    def read(*given):
        raise AssertionError("it was read")

    monkeypatch.setattr(Vote, "_read", read)
    with pytest.raises(ProtocolError, match="its signature is not that of the silo in the roster"):
        receive_signed(Vote, vote.encode() + bytes(64), context, 1)
