"""Known answers of the standards, for everything that the protocols are built of."""

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR, ECB

from silofl.crypto.agreement import KeyPair
from silofl.crypto.identity import Identity, verify
from silofl.crypto.kdf import hkdf
from silofl.crypto.sealing import seal, unseal
from silofl.crypto.secret import Secret
from silofl.errors import ProtocolError
from tests.crypto.naive import keystream

x = bytes.fromhex


@pytest.mark.parametrize(
    ("ikm", "salt", "info", "length", "okm"),
    [
        (  # RFC 5869, A.1
            "0b" * 22,
            "000102030405060708090a0b0c",
            "f0f1f2f3f4f5f6f7f8f9",
            42,
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
        ),
        (  # A.2
            bytes(range(0x50)).hex(),
            bytes(range(0x60, 0xB0)).hex(),
            bytes(range(0xB0, 0x100)).hex(),
            82,
            "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09"
            "da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
        ),
        (  # A.3
            "0b" * 22,
            "",
            "",
            42,
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
        ),
    ],
)
def test_hkdf_rfc_5869(ikm, salt, info, length, okm):
    assert hkdf(Secret(x(ikm)), length, salt=x(salt), info=x(info)).expose() == x(okm)


def test_x25519_rfc_7748_section_5_2():
    scalar = x("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4")
    point = x("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")
    expected = x("c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552")
    assert KeyPair(Secret(scalar)).agree(point).expose() == expected
    k = u = x("09" + "00" * 31)
    for _ in range(1000):
        k, u = KeyPair(Secret(k)).agree(u).expose(), k
    assert k == x("684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51")


def test_x25519_rfc_7748_section_6_1():
    alice = KeyPair.from_private_bytes(Secret(x(ALICE)))
    bob = KeyPair.from_private_bytes(Secret(x(BOB)))
    assert alice.public == x("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
    assert bob.public == x("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
    shared = x("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")
    assert alice.agree(bob.public).expose() == shared == bob.agree(alice.public).expose()


ALICE = "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"
BOB = "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"


@pytest.mark.parametrize(
    "point",
    [
        bytes(32),
        b"\x01" + bytes(31),
        x("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
        x("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
        x("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
        x("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
        x("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    ],
)
def test_points_of_small_order_are_refused(point):
    with pytest.raises(ProtocolError, match="silo 4's X25519 public key gives no secret") as refusal:
        KeyPair(Secret(b"\x42" * 32)).agree(point, sender=4)
    assert refusal.value.sender == 4


@pytest.mark.parametrize("length", [0, 31, 33])
def test_x25519_keys_of_other_lengths_are_refused(length):
    with pytest.raises(ProtocolError):
        KeyPair(Secret(b"\x42" * 32)).agree(bytes(length))
    with pytest.raises(ProtocolError):
        KeyPair.from_private_bytes(Secret(bytes(length)))


@pytest.mark.parametrize(
    ("seed", "public", "message", "signature"),
    [
        (  # RFC 8032, section 7.1, test 1
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
            "d25bf5f0595bbe24655141438e7a100b",
        ),
        (  # test 2
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c"
            "387b2eaeb4302aeeb00d291612bb0c00",
        ),
        (  # test 3
            "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
            "af82",
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc659"
            "4a7c15e9716ed28dc027beceea1ec40a",
        ),
    ],
)
def test_ed25519_rfc_8032(seed, public, message, signature):
    one = Identity.from_private_bytes(x(seed))
    assert one.public == x(public)
    assert one.sign(x(message)) == x(signature)
    assert verify(x(public), x(signature), x(message))
    assert not verify(x(public), x(signature), x(message) + b"\0")
    assert not verify(x(public), x(signature)[:-1], x(message))
    assert not verify(x(public)[:-1], x(signature), x(message))


def test_chacha20_poly1305_rfc_8439_section_2_8_2():
    key = Secret(bytes(range(0x80, 0xA0)))
    nonce = x("070000004041424344454647")
    associated = x("50515253c0c1c2c3c4c5c6c7")
    plain = (
        b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, "
        b"sunscreen would be it."
    )
    box = seal(key, Secret(plain), associated, nonce)
    assert box[:12] == nonce
    assert box[12:28] == x("d31a8d34648e60db7b86afbc53ef7ec2")
    assert box[-16:] == x("1ae10b594f09e26a7e902ecbd0600691")
    assert unseal(key, box, associated, sender=1).expose() == plain


def test_chacha20_keystream_rfc_8439_appendix_a_1():
    stream = keystream("chacha20", bytes(32), 128)
    assert stream[:32] == x("76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7")
    assert stream[64:96] == x("9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed")


@pytest.mark.parametrize(
    ("key", "block"),
    [  # FIPS 197, appendix C.1 and C.3
        ("000102030405060708090a0b0c0d0e0f", "69c4e0d86a7b0430d8cdb78070b4c55a"),
        (bytes(range(32)).hex(), "8ea2b7ca516745bfeafc49904b496089"),
    ],
)
def test_aes_fips_197(key, block):
    encryptor = Cipher(AES(x(key)), ECB()).encryptor()
    assert encryptor.update(x("00112233445566778899aabbccddeeff")) == x(block)


@pytest.mark.parametrize(
    ("key", "first"),
    [  # SP 800-38A, F.5.1 and F.5.5
        ("2b7e151628aed2a6abf7158809cf4f3c", "874d6191b620e3261bef6864990db6ce"),
        (
            "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4",
            "601ec313775789a5b7a7f504bbf3d228",
        ),
    ],
)
def test_aes_ctr_sp_800_38a(key, first):
    counter = x("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
    encryptor = Cipher(AES(x(key)), CTR(counter)).encryptor()
    assert encryptor.update(x("6bc1bee22e409f96e93d7e117393172a")) == x(first)


@pytest.mark.parametrize("prg", ["aes-128-ctr", "aes-256-ctr"])
def test_the_reference_keystream_is_the_cipher_of_block_numbers(prg):
    key = bytes(range(16 if prg == "aes-128-ctr" else 32))
    encryptor = Cipher(AES(key), ECB()).encryptor()
    blocks = [encryptor.update(number.to_bytes(16)) for number in range(300)]
    assert keystream(prg, key, 300 * 16 - 5) == b"".join(blocks)[:-5]
