"""Keystreams are the standards' bytes at any position and length, on every path."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from silofl_kernels import KEY_BYTES, Stream, keystream
from silofl_kernels.cpu.aes import FIRST_SLOT, aes_schedules
from silofl_kernels.cpu.chacha import chacha_schedules
from silofl_kernels.cpu.streams import keystream_from
from silofl_kernels.prg import CHACHA_STREAM_BYTES

from . import naive

LENGTH = 6000


def reference(prg: str, key: bytes, length: int) -> bytes:
    """OpenSSL's stream; its ChaCha20 takes the counter and the nonce as one value of 16 bytes."""
    aes = prg.startswith("aes")
    cipher = Cipher(algorithms.AES(key), modes.CTR(bytes(16))) if aes else openssl_chacha(key)
    return cipher.encryptor().update(bytes(length))


def openssl_chacha(key: bytes) -> Cipher:
    return Cipher(algorithms.ChaCha20(key, bytes(16)), None)


def stream_bytes(prg: str, key: bytes, position: int, length: int) -> bytes:
    out = np.full(length + 2, 0xA5, np.uint8)
    keystream(Stream(prg, key), out[1:-1], position=position)
    assert out[0] == out[-1] == 0xA5
    return out[1:-1].tobytes()


@pytest.mark.covering(0)
def test_openssl_agrees_anywhere(prg: str) -> None:
    key = np.random.default_rng(1).bytes(KEY_BYTES[prg])
    whole = reference(prg, key, LENGTH)

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.integers(0, LENGTH), st.integers(0, 2500))
    def check(position: int, length: int) -> None:
        length = min(length, LENGTH - position)
        assert stream_bytes(prg, key, position, length) == whole[position : position + length]

    check()


def test_the_standards_in_plain_python_agree(prg: str) -> None:
    key = bytes(range(KEY_BYTES[prg]))
    if prg == "chacha20":
        plain = b"".join(naive.chacha_block(key, i) for i in range(20))
    else:
        plain = naive.aes_ctr(key, 700)
    assert stream_bytes(prg, key, 0, 700) == plain[:700]


def test_positions_beyond_four_gigabytes(prg: str) -> None:
    key, block = bytes(KEY_BYTES[prg]), (1 << 32) - 70
    if prg == "chacha20":
        want = b"".join(naive.chacha_block(key, block + i) for i in range(70))
        assert stream_bytes(prg, key, 64 * block, 70 * 64) == want
    else:
        want = naive.aes_ctr(key, 16 * 100, initial=block)
        assert stream_bytes(prg, key, 16 * block, 16 * 100) == want


def test_chacha20_ends_at_256_gib() -> None:
    stream, out = Stream("chacha20", bytes(32)), np.zeros(65, np.uint8)
    keystream(stream, out[:64], position=CHACHA_STREAM_BYTES - 64)
    for position in (CHACHA_STREAM_BYTES - 64, CHACHA_STREAM_BYTES, -1):
        with pytest.raises(ValueError, match="stream"):
            keystream(stream, out, position=position)


SP_800_38A = {
    "2b7e151628aed2a6abf7158809cf4f3c": (  # F.5.1, CTR-AES128.Encrypt
        "ec8cdf7398607cb0f2d21675ea9ea1e4362b7c3c6773516318a077d7fc5073ae"
        "6a2cc3787889374fbeb4c81b17ba6c44e89c399ff0f198c6d40a31db156cabfe"
    ),
    "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4": (  # F.5.5, CTR-AES256.Encrypt
        "0bdf7df1591716335e9a8b15c860c5025a6e699d536119065433863c8f657b94"
        "1bc12c9c01610d5d0d8bd6a3378eca622956e1c8693536b1bee99c73a31576b6"
    ),
}


@pytest.mark.parametrize("key", SP_800_38A)
@pytest.mark.parametrize("path", ["vaes512", "vaes256", "aesni", "portable"])
def test_sp_800_38a_counter_examples(key: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from silofl_kernels.cpu import features

    if path not in features.available("aes"):
        pytest.skip(f"this processor has no {path}")
    monkeypatch.setenv(features.FORCE_VARIABLE, path)
    prepared = aes_schedules([bytes.fromhex(key)], bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"))
    assert int(prepared[0, FIRST_SLOT]) == 0xF8F9FAFBFCFDFEC0
    out = np.zeros(64, np.uint8)
    keystream_from(prepared, "aes", out, 16 * 0x3F)
    assert out.tobytes().hex() == SP_800_38A[key]


def test_fips_197_appendix_c() -> None:
    text = bytes.fromhex("00112233445566778899aabbccddeeff")
    for size, want in ((16, "69c4e0d86a7b0430d8cdb78070b4c55a"), (32, "8ea2b7ca516745bfeafc49904b496089")):
        key = bytes(range(size))
        assert naive.aes_block(key, text).hex() == want
        round_keys = b"".join(map(bytes, naive.aes_round_keys(key)))
        both = aes_schedules([bytes(size), key])  # the second of two keys that are expanded side by side
        assert both[1, : len(round_keys) // 8].tobytes() == round_keys


def test_rfc_8439_section_2_4_2(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key stream printed there: nonce 000000000000004a00000000, from block 1."""
    want = (
        "224f51f3401bd9e12fde276fb8631ded8c131f823d2c06e27e4fcaec9ef3cf788a3b0aa372600a92b57974cded2b9334794cba40"
        "c63e34cdea212c4cf07d41b769a6749f3f630f4122cafe28ec4dc47e26d4346d70b98c73f3e9c53ac40c5945398b6eda1a832c89"
        "c167eacd901d7e2bf363"
    )
    prepared = chacha_schedules([bytes(range(32))], bytes.fromhex("000000000000004a00000000"))
    for path in ("vector", "portable"):
        monkeypatch.setenv("SILOFL_KERNEL_PATH", path)
        out = np.zeros(114, np.uint8)
        keystream_from(prepared, "chacha", out, 64)
        assert out.tobytes().hex() == want


def test_a_key_never_shows() -> None:
    key = b"0123456789abcdef0123456789ABCDEF"
    stream = Stream("chacha20", key)
    shown = repr(stream) + str(stream) + f"{stream}"
    assert shown == "Stream('chacha20')" * 3
    with pytest.raises(TypeError, match="a secret stream"):
        pickle.dumps(stream)
    with pytest.raises(ValueError, match="32 bytes") as caught:
        Stream("aes-256-ctr", key[:31])
    assert "0123" not in str(caught.value)
    with pytest.raises(ValueError, match="no generator"):
        Stream("aes-192-ctr", key)


def test_only_a_writable_byte_vector_is_filled() -> None:
    stream = Stream("aes-128-ctr", bytes(16))
    frozen = np.zeros(4, np.uint8)
    frozen.flags.writeable = False
    for out in (np.zeros(4, np.uint16), np.zeros((2, 2), np.uint8), np.zeros(8, np.uint8)[::2], frozen):
        with pytest.raises(ValueError, match="keystream fills"):
            keystream(stream, out)
