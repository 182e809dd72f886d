"""Keys of a silo's noise: found again by the same silo in the same run, and by nobody else."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import pickle
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.poly1305 import Poly1305

from silofl.crypto.kdf import key_info
from silofl.crypto.noise_keys import NONCE_BYTES, NoiseKeys, new_nonce
from silofl.crypto.secret import Secret
from silofl_kernels import Stream, keystream

OWN, NONCE, RUN = bytes(range(32)), bytes(NONCE_BYTES), bytes([9] * 16)


def first_bytes(stream: Stream) -> bytes:
    out = np.empty(32, np.uint8)
    keystream(stream, out)
    return out.tobytes()


def test_a_stream_is_that_of_hkdf_with_everything_in_its_info() -> None:
    """RFC 5869: salt is the nonce; run, purpose, attempt, round and silo are in the info."""
    session = (16).to_bytes(4) + RUN + (8).to_bytes(4) + (3).to_bytes(8)
    info = key_info("noise: coins", session, 7, 2)
    key = HKDF(SHA256(), 16, NONCE, info).derive(OWN)
    stream = NoiseKeys(Secret(OWN), NONCE, 2, run=RUN).stream("coins", 7, 3)
    assert first_bytes(stream) == first_bytes(Stream("aes-128-ctr", key))


def test_no_two_uses_share_a_stream() -> None:
    seen = {
        first_bytes(NoiseKeys(Secret(own), nonce, silo, run=run).stream(purpose, number, attempt))
        for own, nonce, silo, run, purpose, number, attempt in itertools.product(
            *((OWN, bytes(32)), (NONCE, bytes([1] * NONCE_BYTES)), (0, 1), (RUN, bytes(16))),
            *(("noise", "rounding"), (1, 2), (0, 1)),
        )
    }
    assert len(seen) == 2**7
    assert new_nonce() != new_nonce()


def test_keys_do_not_show() -> None:
    keys = NoiseKeys(Secret(OWN), NONCE, 2, run=RUN)
    assert OWN.hex() not in repr(keys)
    assert "0x" in repr(keys)
    with pytest.raises(TypeError, match="never pickled"):
        pickle.dumps(keys)
    with pytest.raises(ValueError, match="16 bytes, not 3"):
        NoiseKeys(Secret(OWN), b"abc", 2, run=RUN)


@pytest.mark.parametrize("values", [np.arange(5000, dtype=np.uint32), np.ones(7, np.float32), np.empty(0)])
def test_a_tag_is_an_hmac_of_a_hash_under_keys_of_its_own(values: Any) -> None:
    keys = NoiseKeys(Secret(bytes(32)), bytes(16), 3, run=RUN)
    once, key = (keys._derive(purpose, 5, 1, 32).expose() for purpose in ("hash", "tag"))
    short = Poly1305.generate_tag(once, values.tobytes())
    assert keys.tag(5, 1, values) == hmac.new(key, short, hashlib.sha256).hexdigest()
    others = {keys.tag(5, 1, values), keys.tag(5, 2, values), keys.tag(6, 1, values)}
    others |= {NoiseKeys(Secret(bytes(32)), bytes(16), 4, run=RUN).tag(5, 1, values)}
    assert len(others) == 4
    if values.size:
        values = values.copy()
        values[-1] += 1
        assert keys.tag(5, 1, values) not in others
