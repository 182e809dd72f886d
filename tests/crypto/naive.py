"""Masks from the standards' ciphers through OpenSSL: slow, short and independent of the kernels."""

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES, ChaCha20
from cryptography.hazmat.primitives.ciphers.modes import CTR

DTYPES = {8: np.dtype("<u1"), 16: np.dtype("<u2"), 32: np.dtype("<u4")}


def keystream(prg, key, count):
    """The first `count` bytes of the keystream, block counter from 0."""
    cipher = Cipher(ChaCha20(key, bytes(16)), None) if prg == "chacha20" else Cipher(AES(key), CTR(bytes(16)))
    return cipher.encryptor().update(bytes(count))


def mask_words(masks, bits, length):
    """uintB (length,): the sum of the masks with their signs."""
    total = np.zeros(length, DTYPES[bits])
    for key, sign in zip(masks.expose(), masks.signs, strict=True):
        words = np.frombuffer(keystream(masks.prg, key, length * bits // 8), DTYPES[bits])
        total = total + words if sign == 1 else total - words
    return total
