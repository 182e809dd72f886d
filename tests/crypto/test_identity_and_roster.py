"""Identities on disk, the roster that knows them, and the session that a run is bound to."""

import base64
import json
import stat

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from silofl.crypto.framing import Inbox, Reader, outbox, pack_set
from silofl.crypto.identity import Identity, verify
from silofl.crypto.roster import Institution, Roster
from silofl.crypto.session_id import session_id, session_nonce
from silofl.errors import ConfigError, ProtocolError, StorageError


@pytest.mark.parametrize("passphrase", [None, b"correct horse"])
def test_an_identity_survives_its_file(tmp_path, passphrase):
    one, path = Identity.generate(), tmp_path / "north.key"
    one.save(path, passphrase)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (b"ENCRYPTED" in path.read_bytes()) == (passphrase is not None)
    again = Identity.load(path, passphrase)
    assert again.public == one.public
    assert verify(one.public, again.sign(b"message"), b"message")


def test_key_files_are_refused_with_a_reason(tmp_path):
    path = tmp_path / "north.key"
    Identity.generate().save(path, b"correct")
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="never overwritten"):
        Identity.generate().save(path)
    assert path.read_bytes() == before
    for wrong in (None, b"wrong"):
        with pytest.raises(ConfigError, match="not a key that this passphrase opens"):
            Identity.load(path, wrong)
    plain = tmp_path / "plain.key"
    Identity.generate().save(plain)
    with pytest.raises(ConfigError, match="not a key that this passphrase opens"):
        Identity.load(plain, b"needless")
    plain.chmod(0o640)
    with pytest.raises(ConfigError, match=r"may be read by others \(mode 0640\); run `chmod 600"):
        Identity.load(plain)
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        Identity.load(tmp_path / "none.key")
    with pytest.raises(StorageError, match="cannot be written"):
        Identity.generate().save(tmp_path / "no" / "such" / "folder.key")
    garbage = tmp_path / "garbage.key"
    garbage.touch(0o600)
    garbage.write_bytes(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    with pytest.raises(ConfigError, match="not a key"):
        Identity.load(garbage)


def test_keys_of_another_kind_are_refused(tmp_path):
    path = tmp_path / "x25519.key"
    path.touch(0o600)
    path.write_bytes(
        X25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    with pytest.raises(ConfigError, match="does not hold an Ed25519 private key"):
        Identity.load(path)


def people(count=3):
    return [Identity.from_private_bytes(bytes([k + 1]) * 32) for k in range(count)]


def named(count=3):
    names = ['Charité "Berlin"', "north\\west", "plain"]
    return Roster(tuple(Institution(names[k], one.public) for k, one in enumerate(people(count))))


@pytest.mark.parametrize("kind", ["toml", "json"])
def test_a_roster_survives_its_file(tmp_path, kind):
    path = tmp_path / f"roster.{kind}"
    path.write_text(named().dumps(as_json=kind == "json"), encoding="utf-8")
    again = Roster.load(path)
    assert again == named()
    assert again.digest == named().digest
    assert [again.silo_of(one.public) for one in people()] == [0, 1, 2]
    assert again.verify(1, people()[1].sign(b"m"), b"m")
    assert not again.verify(0, people()[1].sign(b"m"), b"m")


def test_keys_in_base64_and_hex_are_the_same(tmp_path):
    path = tmp_path / "roster.json"
    entries = [
        {"name": one.name, "key": base64.b64encode(one.key).decode() if k else one.key.hex().upper()}
        for k, one in enumerate(named().institutions)
    ]
    path.write_text(json.dumps({"silo": entries}))
    assert Roster.load(path).digest == named().digest


def test_the_digest_knows_names_keys_and_order():
    one, two, three = named().institutions
    digests = {
        Roster(members).digest
        for members in (
            (one, two, three),
            (two, one, three),
            (one, two),
            (Institution("other", one.key), two, three),
        )
    }
    assert len(digests) == 4


KEY = "aa" * 32


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r"no \[\[silo\]\] entries"),
        ("silo = 3", r"no \[\[silo\]\] entries"),
        ("[[silo]\n", "cannot be parsed"),
        ('[[silo]]\nname = "a"\n', "silo 0: an entry has exactly `name` and `key`"),
        (f'[[silo]]\nname = "a"\nkey = "{KEY}"\nport = 1\n', "silo 0: an entry has exactly"),
        (f'[[silo]]\nname = ""\nkey = "{KEY}"\n', "silo 0: `name` must be"),
        (f'[[silo]]\nname = 7\nkey = "{KEY}"\n', "silo 0: `name` must be"),
        (f'[[silo]]\nname = "a\\u0007"\nkey = "{KEY}"\n', "silo 0: `name` must be"),
        ('[[silo]]\nname = "a"\nkey = 7\n', "silo 0: `key` must be text"),
        ('[[silo]]\nname = "a"\nkey = "%%%"\n', "silo 0: `key` is neither hex nor base64"),
        (f'[[silo]]\nname = "a"\nkey = "{"zz" * 32}"\n', "silo 0: `key` is neither hex nor base64"),
        ('[[silo]]\nname = "a"\nkey = "AAAA"\n', "silo 0: an Ed25519 public key has 32 bytes, not 3"),
        (
            f'[[silo]]\nname = "a"\nkey = "{KEY}"\n[[silo]]\nname = "b"\nkey = "{KEY}"\n',
            "silos 0 and 1 of the roster have the same key",
        ),
        (
            f'[[silo]]\nname = "a"\nkey = "{KEY}"\n[[silo]]\nname = "a"\nkey = "{"bb" * 32}"\n',
            "silos 0 and 1 of the roster have the same name, a",
        ),
    ],
)
def test_a_bad_roster_is_refused_in_one_sentence(tmp_path, text, words):
    path = tmp_path / "roster.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        Roster.load(path)


def test_other_rosters_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        Roster.load(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b"\xe4\xf6")
    with pytest.raises(ConfigError, match="cannot be parsed"):
        Roster.load(tmp_path / "latin.toml")
    with pytest.raises(ConfigError, match="empty"):
        Roster(())
    with pytest.raises(ConfigError, match="is not in the roster"):
        named(2).silo_of(people()[2].public)


def test_ephemeral_identities_make_a_roster_of_one_run():
    roster = Roster.ephemeral([one.public for one in people()])
    assert [one.name for one in roster.institutions] == ["silo-0", "silo-1", "silo-2"]
    with pytest.raises(ConfigError, match="silo 1: an Ed25519 public key has 32 bytes"):
        Roster.ephemeral([people()[0].public, b"short"])


def test_every_silo_s_nonce_is_in_the_session():
    nonces = {k: session_nonce() for k in range(3)}
    session = session_id(nonces)
    assert len(session) == 16
    assert session == session_id(dict(reversed(nonces.items())))
    for k in range(3):
        assert session_id({**nonces, k: session_nonce()}) != session
    with pytest.raises(ProtocolError, match="silo 1's session nonce has 3 bytes") as refusal:
        session_id({**nonces, 1: b"abc"})
    assert refusal.value.sender == 1


def test_messages_to_and_from_collectives():
    assert Inbox.of([b"a", b"", b"c"]) == {0: b"a", 2: b"c"}
    assert Inbox.of([b"a", b"", b"c"], [4, 5, 9]) == {4: b"a", 9: b"c"}
    assert outbox({4: b"a", 9: b"c"}, [4, 5, 9]) == [b"a", b"", b"c"]
    with pytest.raises(ValueError):
        Inbox.of([b"a"], [1, 2])


def test_sets_of_silos_have_one_form():
    for silos in (set(), {0}, {7}, {8}, {0, 3, 300}):
        assert Reader(pack_set(silos), 0).silos() == silos
    with pytest.raises(ProtocolError, match="padded"):
        Reader(b"\0\2\1\0", 5).silos()
    with pytest.raises(ProtocolError, match="silo 5's message is refused: it is truncated"):
        Reader(b"\0\2\1", 5).silos()
